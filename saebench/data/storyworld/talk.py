"""Conversations, memories, endings and questions, and the order of a tale."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import tale
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld.entities import Codes, Person, Thing
from saebench.data.storyworld.lexicon import BY_TEXT
from saebench.data.storyworld.rng import Weighted
from saebench.data.storyworld.world import SPOTS, THING_CLASS, World

VERBS_FOR = {kind: tuple(names.split()) for kind, names in things.THING_VERBS.items()}
TRAITS = {name: (lex.ADJECTIVES[name],) for name in tale.TRAIT_WORDS}
WHEN = tuple(lex.pieces(x) for x in ("tomorrow", "tonight", "before supper", "after lunch", "next week", "soon", "on Sunday"))


def _home(a: Person) -> Codes:
    return (lex.NAMES[a.home],)


def ask(w: World, a: Person) -> None:
    """Let somebody ask what the text has told, and be answered."""
    b = w.other(a)
    if b is None:
        return tale.sky(w, a)
    lying = [o for o in w.things if o.place and o.seen and not o.animal]
    held = [o for o in w.things if o.owner is not None and o.owner is not a and o.seen and not o.animal]
    kind = w.below(5)
    if kind == 0 and lying:
        o = w.pick(lying)
        w.say("askwhere", a=a, b=b, o=o)
        w.say("tellwhere", where=ph.SPOT_WORDS[o.place])
    elif kind <= 1 and held:
        o = w.pick(held)
        w.say("askwho", a=a, b=b, o=o)
        w.say("tellme" if o.owner is b else "tellwho", c=o.owner)
    elif kind == 2 and b.work:
        w.say("askwork", a=a, b=b)
        w.say("tellwork", an_job2=ph.job(b))
        b.told.add("work")
    elif kind == 3 and w.chance(50):
        w.say("askage", a=a, b=b)
        w.say("tellage", years2=ph.years(w, b))
        b.told.add("age")
    else:
        w.say("askhome", a=a, b=b)
        w.say("tellhome", home2=_home(b))
        b.told.add("home")
    return None


def chat(w: World, a: Person) -> None:
    """Let somebody greet, order, plan, judge or quarrel."""
    b = w.other(a)
    if b is None:
        return tale.sky(w, a)
    c, o = w.other(a, b), _some_thing(w, a)
    kind = w.below(6)
    if kind == 0 or o is None:
        w.say("greet", a=a, b=b)
        w.say("reply", a=a, b=b)
        return None
    common = {"a": a, "b": b, "o": o, "v": w.pick(VERBS_FOR[o.sort]), "p": SPOTS[w.some_place()]}
    w.env["place"] = SPOTS[w.place]
    if kind == 1:
        w.say("order", **common)
    elif kind == 2:
        w.say("plan", when2=w.pick(WHEN), **common)
    elif kind == 3 and c is not None and "trait" in c.told:
        w.say("opinion", c=c, trait3=TRAITS[c.trait], **common)
    elif kind == 4:
        w.say("argue", count=ph.count(w, 2, 9), **common)
    else:
        w.say("reply", a=a, b=b)
    return None


def _some_thing(w: World, a: Person) -> Thing | None:
    seen = [o for o in w.things if o.seen and not o.animal]
    return w.pick(seen) if seen else None


def memories(w: World) -> list[tuple[str, Person | None, Thing | None]]:
    """Return everything that the text has told and that still is so: kind, person, thing."""
    found: list[tuple[str, Person | None, Thing | None]] = []
    for o in w.things:
        if o.seen and not o.animal:
            if o.owner is not None:
                found.append(("owner", o.owner, o))
            elif o.place:
                found.append(("place", None, o))
    for c in w.people:
        found.extend((kind, c, None) for kind in ("work", "home", "age", "trait") if kind in c.told)
        if "relation" in c.told:
            found.append(("kin", c, None))
    return found


_RECALL = {
    "owner": "recallowner", "place": "recallplace", "work": "recalljob", "home": "recallhome", "age": "recallage",
    "trait": "recalltrait", "kin": "recallkin",
}  # fmt: skip
_QUIZ = {"owner": "question", "work": "questionjob", "home": "questionhome", "age": "questionage"}


def fill(w: World, c: Person | None, o: Thing | None) -> None:
    """Put what is asked about a person or a thing into the slots."""
    env = w.env
    env.update(a=w.people[0], c=c, o=o)
    if c is not None:
        env.update(an_job3=ph.job(c), home3=_home(c), years3=ph.years(w, c), trait3=TRAITS[c.trait])
        if c.relation:
            env["relation3"] = (BY_TEXT[c.relation] | c.index << lex.ENTITY,)
    if o is not None and o.place:
        env["where"] = ph.SPOT_WORDS[o.place]


_LAST = ("owner", "place", "work", "home")


def recall(w: World, a: Person) -> None:
    """Say again what the text told before and what still is so."""
    known = memories(w)
    if not known:
        return tale.sky(w, a)
    kind, c, o = w.pick(known)
    fill(w, c, o)
    if kind in _LAST and w.chance(35) and (kind != "work" or (c is not None and c.work)):
        target: Codes | Person = ()
        if o is not None:
            target = c if c is not None else (lex.NOUNS[o.place].one,)
        elif c is not None:
            target = (lex.NOUNS[c.work].one,) if kind == "work" else _home(c)
        if o is None or c is not None or ph.SPOT_WORDS[o.place][0] == BY_TEXT["in"]:
            w.say("l_" + kind, target=target)
            return None
    if kind == "owner" and c is not None and o is not None and w.chance(15):
        if sum(thing.owner is c and not thing.animal for thing in w.things) == 1:
            w.say("l_thing", target=o.noun)
            return None
    w.say("recallthing" if kind == "owner" and w.chance(35) else _RECALL[kind])
    return None


def quiz(w: World, n: int) -> None:
    """Ask about what the text told, one question a line."""
    known = [m for m in memories(w) if m[0] in _QUIZ]
    for kind, c, o in w.rng.sample(known, n):
        w.newline()
        fill(w, c, o)
        w.set(line_kind="question")
        w.say(_QUIZ[kind], tense="present")
    w.set(line_kind="body")


_ACTIONS = Weighted(
    [
        (tale.hand_over, 11), (tale.gain, 6), (tale.lose, 5), (tale.fetch, 4), (tale.move, 8), (tale.sky, 4), (tale.work, 6),
        (tale.use, 10), (tale.eat, 5), (tale.animal, 5), (tale.feel, 9), (tale.fact, 5), (ask, 10), (chat, 9), (recall, 9),
    ]
)  # fmt: skip


def act(w: World, table: Weighted[tale.Action] = _ACTIONS) -> None:
    """Let the next thing happen to somebody."""
    a = w.focus
    if w.chance(35):
        a = w.focus = w.pick([p for p in w.people if p is not w.hearer])
    w.weighted(table)(w, a)


def title(w: World) -> None:
    """Write a heading."""
    w.set(line_kind="heading")
    w.say("title")
    w.set(line_kind="body")
    w.newline(2)


def begin(w: World, people: int) -> None:
    """Draw the scene and introduce the first people."""
    ph.scene(w)
    first = w.person()
    w.focus = first
    if w.chance(25):
        w.env.update(a=first, who=ph.job(first, False), person=ph.kind_of(first), p=SPOTS[w.place])
        title(w)
    w.env["place"] = SPOTS[w.place]
    w.env["p"] = SPOTS[w.place]
    if w.chance(75):
        w.say("opening")
    tale.introduce(w, first)
    for _ in range(people - 1):
        if w.chance(60):
            tale.fact(w, w.people[-1])
        if w.chance(60):
            tale.gain(w, w.people[-1])
        tale.introduce(w, w.person())
    tale.gain(w, w.pick(w.people))


def tell(w: World) -> None:
    """Write a tale."""
    w.scene()
    begin(w, w.weighted(_CAST))
    length = 9 + w.below(34)
    left = 3 + w.below(5)
    for _ in range(length):
        if left <= 0:
            w.newline(w.gap)
            left = 3 + w.below(5)
        left -= 1
        act(w)
    finish(w)


_CAST = Weighted([(2, 5), (3, 6), (4, 3), (5, 1)])


def finish(w: World) -> None:
    """Write an ending, with questions now and then."""
    a = w.people[0]
    mine = [o for o in w.things if o.owner is a and not o.animal]
    if w.chance(40):
        w.env.update(an_x=ph.an(w.pick(tuple(THING_CLASS))), beastsp=w.pick(ph.BEASTS)[1], weekday=w.pick(ph.WEEKDAYS))
        w.say("moral", trait=TRAITS[w.pick(tale.TRAIT_WORDS)], tense="present")
    if mine and w.chance(60):
        o = w.pick(mine)
        w.say("ending", a=a, o=o, b=w.other(a) or a, home=_home(a), place=SPOTS[w.place], time2=w.pick(tale.TIME2))
    else:
        recall(w, a)
    if w.chance(20):
        w.newline()
        quiz(w, 1 + w.below(4))

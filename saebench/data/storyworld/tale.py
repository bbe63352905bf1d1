"""Tales: somebody is introduced, things happen, and what happened is remembered."""

from __future__ import annotations

from collections.abc import Callable

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import rules_tale, rules_talk
from saebench.data.storyworld import vocab_people as people
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld.entities import Person, Thing
from saebench.data.storyworld.lexicon import BY_TEXT
from saebench.data.storyworld.rng import Weighted
from saebench.data.storyworld.world import SOUNDS, SPOTS, WORK, World, allowed

assert rules_tale and rules_talk
TRAIT_WORDS = tuple((people.TRAITS_GOOD + " " + people.TRAITS_BAD).split())
_TRAITS = {name: (lex.ADJECTIVES[name],) for name in TRAIT_WORDS}
_FEMALE_RELATIONS = (*people.FEMALE_KIN, *people.RELATIONS["bond"].split())
_MALE_RELATIONS = (*people.MALE_KIN, *people.RELATIONS["bond"].split())
_SIGHT = tuple(lex.pieces(x) for x in ("at the gate", "in the grass", "under the hedge", "behind the house", "by the water"))
_VERBS_FOR = {kind: tuple(names.split()) for kind, names in things.THING_VERBS.items()}


def introduce(w: World, a: Person) -> None:
    """Say who somebody is."""
    w.env.update(
        a=a,
        job=ph.job(a, False),
        an_age=ph.about_age(w, a),
        home=(lex.NAMES[a.home],),
        child=ph.kind_of(a),
        place=SPOTS[w.place],
        person=ph.kind_of(a),
    )
    w.say("intro" if a.work else "intro_child")
    a.told.update(("work", "home") if a.work else ("home",))
    w.locate(a, w.place)
    if a is not w.people[0] and w.chance(55):
        relate(w, a)


def relate(w: World, a: Person) -> None:
    """Say what somebody is to the first person."""
    taken = {p.relation for p in w.people}
    a.relate(w.pick([r for r in (_FEMALE_RELATIONS if a.female else _MALE_RELATIONS) if r not in taken]))
    a.told.add("relation")
    tag = a.index << lex.ENTITY
    w.say("relation", a=a, b=w.people[0], relation=(BY_TEXT[a.relation] | tag,))


def fact(w: World, a: Person) -> None:
    """Tell trait, age or who is older."""
    w.env.update(a=a, home=(lex.NAMES[a.home],), person=ph.kind_of(a))
    b = w.other(a)
    if "trait" not in a.told and w.chance(50):
        w.say("trait", trait=_TRAITS[a.trait], an_trait=ph.an(a.trait, True))
        a.told.add("trait")
    elif "age" not in a.told:
        w.say("age", years=ph.years(w, a))
        a.told.add("age")
    elif b is not None and "age" in b.told and b.age != a.age:
        old, young = (a, b) if a.age > b.age else (b, a)
        w.say("elder", a=old, b=young, years=ph.years(w, old), years2=ph.years(w, young))
    else:
        sky(w, a)


def gain(w: World, a: Person) -> None:
    """Give somebody something new."""
    if len(w.entities) >= w.most:
        return use(w, a)
    o = w.thing(kind=WORK[a.work][2] if a.work and w.chance(30) else "", owner=a)
    found = w.chance(35)
    w.say(
        "find" if found else "has",
        a=a,
        o=o,
        place=SPOTS[w.place],
        count=ph.count(w, 2, 20),
        coins=w.pick(ph.COINS),
        beastsp=w.pick(ph.BEASTS)[1],
        colour=w.pick(ph.COLOURS),
    )
    w.own(o, a)
    o.told.add("owner")
    w.reason = ("found", a, None, o)


def _owned(w: World, a: Person) -> list[Thing]:
    return [o for o in w.things if o.owner is a and not o.animal and o.seen]


def hand_over(w: World, a: Person) -> None:
    """Let a thing change hands."""
    b = w.other(a)
    mine = _owned(w, a)
    if b is None or not mine:
        return gain(w, a)
    o = w.pick(mine)
    how = w.weighted(_WAYS)
    if how == "steal":
        w.say("steal", a=b, b=a, o=o)
        w.reason = ("robbed", a, b, o)
    elif how == "offer":
        w.say("offer", a=a, b=b, o=o)
        w.reason = ("got", b, a, o)
    else:
        w.say(how, a=a, b=b, o=o, count=ph.count(w, 2, 40), coins=w.pick(ph.COINS), fruits=w.pick(ph.PLURAL_FRUITS))
        w.reason = ("got", b, a, o) if how == "give" else ("", b, a, o)
    w.own(o, b)
    return None


_WAYS = Weighted([("give", 10), ("sell", 4), ("steal", 3), ("offer", 3)])


def lose(w: World, a: Person) -> None:
    """Let somebody lose or put down a thing."""
    mine = _owned(w, a)
    if not mine:
        return gain(w, a)
    o = w.pick(mine)
    away = w.chance(25)
    w.say("lose" if away else "putin", a=a, o=o, place=SPOTS[w.place])
    if away:
        w.own(o, None)
        w.reason = ("lost", a, None, o)
    w.locate(o, w.place)
    return None


def fetch(w: World, a: Person) -> None:
    """Let somebody get back what lies somewhere."""
    lying = [o for o in w.things if o.place and not o.animal]
    if not lying:
        return lose(w, a)
    o = w.pick(lying)
    a = o.owner or a
    where = o.place
    w.say("fetch", a=a, o=o, place=SPOTS[where])
    w.go(where)
    w.locate(a, where)
    w.own(o, a)
    w.locate(o, "")
    return None


def move(w: World, a: Person) -> None:
    """Change the scene."""
    old, new = w.place, w.some_place()
    b = w.other(a)
    if b is not None and w.chance(40):
        w.say("moveboth", a=a, b=b, p=SPOTS[new], place=SPOTS[old])
        w.locate(b, new)
    else:
        w.say("move", a=a, p=SPOTS[new], place=SPOTS[old], weekday=w.pick(ph.WEEKDAYS))
    w.locate(a, new)
    w.go(new)


def sky(w: World, a: Person) -> None:
    """Talk about the weather, or let time go by."""
    kind = w.below(3)
    if kind == 0:
        w.say("weathertalk", a=a, count=ph.count(w, 2, 9))
    elif kind == 1:
        w.climate(time=w.pick(("morning", "noon", "afternoon", "evening", "night")))
        ph.scene(w)
        w.say("timepass", a=a, count=ph.count(w, 2, 12), place=SPOTS[w.place])
    else:
        w.climate(weather=w.weather_today(), time="morning")
        ph.scene(w)
        w.say("nextday", a=a, count=ph.count(w, 2, 12), weekday=w.pick(ph.WEEKDAYS))


def work(w: World, a: Person) -> None:
    """Let somebody do what their occupation is."""
    if not a.work or "work" not in a.told:
        return fact(w, a)
    workplace = WORK[a.work][0]
    w.say("work", a=a, wp=SPOTS[workplace], job=ph.job(a, False), an_job=ph.job(a), does=ph.DOES[a.work])
    w.go(workplace)
    w.locate(a, workplace)
    return None


def use(w: World, a: Person) -> None:
    """Let somebody use a thing, or describe it."""
    mine = _owned(w, a)
    if not mine:
        return work(w, a) if len(w.entities) >= w.most else gain(w, a)
    o = w.pick(mine)
    if w.chance(60):
        w.say(
            "use",
            a=a,
            o=o,
            b=w.other(a) or a,
            v=w.pick(_VERBS_FOR[o.sort]),
            place=SPOTS[w.place],
            count=ph.count(w, 2, 9),
            where1=w.pick(ph.SPOTS1),
        )
    else:
        w.say(
            "describe",
            a=a,
            o=o,
            part=ph.part_of(w, o),
            adj=(lex.ADJECTIVES[o.adjective],),
            an_any=w.pick(ph.JOBS),
            anytown=w.pick(ph.TOWN_CODES),
        )
    return None


def eat(w: World, a: Person) -> None:
    """Let somebody eat, drink or count."""
    b = w.other(a)
    if b is None:
        return sky(w, a)
    fruits = w.pick(ph.PLURAL_FRUITS)
    if w.chance(50):
        w.say("eat", a=a, b=b, count=ph.count(w, 2, 20), fruits=fruits, place=SPOTS[w.place])
    else:
        one, two = 1 + w.below(12) + 1, 2 + w.below(8)
        w.say(
            "count",
            a=a,
            b=b,
            fruits=fruits,
            place=SPOTS[w.place],
            colour=w.pick(ph.COLOURS),
            count=ph.count(w, 2, 30),
            where1=w.pick(ph.SPOTS1),
            n1=ph.number(w, one),
            n2=ph.number(w, two),
            n3=ph.number(w, one + two),
        )
    return None


def animal(w: World, a: Person) -> None:
    """Let an animal come by, or somebody's own."""
    pets = [o for o in w.things if o.animal]
    if pets and w.chance(60):
        o = w.pick(pets)
        w.say("petact", a=a, o=o, sound=SOUNDS[o.lemma], petfood=ph.FOOD_OF[o.lemma], place=SPOTS[w.place])
    elif not pets and w.chance(30) and len(w.entities) < w.most:
        o = w.pet(a)
        w.say("haspet", a=a, o=o, petcolour=(lex.ADJECTIVES[o.colour] | o.index << lex.ENTITY,), petname=_pet_name(w, o))
        w.last_thing = o
    else:
        one, many, food, sound, home, lemma = w.pick(ph.BEASTS)
        colour = ph.an(w.pick(allowed(w.part, lemma, "colour")), True)
        where = ph.SPOT_WORDS[home] if w.chance(60) else w.pick(_SIGHT)
        w.say("animal", a=a, beast=one, beasts=many, sound=sound, beastfood=food, acolour=colour, beastplace=where)


def _pet_name(w: World, o: Thing) -> tuple[int, ...]:
    return o.plain if o.plain[0] != lex.THE else (lex.NAMES[w.pick(things.PET_NAMES)] | o.index << lex.ENTITY,)


def feel(w: World, a: Person) -> None:
    """Let somebody feel something, often because of what just happened."""
    b = w.other(a)
    kind, who, giver, o = w.reason
    if kind and who in w.people and w.chance(70):
        rule = "grief" if kind in ("lost", "robbed") else "joy"
        w.say(rule, a=who, b=b or who, reason=ph.REASON[kind], r=giver, ro=o, count=ph.count(w, 2, 9))
        w.reason = ("", None, None, None)
    elif b is not None:
        if "trait" in b.told:
            w.say("think", a=a, b=b, trait2=_TRAITS[b.trait], time2=w.pick(TIME2))
        else:
            w.say("mood_other", a=a, b=b, trait2=_TRAITS[b.trait])
            b.told.add("trait")
    else:
        sky(w, a)


TIME2 = tuple((BY_TEXT[x],) for x in ("night", "noon", "morning", "evening", "spring", "winter", "summer"))
Action = Callable[[World, Person], None]

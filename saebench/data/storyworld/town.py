"""Chronicles of a town with many people, and plain facts about the world."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import tale, talk
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld.entities import Person, Thing
from saebench.data.storyworld.lexicon import BY_TEXT, NOUNS
from saebench.data.storyworld.rng import Weighted
from saebench.data.storyworld.template import add_rules
from saebench.data.storyworld.world import NAMES, PLACES, SPOTS, THING_CLASS, WORK, World

add_rules("""
# c_open description
These [pres:be@they] the people of {town} .
In the {season} of {year} , {town} [past:have@it] {count} houses , and these people [past:live@they] there .
{town} [past:be@it] a small town <rel where everyone [past:know@it] everyone > .
# c_who description
{a:n} , {an_job} , [own] {o:i} .
{a:n} [be] {an_job} and [have] {o:i} .
{a:n} [work] as {an_job} , and {o:i} [belong@o] to {a:o} .
{o:i} [stand@o] in the house of {a:n} , {an_job} .
# c_where description
{a:n} [live] in {home} and [keep] {o:i} {place:in} .
{a:n} , {years} years old , [leave] {o:i} {place:in} .
{place:in} [stand@o] {o:i} <rel which [belong@o] to {a:n} > .
# f_thing fact
{an_x} [be@it] a kind of {class} .
{an_x} [be@it] {an_class} , and people [use@they] it every day .
People [$v@they] {xs} {where} .
<? What [be@it] {an_x} ? > It [be@it] {an_class} .
Most {xs} [be@they] made of {material} .
You can [base:$v] {an_x} , but you cannot [base:$v] {an_y} .
# f_beast fact
{beasts} [eat@they] {beastfood} .
{an_beast} [be@it] a {kind} . It [live@it] {where} .
{beasts} [$sound@they] , and {beasts2} [$sound2@they] .
<? What do {beasts} [base:eat] ? > They [eat@they] {beastfood} .
{beasts} [live@they] {where} , but {beasts2} [live@they] {where2} .
No {beast} [$sound2@it] like {an_beast2} .
# f_job fact
{an_job} [work@it] {where} .
{an_job} {does} .
<? Who [work@it] {where} ? > {an_job} [do@it] .
<? What do you [base:call] someone <rel who {does} > ? > You [call@they] them {an_job} .
# f_sum fact
{n1} and {n2} [make@they] {n3} .
{n3} less {n2} [be@it] {n1} .
<? How much [be@it] {n1} and {n2} ? > {n3} .
After {n1} [come@it] {n1b} .
# f_time fact
After {season1} [come@it] {season3} .
{day1} [come@it] before {day2} .
In {season1} the days [be@they] ( long | short | cold | warm | wet ) .
# f_order fact
{t1} [be@it] older than {t2} , and {t2} [be@it] older than {t3} . So {t1} [be@it] the oldest .
{t1} [be@it] taller than {t2} , and {t2} [be@it] taller than {t3} . So {t3} [be@it] the shortest .
""")
_YEARS = tuple((BY_TEXT[f"{year}~year"],) for year in range(1700, 1960))
_KINDS = {
    "tool": "tool", "container": "container", "garment": "garment", "instrument": "instrument", "toy": "toy", "light": "light",
    "vehicle": "vehicle", "food": "food", "jewel": "jewellery", "furniture": "furniture", "keepsake": "keepsake",
    "reading": "thing",
}  # fmt: skip
_VERBS_FOR = {kind: tuple(names.split()) for kind, names in things.THING_VERBS.items()}
_THINGS = tuple(THING_CLASS)
_MATTER = tuple((NOUNS[x].one,) for x in things.STUFF["matter"].split()[:9])
_SEASONS, _DAYS = tuple(ph.SEASON_WORD.values()), ph.WEEKDAYS
_CHRONICLE = Weighted(
    [(tale.hand_over, 10), (tale.lose, 3), (tale.fetch, 3), (tale.feel, 4), (talk.ask, 7), (talk.recall, 10), (tale.work, 5)]
)


def settle(w: World, a: Person, o: Thing, place: str = "") -> None:
    """Say in one sentence who somebody is and what they have, or where it stands."""
    w.env.update(a=a, o=o, an_job=ph.job(a), home=(lex.NAMES[a.home],), years=ph.years(w, a))
    if place:
        w.say("c_where", place=SPOTS[place])
        a.told.add("home")
    else:
        w.say("c_who")
        a.told.add("work")
    a.seen = o.seen = True
    w.own(o, a)
    if place:
        w.locate(o, place)


def chronicle(w: World) -> None:
    """Write about many people, and what becomes of their things."""
    w.scene()
    ph.scene(w)
    w.most = 30
    w.say("c_open", year=w.pick(_YEARS), count=ph.count(w, 20, 99))
    used: list[str] = []
    for _ in range(5 + w.below(5)):
        a = w.person("middle" if w.chance(50) else "young")
        o = w.thing(owner=a)
        place = ""
        if w.chance(40):
            place = w.pick([p for p in PLACES if p not in used])
            used.append(place)
        settle(w, a, o, place)
    w.newline(w.gap)
    w.focus = w.pick(w.people)
    left = 5
    for _ in range(10 + w.below(24)):
        if left <= 0:
            w.newline(w.gap)
            left = 3 + w.below(5)
        left -= 1
        talk.act(w, _CHRONICLE)
    if w.chance(40):
        w.newline()
        talk.quiz(w, 2 + w.below(4))


def facts(w: World) -> None:
    """Write what is true of things, animals, work, numbers and seasons."""
    w.scene()
    ph.scene(w)
    w.tense = "present"
    for n in range(14 + w.below(24)):
        if n and w.chance(18):
            w.newline(w.gap)
        _FACTS[w.below(len(_FACTS))](w)


def _thing(w: World) -> None:
    x, y = w.rng.sample(_THINGS, 2)
    kind = THING_CLASS[x]
    verbs = [v for v in _VERBS_FOR[kind] if v not in _VERBS_FOR[THING_CLASS[y]]] or ["wear"]
    label = _KINDS[kind]
    place = w.pick(tuple(PLACES))
    mass = label in ("food", "jewellery", "furniture")
    w.say(
        "f_thing",
        an_x=ph.an(x),
        an_y=ph.an(y),
        xs=(NOUNS[x].many,),
        where=ph.SPOT_WORDS[place],
        v=w.pick(verbs),
        **{"class": (NOUNS[label].one,), "an_class": (NOUNS[label].one,) if mass else ph.an(label)},
        material=w.pick(_MATTER),
    )


def _beast(w: World) -> None:
    one, two = w.rng.sample(ph.BEASTS, 2)
    w.say(
        "f_beast",
        beast=one[0],
        an_beast=ph.an(one[5]),
        an_beast2=ph.an(two[5]),
        beasts=one[1],
        beasts2=two[1],
        beastfood=one[2],
        sound=one[3],
        sound2=two[3],
        where=ph.SPOT_WORDS[one[4]],
        where2=ph.SPOT_WORDS[two[4]],
        kind=(NOUNS[ph.BEAST_KINDS[one[5]]].one,),
    )


def _job(w: World) -> None:
    name = w.pick(tuple(WORK))
    w.say("f_job", an_job=ph.an(name), where=ph.SPOT_WORDS[WORK[name][0]], does=ph.DOES_IT[name])


def _sum(w: World) -> None:
    one, two = 1 + w.below(40), 1 + w.below(40)
    w.say("f_sum", n1=ph.number(w, one), n2=ph.number(w, two), n3=ph.number(w, one + two), n1b=ph.number(w, one + 1))


def _time(w: World) -> None:
    season, day = w.below(4), w.below(7)
    w.say("f_time", season1=_SEASONS[season], season3=_SEASONS[(season + 1) % 4], day1=_DAYS[day], day2=_DAYS[(day + 1) % 7])


def _order(w: World) -> None:
    a, b, c = w.rng.sample(tuple(lex.NAMES[n] for n in NAMES), 3)
    w.say("f_order", t1=(a,), t2=(b,), t3=(c,))


_FACTS = (_thing, _thing, _beast, _beast, _job, _job, _sum, _time, _order)

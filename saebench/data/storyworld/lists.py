"""Recipes, notices and ledgers: texts in lines and lists."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.entities import Codes
from saebench.data.storyworld.lexicon import ADJECTIVES, BY_TEXT, NOUNS
from saebench.data.storyworld.template import add_pool, add_rules
from saebench.data.storyworld.variables import CODES, CTX
from saebench.data.storyworld.world import SPOTS, VESSELS, WORK, World, allowed

add_pool("heat", "over a low fire|over a high fire|in a hot oven|until they are soft|until they are brown|for a few minutes")
add_rules("""
# r_title instruction
{dish} with {x}
How to [base:cook] {dish} with {x}
{dish} and {x} , as they [pres:cook@they] it in {town}
# r_head formula
You need :
What you need :
Take these things :
# r_item formula
{count} {item}
{count} {item} , {adj}
# r_mass formula
{count} ( cups | spoons | handfuls | bowls ) of {item}
a ( cup | pinch | bowl | bit ) of {item}
# r_first instruction
<! [base:wash] the {i1} and [base:chop] them {*manner} . >
<! [base:peel] the {i1} , then [base:slice] them . >
<! [base:cut] the {i1} into {count} pieces . >
# r_put instruction
<! [base:put] the {i1} into a {vessel} . >
<! [base:mix] the {m1} with the {m2} in a {vessel} . >
<! [base:stir] the {m1} into the {vessel} . >
<! [base:pour] {count} cups of {*drink} over the {i1} . >
<! [base:add] the {m1} and the {i2} . >
# r_heat instruction
<! [base:cook] everything {*heat} . >
<! [base:boil] the {i1} for {count} ( minutes | hours ) ( {*manner} | {*heat} | ) . >
<! [base:bake] the {i2} {*heat} . >
<! Do not [base:let] the {m1} ( [base:burn] | [base:boil] | [base:dry] | [base:freeze] | [base:get] cold ) . >
<! [base:stir] often , <sub so that the {i2} [pres:not burn@they] > . >
<sub When the {i1} [pres:be@they] soft , > <! [base:add] the {m2} . >
# r_last instruction good
<! [base:serve] the {dish} in a {vessel} with {m2} . >
<! [base:taste] the {dish} and [base:add] more {m1} <if if it [pres:be@it] needed > . >
<! [base:eat] it warm , with {*drink} and {m2} . >
<fut This will [base:be] enough for {count} people . >
# n_tell transfer bad
On {weekday} {time} {a:n} , {an_job} from {home} , [past:lose] {o:i} {place:in} .
{a:n} , {an_job} from {home} , [pres:look@it] for {o:i} , last seen {place:in} on {weekday} .
# n_found transfer good
On {weekday} {time} {a:n} , {an_job} from {home} , [past:find] {o:i} {place:in} .
# n_reward speech good
<! Please [base:bring] {o:d} to {a:n} {wp:in} . > <fut {a} will [base:pay] {count} {coins} . >
Whoever [pres:find@it] {o:d} [fut:get@it] {count} {coins} from {a:n} .
<! [base:ask] for {a:n} {wp:in} . >
# n_open formula
The {place:n} [be@it] open from {h1} to {h2} .
The {place:n} [be@it] closed on {weekday} and {weekday2} .
On {weekday} the {place:n} [open@it] at {h1} .
<! Please [base:knock] twice . >
# n_rule instruction
<! Do not [base:bring] {beasts} into the {place:n} . >
<must Visitors must [base:leave] by {h2} . >
<must Children must not [base:touch] the {tools} . >
<! [base:keep] the {place:n} clean . >
<may You may [base:borrow] {count} {tools} for {count2} days . >
No {beasts} , no {tools} , no {fruits} .
<! [base:wash] your hands before you [pres:enter@you] . >
# n_sale formula
For sale {place:in} of {town} , {weekday} at {h1} :
On {weekday} {a:n} , {an_job} , [pres:sell@it] these things {place:in} :
# n_price formula
{o:i} , {count} {coins}
{count2} {fruits} , {count} {coins}
{o:i} ( almost new | very old | in good order ) , {count} {coins}
# n_event formula
On {weekday} there [fut:be@it] a {event} {place:in} of {town} . It [pres:begin@it] at {h1} .
Everyone [be@it] welcome . {a:n} [fut:bring@it] {*drink} and {*dish} .
The {event} [be@it] for young and old .
<if If it [pres:rain@it] , > the {event} [fut:be@it] in the {shelter} .
# l_head formula
Ledger of {a:n} , {job} in {home}
What {a:n} , {job} , [past:buy] and [past:sell] in {month}
""")
_VESSELS = tuple((NOUNS[x].one,) for x in VESSELS)
_MASS = tuple((NOUNS[x].one,) for x in things.STUFF["food"].split())
_DISHES = tuple((NOUNS[x].one,) for x in ("soup", "porridge", "cake", "pie", "tart", "pancake", "stew") if x in NOUNS)
_FRESH = tuple((ADJECTIVES[x],) for x in ("fresh", "big", "small", "cold", "warm", "clean", "red", "green"))
_HOURS = tuple((ph.NUMBER_WORDS[n][0],) for n in range(1, 13))
_EVENTS = tuple((NOUNS[x].one,) for x in ("feast", "race", "wedding", "festival", "game", "lesson"))
_SHELTERS = tuple((NOUNS[x].one,) for x in ("barn", "inn", "school", "church", "theatre", "castle"))
_TOOLS = tuple((NOUNS[x].many,) for k in ("tool", "reading", "toy", "container") for x in things.THINGS[k].split())
_MONTHS = tuple((BY_TEXT[x],) for x in words.MONTHS.split())
_FRUITS = tuple(things.THINGS["food"].split())
_DASH = (lex.form("-", "list_mark"),)
_BAR = lex.form("|", "list_mark")
_LINE, _ITEM, _POSITION = CTX["line_kind"], CODES["line_kind"]["item"], CTX["list_position"]


def _item(w: World, n: int, mark: Codes) -> None:
    """Begin a line of a list."""
    w.newline()
    w.ctx[_LINE], w.ctx[_POSITION] = _ITEM, min(n, 10)
    w.put(mark)


def _end_list(w: World) -> None:
    w.ctx[_POSITION] = 0
    w.set(line_kind="body")


def _heading(w: World, rule: str) -> None:
    w.set(line_kind="heading")
    w.say(rule)
    w.set(line_kind="body")


def _fruits(w: World, n: int) -> list[Codes]:
    """Draw different fruits whose combination belongs to this part."""
    first = w.pick(_FRUITS)
    rest = [x for x in allowed(w.part, first, "thing") if x in _FRUIT_SET]
    return [(NOUNS[x].many,) for x in (first, *w.rng.sample(rest, n - 1))]


_ONE = {NOUNS[x].many: NOUNS[x].one for x in _FRUITS}
_FRUIT_SET = frozenset(_FRUITS)


def recipe(w: World) -> None:
    """Write a recipe, or two."""
    w.scene()
    ph.scene(w)
    w.tense = "present"
    w.set(perspective="second")
    for n in range(1 + w.below(3)):
        if n:
            w.newline(2)
        _recipe(w)


def _recipe(w: World) -> None:
    fruits, masses = _fruits(w, 3), w.rng.sample(_MASS, 3)
    env = w.env
    env.update(dish=w.pick(_DISHES), x=fruits[0], vessel=w.pick(_VESSELS))
    _heading(w, "r_title")
    w.newline(w.gap)
    w.say("r_head")
    at = 0
    for item in fruits:
        at += 1
        _item(w, at, _DASH)
        w.say("r_item", count=ph.count(w, 2, 12), item=item, adj=w.pick(_FRESH))
    for item in masses:
        at += 1
        _item(w, at, _DASH)
        w.say("r_mass", count=ph.count(w, 2, 6), item=item)
    _end_list(w)
    w.newline(w.gap - 1)
    steps = ("r_first", *(("r_put", "r_heat")[w.below(2)] for _ in range(4 + w.below(8))), "r_last")
    for n, step in enumerate(steps, 1):
        if w.gap == 1:
            _item(w, n, (ph.DIGITS[n][0], BY_TEXT["."]))
            w.env.update(count=ph.count(w, 2, 20))
        elif n == 1:
            w.newline()
        one, two, *_ = w.rng.sample(fruits, 2)
        m1, m2, *_ = w.rng.sample(masses, 2)
        w.env["vessel"] = (NOUNS[w.pick(allowed(w.part, lex.TEXTS[one[0] + 2], "vessel"))].one,)
        w.say(step, count=ph.count(w, 2, 20), i1=one, i2=two, m1=m1, m2=m2)
    _end_list(w)


def _fill(w: World) -> None:
    w.env.update(
        weekday=w.pick(ph.WEEKDAYS), weekday2=w.pick(ph.WEEKDAYS), h1=w.pick(_HOURS), h2=w.pick(_HOURS),
        count=ph.count(w, 2, 40), count2=ph.count(w, 2, 9), coins=w.pick(ph.COINS), event=w.env.get("event", w.pick(_EVENTS)),
        fruits=w.pick(ph.PLURAL_FRUITS), tools=w.pick(_TOOLS), beasts=w.pick(ph.BEASTS)[1], shelter=w.pick(_SHELTERS),
        place=SPOTS[w.place],
    )  # fmt: skip


def notice(w: World) -> None:
    """Write some notices on one board."""
    w.scene()
    ph.scene(w)
    w.tense = "present"
    for n in range(3 + w.below(4)):
        if n:
            w.newline(2)
            w.go(w.some_place())
        w.env.pop("event", None)
        a = w.person("middle")
        w.env.update(a=a, an_job=ph.job(a), home=(lex.NAMES[a.home],), wp=SPOTS[WORK[a.work][0]])
        _NOTICES[w.below(4)](w)


def _lost(w: World) -> None:
    a = w.people[-1]
    o = w.thing(owner=a)
    gone = w.chance(60)
    _fill(w)
    if gone:
        w.own(o, a)
    w.env["o"] = o
    w.say("n_tell" if gone else "n_found")
    if gone:
        w.own(o, a)
        w.locate(o, w.place)
    w.say("n_reward")


def _hours(w: World) -> None:
    for n in range(3 + w.below(4)):
        if n:
            _item(w, n, _DASH)
        _fill(w)
        w.say(("n_open", "n_rule")[w.below(2)])
    _end_list(w)


def _sale(w: World) -> None:
    _fill(w)
    w.say("n_sale")
    for n in range(3 + w.below(4)):
        _item(w, n + 1, _DASH)
        _fill(w)
        o = w.thing(owner=w.people[-1])
        w.own(o, w.people[-1])
        w.say("n_price", o=o)
    _end_list(w)


def _event(w: World) -> None:
    w.env["event"] = w.pick(_EVENTS)
    for _ in range(2 + w.below(4)):
        _fill(w)
        w.say("n_event")


_NOTICES = (_lost, _hours, _sale, _event)


def ledger(w: World) -> None:
    """Write what somebody bought and sold, with the stock that is left after each line."""
    w.scene()
    ph.scene(w)
    a = w.person("middle")
    month = w.pick(_MONTHS)
    w.env.update(a=a, job=ph.job(a, False), home=(lex.NAMES[a.home],), month=month)
    _heading(w, "l_head")
    w.newline(w.gap)
    names = _fruits(w, 4)
    others = [w.person() for _ in range(3)]
    stock = [0] * len(names)
    day = 0
    w.set(line_kind="table")
    for n in range(10 + w.below(16)):
        day = min(day + w.below(3), 28) or 1
        i = w.below(len(names))
        buys = stock[i] < 3 or w.chance(50)
        much = 1 + w.below(12) if buys else 1 + w.below(stock[i] - 1)
        stock[i] += much if buys else -much
        who = w.pick(others)
        line = (
            BY_TEXT[f"{day}~day"], *month, _BAR, _BOUGHT if buys else _SOLD,
            *ph.DIGITS[much], names[i][0] if much > 1 else _ONE[names[i][0]], _BAR,
            _FROM if buys else _TO, *who.name, _BAR, *ph.DIGITS[stock[i]], _LEFT,
        )  # fmt: skip
        if n:
            w.newline()
        w.put(line, sentence_kind="transfer")
    w.set(line_kind="body")


_BOUGHT, _SOLD = lex.VERBS["buy"].past, lex.VERBS["sell"].past
_FROM, _TO, _LEFT = BY_TEXT["from"], BY_TEXT["to"], lex.VERBS["leave"].past

"""Letters, diaries and plays: texts in which people speak for themselves."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import tale, talk
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.entities import Codes, Person
from saebench.data.storyworld.lexicon import BY_TEXT, CAPITAL
from saebench.data.storyworld.rng import Weighted
from saebench.data.storyworld.template import add_rules
from saebench.data.storyworld.variables import CODES, CTX
from saebench.data.storyworld.world import SPOTS, WORK, World

add_rules("""
# dateline formula
{home} , {weekday} , {day} {month} {year}
{home} , {day} {month} {year}
{weekday} , {day} {month}
{weekday} {time} , {home}
# dear formula
Dear {b:v} ,
My dear {b:v} ,
Dear {b:v} , my good {bond} ,
# thanks speech good
Thank you for your letter .
Your last letter [past:make@it] me very {*joy} .
<? How are you , and how [be@it] the weather in {home2} ? >
I [past:receive] your letter on {weekday} and [past:read] it twice .
I am sorry <comp that I [past:not write] sooner > .
# news speech
Here in {home} it [pres:be@it] {weather} , and I am {*very} ( busy | tired | well | {*joy} ) .
I still [pres:work] as {an_job} , and every day I [pres:think] of you .
You [pres:know] how it [pres:be@it] : every {time} I go {wp:to} , <sub because I am {an_job} > .
You [pres:ask] what there [pres:be@it] to tell . Well , this week much [past:happen@it] .
# close speech
<! Please [base:write] soon . >
<! Please [base:come] and [base:visit] me in {season2} . >
<if If you come to {home} , > <fut I will [base:show] you {p} > .
<? When will you [base:come] to {home} ? >
<fut Tomorrow I will [base:go] {p:to} with {c:o} > .
# love formula good
With love ,
Your friend ,
Yours ,
Your old {bond} ,
# sign formula
{an} {surname}
{an}
# entry formula
{weekday} , {day} {month}
{day} {month} , {weather}
{weekday} {time}
# musing feeling
I am {*very} tired now .
<fut Tomorrow I will [base:go] {p:to} > .
Today I [past:learn] something : one must be {trait} .
I [past:not sleep] well , <sub for {wx} > .
Nobody [pres:know@it] what I [pres:think] .
<may Perhaps {c:n} [past:tell@c] a lie . >
I [pres:wish] I [past:have] ( more time | a boat | a garden | some coffee ) .
<? Will {c:n} ever [base:come] back ? >
# stage formula
Scene {number} . {place:in} , in the {time} .
{a:n} and {b:n} meet {place:in} . It [be@it] {weather} .
{place:in} . {a:n} [sit] on a {furniture} .
""")
add_rules(
    """
# p_greet speech good
{*hello} , {b:v} !
{*hello} , {b:v} . What a {weather} {time} !
<? How are you , {b:v} ? >
# p_fine speech
I am {*very} ( well | tired | hungry | {*joy} | {*sadness} ) , thank you .
<! Please [base:sit] down . >
{*oh} , I [not know] .
# p_where speech
<? Where [be@o] {o:d} ? >
<? Have you seen {o:f} ? >
# p_there speech
It [be@o] {where} .
{*oh} , you [fut:find@you] it {where} .
# p_who speech
<? Who [have@it] {o:d} now ? >
<? Whose [be@it] {o:f} ? >
# p_owner speech
It [belong@o] to {c:n} .
{c:n} [have@c] it .
{*oh} , ask {c:n} .
# p_mine speech
It [be@o] mine .
I [have] it .
# p_yours speech
It [be@o] yours , {b:v} .
You have it , {b:v} .
# p_work speech
<? What [be@it] your trade , {b:v} ? >
<? What are you doing in life ? >
# p_job speech
I am {an_job2} .
I [work] as {an_job2} .
# p_age speech
<? How old are you ? >
# p_years speech
I am {years2} years old .
{years2} .
# p_home speech
<? Where are you from , {b:v} ? >
# p_town speech
I am from {home2} .
I live in {home2} .
# p_give speech good
<! Here , [base:take] {o:d} , {b:v} . > It [be@o] yours now .
I [give] you {o:d} , {b:v} .
You [need@you] {o:d} more than I do . It [be@o] yours .
# p_thanks speech good
Thank you , {b:v} . Now {o:f} [be@o] mine .
I [thank] you . I [fut:keep] {o:d} always .
You are {*very} kind .
# p_have speech good
Look , I have {o:i} .
I [past:buy] {o:i} for {count} {coins} .
Today I [past:find] {o:i} {place:in} .
# p_plan speech
<fut Tomorrow I will [base:go] {p:to} . >
<fut I will [base:$v] {o:d} {when2} . >
<may I may [base:$v] {o:d} , > but I am tired .
<must You must not [base:go] {p:to} . >
<! Please [base:$v] {o:d} . >
# p_view speech
{c:n} [be@c] {*very} {trait3} , I think .
I like {c:o} . <? Do you ? >
I [not like] this {weather} {time} .
{wx} . <! [base:listen] ! >
""".replace("yourself~pronoun , ", ", ").replace("<! [base:listen] ! >", "<! [base:listen] ! >")
)


def _day(n: int) -> Codes:
    return (BY_TEXT[f"{n}~day"],)


_MONTHS = {s: tuple((BY_TEXT[words.MONTHS.split()[m - 1]],) for m in ms) for s, ms in words.SEASONS.items()}
_YEARS = tuple((BY_TEXT[f"{year}~year"],) for year in range(1700, 1960))
_BONDS = tuple((BY_TEXT[x],) for x in ("friend", "neighbour", "cousin", "partner"))
_SEASONS = tuple(ph.SEASON_WORD.values())
_FURNITURE = tuple((BY_TEXT[x],) for x in ("chair", "bench", "stool", "couch", "bed"))
_MY_ACTIONS = Weighted(
    [
        (tale.hand_over, 9), (tale.gain, 6), (tale.lose, 5), (tale.fetch, 3), (tale.move, 7), (tale.sky, 4), (tale.use, 10),
        (tale.eat, 6), (tale.animal, 6), (tale.feel, 8), (talk.recall, 6),
    ]
)  # fmt: skip


def _date(w: World) -> None:
    w.env.update(weekday=w.pick(ph.WEEKDAYS), day=_day(1 + w.below(28)), month=w.pick(_MONTHS[w.season]), year=w.pick(_YEARS))


def _me(w: World) -> Person:
    """Make the narrator."""
    me = w.person()
    me.told.update(("home", "work"))
    me.seen = True
    w.speaker = me
    w.ctx[_SPEAKER] = me.index
    w.ctx[_PERSPECTIVE] = 2
    w.env.update(a=me, home=(lex.NAMES[me.home],), an=me.name, an_job=ph.job(me))
    w.env["wp"] = SPOTS[WORK[me.work][0]] if me.work else SPOTS["school"]
    return me


def letter(w: World) -> None:
    """Write a letter."""
    w.scene()
    ph.scene(w)
    me = _me(w)
    you = w.person()
    _date(w)
    w.set(line_kind="date_line")
    w.say("dateline", tense="present")
    w.newline(2)
    w.env.update(b=you, bond=w.pick(_BONDS), home2=(lex.NAMES[you.home],), place=SPOTS[w.place], p=SPOTS[w.place])
    w.set(line_kind="salutation")
    w.say("dear", tense="present")
    w.set(line_kind="body")
    w.newline(w.gap)
    w.hearer = you
    w.ctx[_ADDRESSEE] = you.index
    w.say("thanks", tense="present")
    w.say("news", tense="past")
    w.focus = me
    for n in range(1 + w.below(2)):
        if n:
            tale.gain(w, me)
        tale.introduce(w, w.person())
        w.focus = me
    w.env["a"] = me
    left = 4 + w.below(3)
    for _ in range(8 + w.below(20)):
        if left <= 0:
            w.newline(w.gap)
            left = 3 + w.below(5)
        left -= 1
        talk.act(w, _MY_ACTIONS)
    w.env.update(a=me, b=you, c=w.other(me, you), season2=w.pick(_SEASONS), p=SPOTS[w.some_place()])
    w.env["home"] = (lex.NAMES[me.home],)
    w.say("close", tense="present")
    w.newline(2)
    w.set(line_kind="closing")
    w.say("love", tense="present", bond=w.pick(_BONDS))
    w.newline()
    w.say("sign", tense="present", surname=(lex.NAMES[w.pick(_SURNAMES)],))


def diary(w: World) -> None:
    """Write some days of a diary."""
    w.scene()
    ph.scene(w)
    me = _me(w)
    w.env["place"] = w.env["p"] = SPOTS[w.place]
    w.focus = me
    for n in range(3 + w.below(4)):
        if n:
            w.newline(w.gap)
            w.climate(weather=w.weather_today())
            ph.scene(w)
        _date(w)
        w.set(line_kind="date_line")
        w.say("entry", tense="present")
        w.set(line_kind="body")
        w.newline()
        if n < 3:
            tale.introduce(w, w.person())
        tale.gain(w, me)
        for _ in range(3 + w.below(6)):
            talk.act(w, _MY_ACTIONS)
        w.env.update(a=me, c=w.other(me), p=SPOTS[w.some_place()], trait=_TRAITS[w.pick(tale.TRAIT_WORDS)])
        w.say("musing", tense="present")


def _line(w: World, a: Person, b: Person, rule: str) -> None:
    """Write one line of a play."""
    w.newline()
    w.ctx[_LINE] = _SPEECH_LINE
    w.mark()
    w.sentences.append(len(w.codes))
    w.codes += (a.name[0] | CAPITAL, BY_TEXT[":"])
    w.codes[-2] |= lex.BARE
    w.bare = False
    w.speaker, w.hearer = a, b
    w.ctx[_SPEAKER], w.ctx[_ADDRESSEE], w.ctx[_QUOTED] = a.index, b.index, 2
    w.say(rule, tense="present", a=a, b=b)
    w.speaker = w.hearer = None
    w.ctx[_SPEAKER] = w.ctx[_ADDRESSEE] = 0
    w.ctx[_QUOTED] = 1


def play(w: World) -> None:
    """Write a conversation as a play."""
    w.scene()
    ph.scene(w)
    a, b = w.person(), w.person()
    third = w.person()
    w.env.update(place=SPOTS[w.place], number=ph.number(w, 1 + w.below(9)), furniture=w.pick(_FURNITURE))
    w.say("stage", tense="present", a=a, b=b)
    w.env["p"] = SPOTS[w.place]
    tale.introduce(w, third)
    tale.gain(w, third)
    w.tense = "present"
    cast = [a, b, third] if w.chance(50) else [a, b]
    for _ in range(10 + w.below(20)):
        one = w.pick(cast)
        two = w.pick([p for p in cast if p is not one])
        _exchange(w, one, two)
    w.newline(w.gap)
    w.tense = "past"
    talk.quiz(w, 1 + w.below(3))


def _exchange(w: World, a: Person, b: Person) -> None:
    held = [o for o in w.things if o.seen and o.owner is not None]
    kind = w.below(10)
    env = w.env
    env.update(place=SPOTS[w.place], p=SPOTS[w.some_place()])
    mine = [o for o in held if o.owner is a]
    if kind in (0, 1) and len(w.entities) < w.most:
        o = w.thing(owner=a)
        env.update(o=o, count=ph.count(w, 2, 30), coins=w.pick(ph.COINS))
        _line(w, a, b, "p_have")
        w.own(o, a)
    elif kind in (2, 3) and mine:
        o = w.pick(mine)
        env["o"] = o
        _line(w, a, b, "p_give")
        w.own(o, b)
        _line(w, b, a, "p_thanks")
    elif kind in (4, 5) and held:
        o = w.pick(held)
        env.update(o=o, c=o.owner)
        _line(w, a, b, "p_who")
        _line(w, b, a, "p_mine" if o.owner is b else "p_yours" if o.owner is a else "p_owner")
    elif kind == 6 and held:
        o = w.pick(held)
        env.update(o=o, v=w.pick(talk.VERBS_FOR[o.sort]), when2=w.pick(talk.WHEN))
        _line(w, a, b, "p_plan")
    elif kind == 7:
        fact = w.below(3)
        env.update(an_job2=ph.job(b), years2=ph.years(w, b), home2=(lex.NAMES[b.home],))
        _line(w, a, b, ("p_work", "p_age", "p_home")[fact])
        _line(w, b, a, ("p_job", "p_years", "p_town")[fact])
        b.told.add(("work", "age", "home")[fact])
    elif kind == 8:
        c = w.other(a, b) or b
        env.update(c=c, trait3=_TRAITS[c.trait])
        _line(w, a, b, "p_view")
    else:
        _line(w, a, b, "p_greet")
        _line(w, b, a, "p_fine")


_TRAITS = talk.TRAITS
_SURNAMES = tuple(head + tail for head in things.SURNAME_HEADS for tail in things.SURNAME_TAILS)
_SPEAKER, _ADDRESSEE, _PERSPECTIVE, _LINE, _QUOTED = (
    CTX[x] for x in ("speaker", "addressee", "perspective", "line_kind", "quoted")
)
_SPEECH_LINE = CODES["line_kind"]["speech"]

"""Fillers of slots: numbers, ages, work, weather and the like."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, no_type_check

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import morphology
from saebench.data.storyworld import vocab_people as people
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.lexicon import BY_TEXT, ENTITY, NOUNS
from saebench.data.storyworld.template import Phrase

if TYPE_CHECKING:
    from saebench.data.storyworld.entities import Codes, Person, Thing
    from saebench.data.storyworld.world import World

WEATHER = {name: Phrase(*lines.split("|")) for name, (_, lines) in words.WEATHER.items()}
WEATHER_WORD = {name: (BY_TEXT[word],) for name, (word, _) in words.WEATHER.items()}
WHEN = {name: tuple(lex.pieces(p) for p in lines.split("|")) for name, (_, lines) in words.DAY_TIMES.items()}
DOES = {line.split("|")[0]: Phrase(line.split("|")[2]) for line in people.OCCUPATIONS.strip().split("\n")}
DOES_IT = {line.split("|")[0]: Phrase(line.split("|")[2].replace("]", "@it]")) for line in people.OCCUPATIONS.strip().split("\n")}
BEAST_KINDS = {line.split()[0]: line.split("|")[2] for line in things.ANIMALS.strip().split("\n")}
REASON = {
    "got": Phrase("{r:n} [past:give@r] {a:o} {ro:f}", "{a} now [have] {ro:f}", "{ro:f} [be@ro] {a:p} own now"),
    "found": Phrase("{a} [past:find] {ro:f}", "{ro:f} [be@ro] {a:p} own now"),
    "lost": Phrase("{a} [past:lose] {ro:f}", "{ro:f} [be@ro] lost", "{a} [not have] {ro:f} any more"),
    "robbed": Phrase("{r:n} [past:steal@r] {ro:f}", "{ro:f} [be@ro] no longer in the house"),
    "met": Phrase("{b:n} [be@b] {place:in} too", "{b:n} [past:say@b] something kind"),
    "left": Phrase("{b:n} [past:go@b] away", "nobody [talk@it] to {a:o}"),
}
NUMBER_WORDS = tuple((BY_TEXT[word],) for word in words.NUMBERS.split())
_TENS = words.TENS.split()


def _in_words(n: int) -> str:
    small = words.NUMBERS.split()
    return small[n] if n < 20 else _TENS[n // 10 - 2] + (f"-{small[n % 10]}" if n % 10 else "")


AGE_WORDS = tuple((BY_TEXT[_in_words(n)],) for n in range(100))
DIGITS = tuple((BY_TEXT[str(n)],) for n in range(2000))
PLURAL_FRUITS = tuple((NOUNS[lemma].many,) for lemma in things.THINGS["food"].split())
SEASON_WORD = {name: (BY_TEXT[name],) for name in words.SEASONS}
TIME_WORD = {name: (BY_TEXT[name],) for name in words.DAY_TIMES}
WEEKDAYS = tuple((BY_TEXT[name],) for name in words.WEEKDAYS.split())
COLOURS = tuple((lex.ADJECTIVES[name],) for name in words.ADJECTIVES["colour"].split())
PART_WORDS = {kind: tuple((NOUNS[x].one,) for x in names.split()) for kind, names in things.PARTS.items()}
COINS = tuple(
    (NOUNS["coin"].many,) if not m else (lex.ADJECTIVES[m], NOUNS["coin"].many) for m in ("", "silver", "copper", "golden")
)
BEASTS = tuple(
    (
        (NOUNS[line.split()[0]].one,),
        (NOUNS[line.split()[0]].many,),
        lex.pieces(line.split("|")[1]),
        line.split("|")[0].split()[3],
        line.split("|")[3],
        line.split()[0],
    )
    for line in things.ANIMALS.strip().split("\n")
    if all(word in BY_TEXT for word in line.split("|")[1].split())
)
SPOT_WORDS = {
    name: (BY_TEXT[preposition], BY_TEXT["the"], NOUNS[name].one)
    for name, preposition, _ in (e.split() for e in things.PLACES.strip().replace("\n", "|").split("|"))
}
SPOTS1 = tuple(
    (BY_TEXT[preposition], BY_TEXT["the"], NOUNS[noun].one)
    for preposition in ("on", "under", "behind", "beside", "near")
    for noun in "table chair bench shelf cupboard bed stool desk chest door window gate fence wall".split()
)
FOOD_OF = {line.split()[0]: lex.pieces(line.split("|")[1]) for line in things.ANIMALS.strip().split("\n")}
JOBS = tuple((BY_TEXT[morphology.article(name)], NOUNS[name].one) for name in DOES)
TOWN_CODES = tuple((lex.NAMES[head + tail],) for head in things.TOWN_HEADS for tail in things.TOWN_TAILS)
_ABOUT_AGE = {group: tuple(names.split()) for group, names in people.AGE_WORDS.items()}


@no_type_check
@cache
def an(word: str, adjective: bool = False) -> Codes:
    """Return a noun, or an adjective, with its indefinite article."""
    piece = lex.ADJECTIVES[word] if adjective else NOUNS[word].one
    return (BY_TEXT[morphology.article(word)], piece)


@no_type_check
def years(w: World, person: Person) -> Codes:
    """Return somebody's age as the document writes numbers."""
    return ((AGE_WORDS if w.spelt else DIGITS)[person.age][0] | person.index << ENTITY,)


@no_type_check
def count(w: World, low: int, high: int) -> Codes:
    """Return a number that is drawn between two others."""
    n = low + w.below(high - low + 1)
    return (AGE_WORDS if w.spelt and n < 100 else DIGITS)[n]


@no_type_check
def number(w: World, n: int) -> Codes:
    """Return a number as the document writes numbers."""
    return (AGE_WORDS if w.spelt and n < 100 else DIGITS)[n]


@no_type_check
def about_age(w: World, person: Person) -> Codes:
    """Return "an old" or "a young", whatever fits somebody."""
    return an(w.pick(_ABOUT_AGE[person.group]), True)


@no_type_check
def kind_of(person: Person) -> Codes:
    """Return "man", "girl" or the like."""
    small = person.group == "child"
    word = ("girl" if small else "woman") if person.female else ("boy" if small else "man")
    return (NOUNS[word].one | person.index << ENTITY,)


@no_type_check
def job(person: Person, article: bool = True) -> Codes:
    """Return what somebody works as; a child goes to school."""
    if not person.work:
        return (*((BY_TEXT["a"],) if article else ()), *kind_of(person))
    one = NOUNS[person.work].one | person.index << ENTITY
    return (BY_TEXT[morphology.article(person.work)], one) if article else (one,)


@no_type_check
def part_of(w: World, thing: Thing) -> Codes:
    """Return a part of a thing."""
    return w.pick(PART_WORDS[thing.sort])


@no_type_check
def scene(w: World) -> None:
    """Put what is true of the whole scene into the slots."""
    env = w.env
    env["weather"], env["season"], env["time"] = WEATHER_WORD[w.weather], SEASON_WORD[w.season], TIME_WORD[w.time]
    env["wx"] = WEATHER[w.weather]
    env["town"] = (lex.NAMES[w.town],)
    env["whenword"] = w.pick(WHEN[w.time])

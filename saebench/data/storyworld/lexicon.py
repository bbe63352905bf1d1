"""All word forms with their labels, each interned as a small number.

A piece is a whole number: two bits for how it is written (1 capital, 2 no space before), the index of its form, and from bit
``ENTITY`` on the entity that it refers to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import no_type_check

from saebench.data.storyworld import morphology as m
from saebench.data.storyworld import vocab_people as people
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.variables import WORD, value

CAPITAL, BARE = 1, 2
ENTITY = 20
FORM_MASK = (1 << ENTITY) - 1
TEXTS: list[str] = []
"""Text of ``piece & FORM_MASK``: four ways to write each form."""
LABELS: list[tuple[int, ...]] = []
"""Labels of form ``(piece & FORM_MASK) >> 2``, in the order of ``WORD``."""
_INDEX = {name: i for i, name in enumerate(WORD)}
_known: dict[tuple[str, tuple[int, ...]], int] = {}
BY_TEXT: dict[str, int] = {}
"""The first form that was made of each text, which templates use; ``text~pos`` names another one."""


@no_type_check
def _shape(text: str) -> str:
    if text.isdigit():
        return "digits"
    if text.isalpha():
        return "lower" if text.islower() else "capital" if text.istitle() or len(text) == 1 else "mixed"
    return "newline" if text == "\n" else "mixed" if any(map(str.isalnum, text)) and "-" not in text else "mark"


@no_type_check
def form(text: str, pos: str, *, glue: bool = False, default: bool = True, **labels: str) -> int:
    """Return :func:`entry` with labels as keywords."""
    return entry(text, pos, labels, glue=glue, default=default)


@no_type_check
def entry(text: str, pos: str, labels: dict[str, str], *, glue: bool = False, default: bool = True) -> int:
    """Return the piece of a form, made when it is new; ``glue`` writes it with no space before it, ever."""
    vector = [0] * len(WORD)
    for name, kind in {"part_of_speech": pos, "shape": _shape(text), **labels}.items():
        vector[_INDEX[name]] = value(name, kind)
    key = (text, (glue, *vector))
    if key not in _known:
        space = "" if glue else " "
        upper = text[:1].upper() + text[1:]
        _known[key] = len(TEXTS)
        TEXTS.extend((space + text, space + upper, text, upper))
        LABELS.append(tuple(vector))
    piece = _known[key]
    if default:
        BY_TEXT.setdefault(text, piece)
        BY_TEXT.setdefault(f"{text}~{pos}", piece)
    return piece


@dataclass(frozen=True)
class Noun:
    """A noun: its lemma and pieces, and the class it stands in."""

    lemma: str
    kind: str
    one: int
    many: int
    an: int
    """The indefinite article that goes before it."""


@dataclass(frozen=True)
class Verb:
    """A verb and the pieces of its forms."""

    lemma: str
    base: int
    third: int
    past: int
    done: int
    ing: int


NOUNS: dict[str, Noun] = {}
VERBS: dict[str, Verb] = {}
ADJECTIVES: dict[str, int] = {}
NAMES: dict[str, int] = {}
A = form("a", "determiner", definiteness="indefinite", number="singular")
AN = form("an", "determiner", definiteness="indefinite", number="singular")
THE = form("the", "determiner", definiteness="definite")
for _text in ",.;:!?":
    form(_text, "punctuation", glue=True)
QUOTE = form('"', "punctuation", default=False)
UNQUOTE = form('"', "punctuation", glue=True, default=False)
NEWLINE = form("\n", "newline", glue=True)
POSSESSIVE = form("'s", "particle", glue=True, pronoun_case="possessive")


def add_noun(lemma: str, kind: str, animacy: str, labels: dict[str, str] | None = None, *, mass: bool = False) -> Noun:
    """Enter a noun, once."""
    if lemma not in NOUNS:
        common = {"noun_class": kind, "animacy": animacy, **(labels or {})}
        one = entry(lemma, "noun", {"number": "mass" if mass else "singular", **common})
        many = one if mass else entry(m.plural(lemma), "noun", {"number": "plural", **common})
        NOUNS[lemma] = Noun(lemma, kind, one, many, A if m.article(lemma) == "a" else AN)
    return NOUNS[lemma]


def _add_nouns() -> None:
    for line in people.OCCUPATIONS.strip().split("\n"):
        add_noun(line.split("|")[0], "occupation", "human")
    for group, names in people.RELATIONS.items():
        for name in names.split():
            side = "feminine" if name in people.FEMALE_KIN else "masculine" if name in people.MALE_KIN else ""
            add_noun(name, group, "human", {"relation": name, **({"gender": side} if side else {})})
    sides = {"man": "masculine", "boy": "masculine", "hero": "masculine", "woman": "feminine", "girl": "feminine"}
    for name in things.PEOPLE_NOUNS.split():
        add_noun(name, "people", "human", {"gender": sides[name]} if name in sides else None)
    for line in things.ANIMALS.strip().split("\n"):
        add_noun(line.split()[0], "animal", "animal")
    for kind, names in things.THINGS.items():
        for name in names.split():
            add_noun(name, kind, "thing")
    for kind, names in things.STUFF.items():
        for name in names.split():
            add_noun(name, kind, "thing", mass=True)
    for item in things.PLACES.strip().replace("\n", "|").split("|"):
        add_noun(item.split()[0], "place", "thing")
    for kind, names, animacy in (
        ("plant", things.PLANTS, "plant"),
        ("body", things.BODY, "thing"),
        ("idea", things.ABSTRACT, "abstract"),
        ("nature", things.NATURE, "thing"),
        ("time", things.TIMES, "abstract"),
        ("other", words.EXTRA_NOUNS, "thing"),
    ):
        for name in names.split():
            labels = {"date_part": "season"} if name in words.SEASONS else {}
            add_noun(name, kind, animacy, labels)


def add_verb(lemma: str, kind: str) -> Verb:
    """Enter a verb with all its forms, once."""
    if lemma not in VERBS:
        make = (("base", str), ("third", m.third), ("past", m.past), ("participle", m.participle), ("gerund", m.gerund))
        VERBS[lemma] = Verb(lemma, *(form(f(lemma), "verb", verb_class=kind, verb_form=name) for name, f in make))
    return VERBS[lemma]


def _add_small_words() -> None:
    cases = {
        "I": "first subject", "me": "first object", "my": "first possessive", "we": "first subject", "us": "first object",
        "our": "first possessive", "you": "second subject", "your": "second possessive", "he": "third subject masculine",
        "him": "third object masculine", "his": "third possessive masculine", "she": "third subject feminine",
        "her": "third object feminine", "they": "third subject", "them": "third object", "their": "third possessive",
        "it": "third subject", "its": "third possessive",
    }  # fmt: skip
    for text, spec in cases.items():
        person, case, *side = spec.split()
        labels = {"gender": side[0]} if side else {}
        entry(text, "pronoun", {"person": person, "pronoun_case": case, **labels})
    form("her", "pronoun", default=False, person="third", pronoun_case="possessive", gender="feminine")
    for kind, names in words.SMALL.items():
        pos = {"wh": "wh_word", "pronoun_other": "pronoun"}.get(kind, kind)
        for text in names.split():
            labels = {"polarity": "denies"} if text in ("no", "not", "nobody", "nothing", "none", "nor", "neither") else {}
            if text in ("this", "that", "these", "those"):
                labels["definiteness"] = "demonstrative"
            entry(text, pos, {"function": kind, **labels})


def quantity(number: int) -> str:
    """Return the size group of a number."""
    steps = ((1, "one"), (4, "few"), (12, "several"), (99, "dozens"), (999, "hundreds"))
    return next((name for most, name in steps if number <= most), "thousands")


def _add_adjectives() -> None:
    groups = dict(words.ADJECTIVES, trait=people.TRAITS_GOOD + " " + people.TRAITS_BAD)
    feelings = {word: name for name, list_ in people.FEELINGS.items() for word in list_.split()}
    for kind, names in {**groups, "feeling": " ".join(feelings)}.items():
        for text in names.split():
            labels = {"adjective_class": kind.removesuffix("_good").removesuffix("_bad")}
            labels |= {kind: text} if kind in ("colour", "size", "material") else {}
            labels |= {"emotion": feelings[text]} if kind == "feeling" else {}
            good = kind == "quality_good" or text in people.TRAITS_GOOD.split() or feelings.get(text) in ("joy", "calm")
            bad = kind == "quality_bad" or text in people.TRAITS_BAD.split() or feelings.get(text) in ("sadness", "anger", "fear")
            labels |= {"valence": "good"} if good else {"valence": "bad"} if bad else {}
            ADJECTIVES.setdefault(text, entry(text, "adjective", labels))
            for degree, other in zip(("comparative", "superlative"), m.compared(text) or (), strict=False):
                if kind in ("size", "age", "quality_good", "quality_bad", "trait", "feeling"):
                    entry(other, "adjective", {"degree": degree, **labels})
    for kind, names in words.ADVERBS.items():
        for text in names.split():
            form(text, "adverb", function=kind)


def _add_numbers_and_names() -> None:
    for i, text in enumerate(words.NUMBERS.split()):
        form(text, "number", quantity=quantity(i))
    tens = words.TENS.split()
    for i in range(20, 100):
        text = tens[i // 10 - 2] + (f"-{words.NUMBERS.split()[i % 10]}" if i % 10 else "")
        form(text, "number", quantity="dozens")
    for text in words.ORDINALS.split():
        form(text, "adjective")
    for i in range(2000):
        form(str(i), "number", quantity=quantity(i), default=True)
    for i in range(1, 32):
        form(str(i), "number", default=False, date_part="day")
        BY_TEXT[f"{i}~day"] = form(str(i), "number", default=False, date_part="day")
    for i in range(1700, 1960):
        BY_TEXT[f"{i}~year"] = form(str(i), "number", default=False, date_part="year")
    for kind, names in (("weekday", words.WEEKDAYS), ("month", words.MONTHS)):
        for text in names.split():
            form(text, "name", date_part=kind)
    for side, names in (("feminine", people.WOMEN), ("masculine", people.MEN)):
        for text in names:
            NAMES[text] = form(text, "name", gender=side, animacy="human", noun_class="first_name", number="singular")
    for kind, heads, tails in (
        ("town", things.TOWN_HEADS, things.TOWN_TAILS),
        ("surname", things.SURNAME_HEADS, things.SURNAME_TAILS),
    ):
        for text in (head + tail for head in heads for tail in tails):
            NAMES.setdefault(text, form(text, "name", noun_class=kind))
    for text in things.PET_NAMES:
        NAMES.setdefault(text, form(text, "name", animacy="animal", noun_class="pet_name"))


_add_small_words()
_add_nouns()
_add_adjectives()
for _kind, _names in words.VERBS.items():
    for _lemma in _names.split():
        add_verb(_lemma, _kind)
_add_numbers_and_names()


def articles(codes: list[int]) -> None:
    """Make every "a" and "an" fit the word that follows it."""
    top = max(A, AN) | CAPITAL | BARE
    last = len(codes) - 1
    for at in [i for i, code in enumerate(codes) if code <= top and code & ~3 in (A, AN) and i < last]:
        follows = TEXTS[codes[at + 1] & FORM_MASK].strip()
        if follows and follows[0].isalnum():
            codes[at] = (codes[at] & 3) | (A if m.article(follows) == "a" else AN)


@no_type_check
def pieces(text: str) -> tuple[int, ...]:
    """Return the pieces of words that are known; a word may name its class, as in ``light~noun``."""
    missing = [word for word in text.split() if word not in BY_TEXT]
    if missing:
        raise KeyError(f"no such words: {' '.join(missing)}")
    return tuple(BY_TEXT[word] for word in text.split())

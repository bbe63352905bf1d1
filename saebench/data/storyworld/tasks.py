"""Tests with known answers: last words, blanks, and texts whose last piece has a label."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice, pairwise
from typing import Any

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import phrases as ph
from saebench.data.storyworld import tale, talk, town
from saebench.data.storyworld.entities import Codes, Person, Thing
from saebench.data.storyworld.generate import PARTS, Part
from saebench.data.storyworld.rng import Rng, Weighted
from saebench.data.storyworld.shared import shared
from saebench.data.storyworld.variables import VARIABLES
from saebench.data.storyworld.world import PLACES, World
from saebench.errors import InputError

KINDS = ("owner", "place", "work", "home", "thing")
"""What last words are asked for: a name, a place, an occupation, a town, an object."""
ASKED = ("thing", "look", "place", "work", "owner")
"""What blanks are for: an object, its adjective, where it was, what somebody worked as, who that was."""
_BLANK: Codes = (lex.form("XXXXX", "name", default=False),)
_SENTENCES, _CANDIDATES = 20, 10
_LAMBADA, _CBT, _PROBE = 0x1A3B, 0xCB7, 0x9B0
_WINDOW, _A_DOCUMENT, _SAMPLE, _PATIENCE = 48, 2, 80, 40_000
_TURNS = Weighted(
    [
        (tale.hand_over, 12),
        (tale.lose, 3),
        (tale.fetch, 2),
        (tale.sky, 3),
        (tale.feel, 3),
        (tale.move, 3),
        (tale.eat, 2),
        (talk.chat, 3),
    ]
)


@dataclass(frozen=True)
class LastWord:
    """A passage whose last word follows from the passage, but not from its last sentence."""

    context: str
    """The passage without its last word and full stop."""
    target: str
    candidates: tuple[str, ...]
    """Every word of the target's kind in the passage that could stand there, in order; the target is one of them."""
    kind: str

    @property
    def text(self) -> str:
        """The passage with its last word."""
        return f"{self.context} {self.target}"


@dataclass(frozen=True)
class Cloze:
    """Twenty sentences and one with a blank, ``XXXXX``."""

    context: tuple[str, ...]
    query: str
    candidates: tuple[str, ...]
    """Ten words of one kind that all stand in the context, in alphabetical order."""
    answer: str
    kind: str


@dataclass(frozen=True)
class ProbeTask:
    """Texts in two classes: the value of a variable at the last piece is the first (0) or the second kind (1)."""

    variable: str
    kinds: tuple[str, str]
    train: tuple[tuple[str, int], ...]
    test: tuple[tuple[str, int], ...]


@dataclass
class _Query:
    person: Person | None
    thing: Thing | None
    target: str


@dataclass
class _Introduced:
    words: list[str]
    one: int
    """Which of the words is asked for."""
    rule: str
    target: Codes
    """What stands where the blank is, the blank included."""
    slots: dict[str, Any]


def _words(w: World, kind: str) -> dict[str, None]:
    """Return the words of a kind that the passage has said so far, in order."""
    said = {lex.TEXTS[(c & lex.FORM_MASK) | 2] for c in w.codes}
    match kind:
        case "owner":
            pool = [p.name_text for p in w.people]
        case "place":
            pool = [name for name, (preposition, _) in PLACES.items() if preposition == "in"]
        case "work":
            pool = [p.work for p in w.people if p.work]
        case "home":
            pool = [p.home for p in w.people] + [w.town]
        case _:
            pool = [o.lemma for o in w.things]
    return {word: None for word in pool if word in said}


def _queries(w: World, kind: str) -> list[_Query]:
    """Return what the passage settles: whom or what one may ask for."""
    things = [o for o in w.things if o.seen and not o.animal]
    if kind == "owner":
        return [_Query(o.owner, o, o.owner.name_text) for o in things if o.owner is not None]
    if kind == "place":
        return [_Query(None, o, o.place) for o in things if o.place and PLACES[o.place][0] == "in"]
    if kind == "thing":
        have = Counter(id(o.owner) for o in things if o.owner is not None)
        return [_Query(o.owner, o, o.lemma) for o in things if o.owner is not None and have[id(o.owner)] == 1]
    return [
        _Query(c, None, c.work if kind == "work" else c.home) for c in w.people if kind in c.told and (c.work or kind != "work")
    ]


def _cast(w: World, n: int, kind: str) -> None:
    """Introduce people with their things, one sentence each."""
    w.scene()
    ph.scene(w)
    w.most = 30
    free = [p for p, (preposition, _) in PLACES.items() if preposition == "in"]
    for _ in range(n):
        a = w.person("young" if w.chance(50) else "middle")
        o = w.thing(owner=a)
        spot = ""
        if kind in ("place", "home") or (kind != "work" and w.chance(40)):
            spot = w.pick(free)
            free.remove(spot)
        town.settle(w, a, o, spot)
    w.focus = w.pick(w.people)


def _passage(rng: Rng, part: Part, kind: str, people: int) -> World:
    w = World(rng, PARTS[part], "chronicle")
    _cast(w, people, kind)
    return w


def _ask(w: World, rule: str, query: _Query, target: Codes | Person | None) -> None:
    talk.fill(w, query.person, query.thing)
    w.say(rule, target=target)


def _items(seed: int, salt: int, kinds: tuple[str, ...], make: Callable[[Rng, str], object]) -> Iterator[object]:
    made = 0
    for index in count():
        kind = kinds[made % len(kinds)]
        item = make(Rng(seed, salt, index), kind)
        if item is not None:
            made += 1
            yield item


def lambada(seed: int, n: int, part: Part = "eval", kinds: tuple[str, ...] = KINDS) -> list[LastWord]:
    """Return passages whose last word is settled by what the passage told some sentences before.

    The last sentence fits every candidate alike; which of them is right follows from who was given what, where a thing was put,
    and what somebody is. The kinds take turns. The target stands in the passage before its last sentence.
    """

    def make(rng: Rng, kind: str) -> LastWord | None:
        w = _passage(rng, part, kind, 3 + rng.below(2))
        for _ in range(4 + rng.below(5)):
            talk.act(w, _TURNS)
        words, queries = _words(w, kind), _queries(w, kind)
        queries = [q for q in queries if q.target in words]
        if len(words) < 3 or not queries:
            return None
        query = w.pick(queries)
        word = (lex.NAMES[query.target],) if kind == "home" else lex.pieces(query.target) if kind != "owner" else ()
        _ask(w, "l_" + kind, query, word or query.person)
        document = w.document()
        last = w.sentences[-1]
        if any(text.strip(" ") in words for text in document.pieces[last:-2]):
            words = {word: None for word in words if word not in {text.strip(" ") for text in document.pieces[last:-2]}}
        if query.target not in words or len(words) < 3:
            return None
        return LastWord("".join(document.pieces[:-2]), query.target, tuple(words), kind)

    return list(islice(_items(seed, _LAMBADA + PARTS[part], kinds, make), n))  # pyright: ignore[reportReturnType]


def cbt(seed: int, n: int, part: Part = "eval", kinds: tuple[str, ...] = ASKED) -> list[Cloze]:
    """Return twenty sentences, a twenty-first with a blank, and ten candidates of one kind that all stand in the twenty.

    The first ten sentences introduce ten people, each with a thing; the next ten tell what happens. The twenty-first comes back
    to one of the ten in words of their introduction: which thing looked so, how a thing looked, where it was, what somebody
    worked as, who worked as that. The kinds take turns. By itself it fits every candidate alike, but for adjectives: not
    each goes with every thing (no kettle is of velvet, nothing is of two materials).
    """

    def make(rng: Rng, kind: str) -> Cloze | None:
        w = _passage(rng, part, "work" if kind == "owner" else kind, _CANDIDATES)
        asked = _introduced(w, kind)
        while len(w.sentences) < _SENTENCES:
            talk.act(w, _TURNS)
        if asked is None or len(w.sentences) != _SENTENCES:
            return None
        w.say(asked.rule, target=asked.target, **asked.slots)
        pieces = w.document().pieces
        bounds = [*w.sentences, len(pieces)]
        texts = ["".join(pieces[a:b]).strip() for a, b in pairwise(bounds)]
        if len(texts) != _SENTENCES + 1 or set(asked.words) & set(re.findall(r"\w+", texts[-1])):
            return None
        return Cloze(tuple(texts[:-1]), texts[-1], tuple(sorted(asked.words)), asked.words[asked.one], kind)

    return list(islice(_items(seed, _CBT + PARTS[part], kinds, make), n))  # pyright: ignore[reportReturnType]


def _introduced(w: World, kind: str) -> _Introduced | None:
    """Return a question about one of those who were just introduced, unless its answer could be another's as well."""
    people, things = w.people, [o for o in w.things if not o.animal]
    one = w.below(_CANDIDATES)
    if not len(people) == len(things) == len(w.sentences) == _CANDIDATES:
        return None
    o, jobs = things[one], [ph.job(p) for p in people]
    match kind:
        case "owner":
            words, told = [p.name_text for p in people], [p.work for p in people]
            rule, target, slots = "q_owner", _BLANK, {"an_job": jobs[one]}
        case "work":
            words = told = [p.work for p in people]
            rule, target, slots = "q_work", (jobs[one][0], *_BLANK), {"c": people[one]}
            if len({job[0] for job in jobs}) > 1:
                return None  # "a" or "an" before the blank would tell some of them apart
        case "place":
            words, told = [thing.place for thing in things], [thing.lemma for thing in things]
            ahead = lex.TEXTS[w.codes[w.sentences[one]] & lex.FORM_MASK].strip() == "In"
            rule, target, slots = "q_where" if ahead else "q_there", _BLANK, {"o": o, "an_o": (o.article, *o.full)}
        case "look":
            words = [thing.material or thing.colour or thing.size for thing in things]
            told = [thing.lemma for thing in things]
            rule, target, slots = "q_look", (*o.full[:-2], *_BLANK, o.full[-1]), {}
        case _:
            looks = [{thing.size, thing.colour, thing.material} for thing in things]
            words, told = [thing.lemma for thing in things], [looks[one] - {""} <= look for look in looks]
            rule, target, slots = "q_thing", (*o.full[:-1], *_BLANK), {}
            if len(o.full) == 1:
                return None
    if len(set(words)) < _CANDIDATES or "" in words or sum(each == told[one] for each in told) > 1:
        return None
    return _Introduced(words, one, rule, target, slots)


def common_kinds(variable: str, seed: int = 0) -> tuple[int, int]:
    """Return the two values of a variable that most documents have; "none" counts only where there is no other."""
    seen: Counter[int] = Counter()
    for document in islice(shared(seed, "train"), _SAMPLE):
        pairs = zip(document.labels(variable), document.pieces, strict=True)
        seen.update({label for label, piece in pairs if piece.strip()})
    order = sorted((value for value in seen if value), key=lambda value: (-seen[value], value))
    if len(order) < 2:
        order = [0, *order]
    return order[0], order[1]


def probe_task(variable: str, seed: int, n: int, kinds: tuple[str, str] | None = None) -> ProbeTask:
    """Return ``n`` texts to train and ``n`` to test on, half of them of each kind, none in both.

    Each text begins with a sentence, ends with the piece whose label is asked for, and is about 50 pieces long at most.
    Training texts come from the corpus's training part, test texts from its evaluation part.

    Args:
        variable: A name in ``VARIABLES``.
        seed: Seeds the documents that are searched; they are not those of ``generate`` with the same seed.
        n: Texts in each split, an even number.
        kinds: The two values to tell apart; the two most usual by default.

    Raises:
        InputError: The variable is unknown, or too few texts have its values.
    """
    if variable not in VARIABLES:
        raise InputError(f"no variable is called {variable}; see VARIABLES")
    values = VARIABLES[variable].values
    if kinds is not None and not set(kinds) <= set(values):
        raise InputError(f"{variable} has no values {kinds}")
    pair = common_kinds(variable) if kinds is None else (values.index(kinds[0]), values.index(kinds[1]))
    used: set[str] = set()
    train = _labelled(variable, seed, n, "train", pair, used)
    test = _labelled(variable, seed, n, "eval", pair, used)
    return ProbeTask(variable, (values[pair[0]], values[pair[1]]), train, test)


def _labelled(variable: str, seed: int, n: int, part: Part, pair: tuple[int, int], used: set[str]) -> tuple[tuple[str, int], ...]:
    found: tuple[list[str], list[str]] = ([], [])
    half = n // 2
    rng = Rng(seed, _PROBE, PARTS[part])
    for document in islice(shared(seed + (_PROBE << 32), part), _PATIENCE):
        labels = document.labels(variable)
        for kind in (0, 1):
            if len(found[kind]) == half:
                continue
            places = [at for at, label in enumerate(labels) if label == pair[kind] and document.pieces[at].strip()]
            for _ in range(_A_DOCUMENT):
                if places and len(found[kind]) < half:
                    text = _window(document.pieces, document.sentences, rng.pick(places))
                    if text not in used:
                        used.add(text)
                        found[kind].append(text)
        if len(found[0]) == len(found[1]) == half:
            mixed = [(text, kind) for kind in (0, 1) for text in found[kind]]
            return tuple(rng.sample(mixed, len(mixed)))
    raise InputError(f"too few texts have the values {pair} of {variable}; ask for fewer than {n}")


def _window(pieces: list[str], sentences: list[int], at: int) -> str:
    begin = next((start for start in sentences if at - _WINDOW <= start <= at), max(at - _WINDOW, 0))
    return "".join(pieces[begin : at + 1]).strip()

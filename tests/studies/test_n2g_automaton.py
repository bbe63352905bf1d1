"""The automaton against walks of one trie at one position at a time."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.studies.n2g import automaton as module
from saebench.studies.n2g.automaton import Automaton
from saebench.studies.n2g.patterns import ANY, Pattern, Trie
from tests.studies.n2g_cases import any_match, nested, published_match

VOCABULARY = 6


def random_tries(rng: np.random.Generator, n: int) -> list[Trie]:
    tries: list[Trie] = []
    for _ in range(n):
        trie: Trie = {}
        for _ in range(rng.integers(0, 9)):
            path = tuple(int(t) for t in rng.choice([ANY, *range(VOCABULARY)], rng.integers(1, 6)))
            trie[Pattern(path, bool(rng.random() < 0.25))] = float(rng.random())
        tries.append(trie)
    return tries


@pytest.mark.parametrize("backtrack", [False, True])
@pytest.mark.parametrize("first", [0, 1])
def test_matches_are_those_of_walking_each_trie(backtrack: bool, first: int, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(7 + first)
    tries = random_tries(rng, 40)
    tokens = rng.integers(0, VOCABULARY, (12, 11))
    where = rng.random(tokens.shape) < 0.8
    match = any_match if backtrack else published_match
    want = {}
    for latent, trie in enumerate(map(nested, tries)):
        for context, row in enumerate(tokens.tolist()):
            for position in range(first, 11):
                act = match(trie, row[first:], position - first)
                if where[context, position] and act is not None:
                    want[context, position, latent] = act
    assert len(want) > 500
    automaton = Automaton(tries, VOCABULARY)
    found = automaton.matches(tokens, where, first=first, backtrack=backtrack)
    places = list(zip(found.context.tolist(), found.position.tolist(), found.latent.tolist(), strict=True))
    assert places == sorted(want) and dict(zip(places, found.act.tolist(), strict=True)) == want
    monkeypatch.setattr(module, "_WALKS", 1)
    again = automaton.matches(tokens, where, first=first, backtrack=backtrack)
    assert all(np.array_equal(a, b) for a, b in zip(again, found, strict=True))


def test_the_miss_that_the_published_code_admits():
    """Patterns a c, * c and a * c at hand: of "a b b c" nothing is found going for b first."""
    a, b, c = 0, 1, 2
    tries: list[Trie] = [{Pattern((c, b, a), False): 1.0, Pattern((c, ANY, ANY, a), False): 2.0}]
    tokens, where = np.array([[a, b, b, c]]), np.ones((1, 4), dtype=bool)
    automaton = Automaton(tries, 3)
    assert not len(automaton.matches(tokens, where, first=0, backtrack=False).act)
    found = automaton.matches(tokens, where, first=0, backtrack=True)
    assert (found.position.tolist(), found.act.tolist()) == ([3], [2.0])


def test_no_patterns_match_nothing():
    where = np.ones((2, 3), dtype=bool)
    for tries in ([], [{}, {}]):
        found = Automaton(tries, 5).matches(np.zeros((2, 3), dtype=np.int64), where, first=0, backtrack=True)
        assert [len(part) for part in found] == [0] * 4

"""All patterns of all latents as one automaton over token ids, and where in a text they match.

Each latent has a trie of its patterns, read from the last token backwards. The tries are compiled into one table of transitions.
From every token of a text all tries are walked at once: those whose patterns end in this token are looked up, and only walks that
are still alive take the next step. The cost is that of the walks, not of latents × tokens.

Letters: ``B`` contexts, ``L`` positions, ``N`` nodes, ``E`` transitions, ``M`` matches, ``W`` walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from saebench.studies.n2g.patterns import ANY, Trie

_WALKS = 1 << 22
"""Walks begun at once."""


class Matches(NamedTuple):
    """Where patterns match; at most one match a position and latent, sorted by both."""

    context: Int[np.ndarray, " M"]
    position: Int[np.ndarray, " M"]
    latent: Int[np.ndarray, " M"]
    """Index into the tries given."""
    act: Float[np.ndarray, " M"]
    """The activation that the pattern promises."""


class _Walks(NamedTuple):
    place: NDArray[np.int64]
    """Where it began: context · L + position."""
    node: NDArray[np.int64]
    at: NDArray[np.int64]
    """Position of the token to read next."""


class Automaton:
    """The compiled patterns.

    Args:
        tries: One a latent.
        d_vocab: Token ids are below this.
    """

    def __init__(self, tries: Sequence[Trie], d_vocab: int) -> None:
        self._d_vocab = d_vocab
        self._latent: list[int] = []
        self._act: list[float] = []
        self._act_at_start: list[float] = []
        self._other: list[int] = []
        keys: list[int] = []
        targets: list[int] = []
        roots: list[int] = []
        for latent, trie in enumerate(tries):
            roots.append(self._compile(latent, trie, keys, targets))
        order = np.argsort(np.array(keys, dtype=np.int64))
        self._keys, self._targets = np.array(keys, dtype=np.int64)[order], np.array(targets, dtype=np.int64)[order]
        self.latent = np.array(self._latent, dtype=np.int64)
        self.act, self.act_at_start = np.array(self._act), np.array(self._act_at_start)
        self.other = np.array(self._other, dtype=np.int64)
        self._index_roots(np.array(roots, dtype=np.int64))

    def _compile(self, latent: int, trie: Trie, keys: list[int], targets: list[int]) -> int:
        """Add one trie, depth first, known tokens before ``ANY``, so that the match that is tried first has the lower node."""
        tree: dict[int, dict] = {}
        acts: dict[int, list[float]] = {}
        for pattern, act in trie.items():
            node = tree
            for token in pattern.path:
                node = node.setdefault(token, {})
            acts.setdefault(id(node), [np.nan, np.nan])[pattern.at_start] = act
        root = len(self._latent)
        stack: list[tuple[dict[int, dict], int, int]] = [(tree, -1, 0)]
        while stack:
            node, parent, token = stack.pop()
            here = len(self._latent)
            inside, at_start = acts.get(id(node), (np.nan, np.nan))
            self._latent.append(latent)
            self._act.append(inside)
            self._act_at_start.append(at_start)
            self._other.append(-1)
            if parent >= 0 and token == ANY:
                self._other[parent] = here
            elif parent >= 0:
                keys.append(parent * self._d_vocab + token)
                targets.append(here)
            if np.isnan(inside):  # what lies behind a match is never reached
                stack += [(node[token], here, token) for token in sorted(node)]  # ANY is lowest, and popped last
        return root

    def _index_roots(self, roots: NDArray[np.int64]) -> None:
        """Sort the roots into those that wait for certain tokens, by token, and those that take any."""
        open_ = self.other[roots] >= 0
        self._open_roots = roots[open_]
        waits = np.isin(self._keys // self._d_vocab, roots[~open_])
        tokens, targets = self._keys[waits] % self._d_vocab, self._targets[waits]
        order = np.argsort(tokens, kind="stable")
        self._first = np.searchsorted(tokens[order], np.arange(self._d_vocab + 1))
        self._first_targets = targets[order]

    def matches(self, tokens: Int[np.ndarray, "B L"], where: Bool[np.ndarray, "B L"], *, first: int, backtrack: bool) -> Matches:
        """Return where patterns match.

        A walk takes a known token before ``ANY``. As published it never comes back to ``ANY`` when the known token leads nowhere,
        so that it misses matches; with ``backtrack`` it does, and finds the first match in that order if there is one. Either way
        it ends at the shortest pattern on its way.

        Args:
            tokens: Token ids, BOS included.
            where: Positions that are asked about.
            first: Position where texts begin: 1 behind BOS, else 0.
            backtrack: See above.
        """
        length = tokens.shape[1]
        step = max(1, _WALKS // (length * max(1, len(self._open_roots))))
        found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        for start in range(0, len(tokens), step):
            found += [
                (place + start * length, node, act)
                for place, node, act in self._walk(tokens[start : start + step], where[start : start + step], first, backtrack)
            ]
        place = np.concatenate([np.zeros(0, dtype=np.int64), *(f[0] for f in found)])
        node = np.concatenate([np.zeros(0, dtype=np.int64), *(f[1] for f in found)])
        act = np.concatenate([np.zeros(0), *(f[2] for f in found)])
        latent = self.latent[node]
        order = np.lexsort((node, latent, place))
        place, latent, act = place[order], latent[order], act[order]
        new = np.ones(len(place), dtype=bool)
        new[1:] = (place[1:] != place[:-1]) | (latent[1:] != latent[:-1])
        place = place[new]
        return Matches(place // length, place % length, latent[new], act[new])

    def _walk(
        self, tokens: NDArray[np.int64], where: NDArray[np.bool_], first: int, backtrack: bool
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        length, flat = tokens.shape[1], tokens.ravel()
        begins = np.flatnonzero(where)
        begins = begins[begins % length >= first]
        counts = np.diff(self._first)[flat[begins]]
        place = np.repeat(begins, counts)
        skipped = np.repeat(self._first[flat[begins]] - (counts.cumsum() - counts), counts)
        arrived = _Walks(place, self._first_targets[skipped + np.arange(len(place))], place % length)
        open_place = np.repeat(begins, len(self._open_roots))
        walks = _Walks(open_place, np.tile(self._open_roots, len(begins)), open_place % length)
        found = []
        while True:
            stepped = self._step(walks, flat[walks.place - walks.place % length + walks.at], backtrack)
            arrived = _Walks(*(np.concatenate(pair) for pair in zip(arrived, stepped, strict=True)))
            if not len(arrived.place):
                return found
            act = self.act[arrived.node]
            ended = arrived.at == first
            act = np.where(np.isnan(act) & ended, self.act_at_start[arrived.node], act)
            matched = ~np.isnan(act)
            found.append((arrived.place[matched], arrived.node[matched], act[matched]))
            on = ~matched & ~ended
            walks = _Walks(arrived.place[on], arrived.node[on], arrived.at[on] - 1)
            arrived = _Walks(*(part[:0] for part in walks))

    def _step(self, walks: _Walks, token: NDArray[np.int64], backtrack: bool) -> _Walks:
        """Return where the walks are when they have read ``token``; those that cannot go on are left out."""
        other = self.other[walks.node]
        known = np.full(len(token), -1, dtype=np.int64)
        if len(self._keys):
            key = walks.node * self._d_vocab + token
            at = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            known = np.where(self._keys[at] == key, self._targets[at], -1)
        if not backtrack:
            other = np.where(known >= 0, -1, other)
        parts = [_Walks(walks.place[to >= 0], to[to >= 0], walks.at[to >= 0]) for to in (known, other)]
        return _Walks(*(np.concatenate(pair) for pair in zip(*parts, strict=True)))

"""Texts as a tree of their beginnings: each token that several texts have at the same place, with the same before it, once.

Letters: ``N`` places of a tree, ``T`` texts, ``L`` tokens of the longest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

_CELLS = 1 << 20
"""Tokens, padding included, that are looked at at once."""

Text = tuple[int, ...]


class Tree(NamedTuple):
    """Texts, each of which is what it shares with those before it and some tokens of its own."""

    tokens: Int[np.ndarray, " N"]
    depth: Int[np.ndarray, " N"]
    """Position of each token in its own text."""
    path: Int[np.ndarray, "T L"]
    """The places of each text's tokens; behind its end, any place."""
    length: Int[np.ndarray, " T"]
    """Tokens of each text."""
    shared: Int[np.ndarray, " T"]
    """How many of them are places of texts before it; fewer than all."""

    @property
    def ends(self) -> Int[np.ndarray, " T"]:
        """The place of each text's last token."""
        return self.path[np.arange(len(self.length)), self.length - 1]


def grow(texts: Sequence[Text], capacity: int) -> Iterator[tuple[Int[np.ndarray, " T"], Tree]]:
    """Yield trees that hold all texts, each with the numbers of its texts.

    Args:
        texts: No two alike, none empty.
        capacity: Tokens of a tree; one holds at least one text.
    """
    order = sorted(range(len(texts)), key=texts.__getitem__)
    step = max(1, _CELLS // max(map(len, texts), default=1))
    for begin in range(0, len(order), step):
        some = order[begin : begin + step]
        length = np.fromiter((len(texts[i]) for i in some), np.int64, len(some))
        inside = np.arange(int(length.max())) < length[:, None]
        tokens = np.full(inside.shape, -1)
        tokens[inside] = np.fromiter(itertools.chain.from_iterable(texts[i] for i in some), np.int64, int(length.sum()))
        differ = tokens[1:] != tokens[:-1]  # true somewhere in each row, as no two texts are alike
        shared = np.concatenate([[0], differ.argmax(1)])
        behind = (length - shared).cumsum()
        numbers, start = np.array(some), 0
        while start < len(some):
            room = capacity - shared[start] + (behind[start - 1] if start else 0)  # of the first nothing is shared
            stop = max(start + 1, int(np.searchsorted(behind, room, side="right")))
            part = slice(start, stop)
            yield numbers[part], _tree(tokens[part], inside[part], length[part], shared[part])
            start = stop


def _tree(
    tokens: Int[np.ndarray, "T L"], inside: Bool[np.ndarray, "T L"], length: Int[np.ndarray, " T"], shared: Int[np.ndarray, " T"]
) -> Tree:
    """Return the tree of sorted texts, of which the first shares nothing, whatever is said of it."""
    shared = np.concatenate([[0], shared[1:]])
    n = int(length.max())
    tokens, inside = tokens[:, :n], inside[:, :n]
    own = inside & (np.arange(n) >= shared[:, None])
    path = np.zeros(own.shape, dtype=np.int64)
    path[own] = np.arange(own.sum())
    # what is shared is the latest place of that depth
    path = np.maximum.accumulate(path, axis=0)
    return Tree(tokens[own], np.nonzero(own)[1], path, length, shared)

"""Documents that are read from the first on again and again: written once, kept small."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count

from saebench.data.storyworld.document import Document
from saebench.data.storyworld.generate import Part, write

_KEPT = 2_048
"""Documents of one seed and part that are kept, about 8 kB each; those behind them are written whenever they are read."""


@lru_cache(maxsize=4)
def shared(seed: int, part: Part) -> SharedDocuments:
    """Return the documents of a seed and part, the same object for all who read them; those of few seeds are kept."""
    return SharedDocuments(seed, part)


class SharedDocuments:
    """What ``generate`` yields, to be gone through any number of times.

    Args:
        seed: As for ``generate``.
        part: Likewise.
    """

    def __init__(self, seed: int, part: Part) -> None:
        self._seed = seed
        self._part: Part = part
        self._kept: list[Document] = []

    def __iter__(self) -> Iterator[Document]:
        """Yield every document from the first on, without end; a new object each time, so that labels are not kept."""
        for index in count():
            if index < len(self._kept):
                yield replace(self._kept[index])
                continue
            document = write(self._seed, self._part, index)
            if index == len(self._kept) and index < _KEPT:
                self._kept.append(_small(document))
            yield document


def _small(document: Document) -> Document:
    """Return the document with machine numbers, and with each state once, in place of lists of numbers and tuples."""
    known = {state: state for state in map(_bytes, document.states)}
    return replace(
        document,
        codes=array("Q", document.codes),
        marks=array("L", document.marks),
        states=[known[_bytes(state)] for state in document.states],
    )


def _bytes(state: tuple[int, ...]) -> bytes | tuple[int, ...]:
    return bytes(state) if max(state, default=0) < 256 else state

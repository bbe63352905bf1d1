"""What one pass over a text tells of some latents: how often and how strongly they fire, and where.

Of each latent the contexts with the largest activations and some random activations are kept, with the activations of these
contexts; nothing else outlives a batch.

Letters: ``S`` d_sae, ``C`` latents that are watched, ``L`` positions, ``Z`` activations.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from saebench.dashboard.histogram import Bar, Histogram
from saebench.studies.n2g.reading import Fired
from saebench.studies.n2g.sampling import Kept


class Example(NamedTuple):
    """A place where a latent fires, and what it does in all of that context."""

    context: int
    position: int
    """The largest activation of the context, or the one that was drawn."""
    values: dict[int, float]
    """Activation by position, where it is not 0."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one latent."""

    latent: int
    n_fires: int
    """Tokens at which it is not 0."""
    mean: float | None
    """Mean activation over them."""
    largest: float | None
    """The activation of largest size."""
    bars: list[Bar]
    """Histogram of the activations that are not 0."""
    top: list[Example]
    """Contexts with the largest activations, largest first; of equal ones the earlier context."""
    random: list[Example]
    """Activations drawn at random, in random order; two may lie in one context."""


class Collector:
    """Watches some latents of one SAE.

    Args:
        latents: Which.
        d_sae: ``S``.
        length: ``L``.
        n_top: Contexts with the largest activations to keep of each.
        n_random: Random activations to keep of each.
        seed: Chooses these; the choice depends on neither the batch size nor the other latents.
    """

    def __init__(self, latents: Int[np.ndarray, " C"], *, d_sae: int, length: int, n_top: int, n_random: int, seed: int) -> None:
        self._latents, self._length, self._n_top = latents, length, n_top
        self._slot = np.full(d_sae, -1, dtype=np.int64)
        self._slot[latents] = np.arange(len(latents))
        self._n = np.zeros(len(latents), dtype=np.int64)
        self._total = np.zeros(len(latents))
        self._histograms = [Histogram() for _ in latents]
        self._heaps: list[list[tuple[float, int]]] = [[] for _ in latents]
        """(size, −context), the smallest first."""
        self._random = Kept(len(latents), n_random, seed)
        self._rows: dict[tuple[int, int], dict[int, float]] = {}
        """Activations by position of the contexts that are kept, by (slot, context)."""
        self.n_not_finite = 0
        """Activations that were left out, as they are infinite or NaN."""

    def add(self, fired: Iterable[Fired]) -> None:
        """Take a batch of whole contexts that were not there before."""
        parts = [self._own(some) for some in fired]
        if not parts:
            return
        slot, place, value = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        if not len(slot):
            return
        self._n += np.bincount(slot, minlength=len(self._n))
        self._total += np.bincount(slot, value, minlength=len(self._n))
        self._random.add(slot, self._latents[slot], place, value)
        n_contexts = int(place.max(initial=0)) // self._length + 1
        group = slot * n_contexts + place // self._length
        order = np.argsort(group, kind="stable")
        edges = np.flatnonzero(np.diff(group[order], prepend=-1, append=-1))
        rows: dict[tuple[int, int], dict[int, float]] = {}
        for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            some = order[start:stop]
            number, context = divmod(int(group[some[0]]), n_contexts)
            self._push(number, float(np.abs(value[some]).max()), context)
            rows[number, context] = dict(zip((place[some] % self._length).tolist(), value[some].tolist(), strict=True))
        for number in np.unique(slot).tolist():
            self._histograms[number].add(value[slot == number])
            wanted = {(number, -context) for _, context in self._heaps[number]}
            wanted |= {(number, place // self._length) for place in self._random.of(number)[0].tolist()}
            for key in [key for key in self._rows if key[0] == number and key not in wanted]:
                del self._rows[key]
            self._rows |= {key: rows[key] for key in wanted & rows.keys()}

    def _own(self, some: Fired) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Return (slot, place, value) of the activations of watched latents that are finite."""
        slot = self._slot[some.latent]
        ours = slot >= 0
        finite = np.isfinite(some.value)
        self.n_not_finite += int((ours & ~finite).sum())
        ours &= finite
        return slot[ours], some.place[ours], some.value[ours]

    def _push(self, number: int, size: float, context: int) -> None:
        heap, entry = self._heaps[number], (size, -context)
        if len(heap) < self._n_top:
            heapq.heappush(heap, entry)
        elif heap and entry > heap[0]:
            heapq.heapreplace(heap, entry)

    def seen(self) -> list[Seen]:
        """Return what was seen of each latent, in the order in which they were named."""
        return [self._seen(number, latent) for number, latent in enumerate(self._latents.tolist())]

    def _seen(self, number: int, latent: int) -> Seen:
        n = int(self._n[number])
        top: list[Example] = []
        for _, context in sorted(self._heaps[number], reverse=True):
            row = self._rows[number, -context]
            top.append(Example(-context, max(row, key=lambda position, row=row: abs(row[position])), row))
        places = self._random.of(number)[0].tolist()
        return Seen(
            latent=latent,
            n_fires=n,
            mean=float(self._total[number]) / n if n else None,
            largest=top[0].values[top[0].position] if top else None,
            bars=self._histograms[number].bars(),
            top=top,
            random=[
                Example(place // self._length, place % self._length, self._rows[number, place // self._length])
                for place in places
            ],
        )


def densities(batches: Iterable[Iterable[Fired]], d_sae: int) -> Int[np.ndarray, " S"]:
    """Return at how many tokens each latent of an SAE fires.

    Args:
        batches: All of a text.
        d_sae: ``S``.
    """
    counts = np.zeros(d_sae, dtype=np.int64)
    for fired in batches:
        for some in fired:
            counts += np.bincount(some.latent, minlength=d_sae)
    return counts

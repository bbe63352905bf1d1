"""A histogram of numbers that come in parts and whose range is not known beforehand."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BINS = 64
"""Bins of either sign."""


class Bar(NamedTuple):
    """Numbers from ``low`` to ``high``, the end that is nearer to 0 included and the other one not."""

    low: float
    high: float
    n: int


class Histogram:
    """Counts in bins of one width, a power of two, which doubles as larger numbers come.

    A bin is then two of the bins before, so nothing depends on the order of the numbers: the width is 2^e / 64 with the smallest
    e for which all |x| < 2^e.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, BINS), dtype=np.int64)
        self._exponent: int | None = None

    def add(self, values: Float[np.ndarray, " n"]) -> None:
        """Count some numbers, all finite."""
        if not len(values):
            return
        size = np.abs(values)
        wanted = math.frexp(float(size.max()))[1]
        if self._exponent is None:
            self._exponent = wanted
        if wanted > self._exponent:
            self._widen(wanted - self._exponent)
            self._exponent = wanted
        bins = np.floor(np.ldexp(size, -self._exponent) * BINS).astype(np.int64)
        for i, own in enumerate((values >= 0, values < 0)):
            self._counts[i] += np.bincount(bins[own], minlength=BINS)

    def _widen(self, doublings: int) -> None:
        together = min(1 << min(doublings, 62), BINS)
        merged = self._counts.reshape(2, BINS // together, together).sum(2)
        self._counts[:] = 0
        self._counts[:, : merged.shape[1]] = merged

    def bars(self) -> list[Bar]:
        """Return the bins from the lowest number to the highest or to 0, empty ones between them included."""
        if self._exponent is None:
            return []
        width = math.ldexp(1.0, self._exponent) / BINS
        positive, negative = (counts[: int(np.flatnonzero(counts).max(initial=-1)) + 1].tolist() for counts in self._counts)
        bars = [Bar(-(i + 1) * width, -i * width, n) for i, n in reversed(list(enumerate(negative)))]
        return bars + [Bar(i * width, (i + 1) * width, n) for i, n in enumerate(positive)]

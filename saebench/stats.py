"""Sums first, ratios once: accumulators and standard errors clustered by context.

Tokens of one context are not independent, so every standard error here treats the context as the unit: for a ratio of sums
R = Σ_c a_c / Σ_c b_c the linearised estimator is used (Cochran, *Sampling Techniques*, 3rd ed., §6.3):

    se(R)² = C/(C−1) · Σ_c (a_c − R b_c)² / (Σ_c b_c)²

with C the number of contexts. A mean over tokens is the case where b_c counts tokens. Imports numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
INTERVAL = (2.5, 97.5)
"""The percentiles between which 95% lie."""
_AT_ONCE = 1 << 22
"""Counts of a bootstrap that are held."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its standard error and the number of tokens it is over; ``value`` is ``None`` where undefined."""

    value: float | None
    stderr: float | None = None
    n: int = 0
    reason: str | None = None


def ratio(a: Floats, b: Floats, *, n: int, reason: str = "the denominator is 0") -> Estimate:
    """Return Σa / Σb with its standard error clustered by context.

    Args:
        a: Numerator sums, one a context ``[C]``.
        b: Denominator sums, one a context ``[C]``.
        n: Tokens behind the sums.
        reason: What to say when Σb is 0.
    """
    total = float(b.sum())
    if total == 0 or n == 0:
        return Estimate(value=None, n=n, reason=reason)
    value = float(a.sum()) / total
    return Estimate(value=value, stderr=_spread(a - value * b, b != 0, total), n=n)


def ratio_of_means(a: Floats, n_a: Floats, b: Floats, n_b: Floats, *, reason: str) -> Estimate:
    """Return (Σa/Σn_a) / (Σb/Σn_b), each sum over contexts, with its clustered standard error (delta method).

    Args:
        a: Numerator sums ``[C]``.
        n_a: Numerator counts ``[C]``.
        b: Denominator sums ``[C]``.
        n_b: Denominator counts ``[C]``.
        reason: What to say when it is undefined.
    """
    counts = float(n_a.sum()), float(n_b.sum())
    if not all(counts) or float(b.sum()) == 0:
        return Estimate(value=None, reason=reason)
    mean_a, mean_b = float(a.sum()) / counts[0], float(b.sum()) / counts[1]
    value = mean_a / mean_b
    influence = (a - mean_a * n_a) / counts[0] / mean_b - value * (b - mean_b * n_b) / counts[1] / mean_b
    return Estimate(value=value, stderr=_spread(influence, (n_a != 0) | (n_b != 0), 1.0), n=int(counts[0] + counts[1]))


def _spread(residuals: Floats, used: NDArray[np.bool_], total: float) -> float | None:
    clusters = int(used.sum())
    if clusters < 2:
        return None
    return float(np.sqrt(clusters / (clusters - 1) * np.square(residuals[used]).sum()) / abs(total))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two means over the same things, and their difference."""

    a: float
    b: float
    difference: float
    """b − a."""
    stderr: float | None
    """Deviation of the things' differences / √n; ``None`` of one thing alone."""
    low: float | None
    high: float | None
    """Between these lie 95% of the differences that draws of the things give."""
    n: int
    n_higher: int
    """Things of which b is above a."""
    n_lower: int


def paired(a: Floats, b: Floats, *, draws: int = 10_000, seed: int = 0) -> Paired:
    """Return mean(b − a), with the percentile interval of a bootstrap that draws things, each with both its values.

    What a thing has in common for both, a hard task say, falls out of the difference: the interval is as a rule much narrower
    than the two standard errors say. Efron and Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13.

    Args:
        a: One value a thing ``[n]``, n ≥ 1.
        b: The other one's values of the same things ``[n]``.
        draws: Of the bootstrap.
        seed: Likewise.
    """
    d, n = b - a, len(a)
    low = high = stderr = None
    if n > 1:
        rng, some = np.random.default_rng(seed), max(1, _AT_ONCE // n)
        means = np.concatenate([drawn(n, min(some, draws - i), rng) @ d / n for i in range(0, draws, some)])
        low, high = (float(x) for x in np.percentile(means, INTERVAL))
        stderr = float(d.std(ddof=1) / np.sqrt(n))
    return Paired(
        a=float(a.mean()), b=float(b.mean()), difference=float(d.mean()), stderr=stderr, low=low, high=high, n=n,
        n_higher=int((d > 0).sum()), n_lower=int((d < 0).sum()),
    )  # fmt: skip


def drawn(n: int, draws: int, rng: np.random.Generator) -> Floats:
    """Return how often each of n things is drawn when n are drawn with replacement ``[draws, n]``."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64)


def add_at(sums: NDArray[Any], index: NDArray[np.int64], values: Floats | None = None) -> None:
    """Add ``values`` (1 each if ``None``) to ``sums`` at ``index``; the cost grows with the span of ``index``, not with ``sums``.

    Args:
        sums: ``[C]``, changed in place.
        index: ``[m]``.
        values: ``[m]``.
    """
    if len(index):
        low, high = int(index.min()), int(index.max())
        sums[low : high + 1] += np.bincount(index - low, values, high - low + 1)


@dataclass(frozen=True, kw_only=True)
class Window:
    """Positions ``start`` ≤ p < ``stop`` (counted from 0 = BOS)."""

    name: str
    start: int
    stop: int


class Tally:
    """Sums of one per-token quantity by context, by window of positions and by position, in float64.

    Args:
        n_contexts: ``C``, contexts in the corpus.
        length: ``L``, positions in a context.
        windows: Position windows whose means are wanted besides the whole.
    """

    def __init__(self, n_contexts: int, length: int, windows: tuple[Window, ...] = ()) -> None:
        self.windows = windows
        self._index = {w.name: i + 1 for i, w in enumerate(windows)}
        self._sums = np.zeros((n_contexts, len(windows) + 1))
        self._counts = np.zeros((n_contexts, len(windows) + 1))
        self._pos_sum = np.zeros(length)
        self._pos_square = np.zeros(length)
        self._pos_n = np.zeros(length, dtype=np.int64)
        self._shift: float | None = None

    def add(self, values: Floats, context: NDArray[np.int64], position: NDArray[np.int64]) -> None:
        """Add one value per token.

        Args:
            values: ``[m]`` values.
            context: ``[m]`` context of each.
            position: ``[m]`` position of each.
        """
        if not len(values):
            return
        if self._shift is None:
            self._shift = float(values[0])
        add_at(self._sums[:, 0], context, values)
        add_at(self._counts[:, 0], context)
        for i, w in enumerate(self.windows, 1):
            inside = (position >= w.start) & (position < w.stop)
            if inside.any():
                add_at(self._sums[:, i], context[inside], values[inside])
                add_at(self._counts[:, i], context[inside])
        shifted = values - self._shift
        add_at(self._pos_sum, position, shifted)
        add_at(self._pos_square, position, shifted * shifted)
        add_at(self._pos_n, position)

    def sums(self, window: str | None = None) -> tuple[Floats, Floats]:
        """Return (sums, counts) per context ``[C]``, over all positions or one window."""
        column = 0 if window is None else self._index[window]
        return self._sums[:, column], self._counts[:, column]

    def mean(self, window: str | None = None) -> Estimate:
        """Return the mean over tokens, with its standard error clustered by context."""
        sums, counts = self.sums(window)
        return ratio(sums, counts, n=int(counts.sum()), reason="no token lies there")

    def by_position(self) -> tuple[list[float | None], list[float | None], list[int]]:
        """Return (means, standard errors over contexts, counts), one entry a position; ``None`` where nothing was seen."""
        means: list[float | None] = []
        errors: list[float | None] = []
        shift = self._shift or 0.0
        for total, square, n in zip(self._pos_sum, self._pos_square, self._pos_n, strict=True):
            means.append(float(total / n + shift) if n else None)
            variance = max(0.0, float(square - total * total / n)) / (n - 1) if n > 1 else None
            errors.append(float(np.sqrt(variance / n)) if variance is not None else None)
        return means, errors, [int(n) for n in self._pos_n]

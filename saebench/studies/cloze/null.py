"""What chance gives a latent that is active in n of N prompts: the null of its mean and of its ±1 score.

Under the null the n prompts are drawn without replacement from the same N. A latent that is active in half of the prompts of a
task where most Δ ln p are negative has a negative score whatever it does; only what goes beyond that says something about it.

Letters: ``N`` prompts, ``T`` latents that are tested, ``A`` atoms of the population.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_WIDTH = 0.05
"""Values within this many standard deviations of each other may count as one, at their mean: w² below is then wrong by less
than 1 in 2,000, and the cost does not grow with N."""
_CENTRE = 0.01
_STEPS = 60
_BLOCK = 1 << 17


class Null(NamedTuple):
    """How far from chance, one entry a latent; NaN where all N values are the same."""

    z: Floats
    """(observed − expected) / standard deviation under the null."""
    p: Floats
    """Two-sided: twice the smaller tail, at most 1."""


def mean_null(values: Floats, n: Ints, total: Floats) -> Null:
    """Return how far the mean of n of the N values is from that of n drawn without replacement.

    z = (mean − μ) / √(σ²/n · (N − n)/(N − 1)), with μ and σ² (divided by N) of all values; this much is exact. The tails are not
    those of a normal distribution where n is small and values are skewed, as Δ ln p is, so p comes from the saddlepoint
    approximation of the permutation distribution: with independent inclusion indicators, K(s, t) = Σ ln(1 + exp(s + t y_i)) is
    the joint cumulant generating function, up to a constant, of their number and their sum; its tilt to (n, S) and the tilt of
    the number alone give r and u, and P(sum ≥ S) ≈ 1 − Φ(r + ln(u/r)/r). Near the largest sum there is, where few draws are left,
    exp(min (K − s n − t S)) bounds their number, and p is taken from that if it is smaller. No tail is that of less than one draw
    of C(N, n).

    Args:
        values: Δ ln p of all prompts ``[N]``.
        n: In how many prompts each latent is active ``[T]``, 1 … N − 1.
        total: Σ Δ ln p over those prompts ``[T]``.

    Source: Cochran, *Sampling Techniques*, 3rd ed., ch. 2 (mean and variance); Robinson 1982, JRSS B 44; Booth & Butler 1990,
    Biometrika 77; r* of Barndorff-Nielsen as in Davison & Hinkley 1997, §9.5.
    """
    size = len(values)
    mean, deviation = float(values.mean()), float(values.std())
    if not deviation > 1e-12 * max(1.0, abs(mean)):
        return Null(np.full(len(n), np.nan), np.full(len(n), np.nan))
    sums = (total - n * mean) / deviation
    z = sums / np.sqrt(n * (size - n) / (size - 1))
    atoms, counts = _atoms((values - mean) / deviation)
    p = np.empty(len(n))
    block = max(1, _BLOCK // len(atoms))
    for start in range(0, len(n), block):
        part = slice(start, start + block)
        p[part] = _two_sided(atoms, counts, n[part].astype(np.float64), sums[part], z[part])
    return Null(z, p)


def sign_null(n_good: int, size: int, n: Ints, good: Ints) -> Null:
    """Return how far a ±1 score is from chance: with X of n prompts good, the score is 2 X − n, and X is hypergeometric.

    z = (X − n q) / √(n q (1 − q) (N − n)/(N − 1)) with q = n_good/N; p is exact, and 1 with z NaN where all prompts are alike.

    Args:
        n_good: Prompts of all ``N`` with Δ ln p ≥ 0.
        size: ``N``.
        n: In how many prompts each latent is active ``[T]``, 1 … N − 1.
        good: In how many of those Δ ln p ≥ 0 ``[T]``.
    """
    from scipy.stats import hypergeom

    share = n_good / size
    deviation = np.sqrt(n * share * (1 - share) * (size - n) / (size - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(deviation > 0, (good - n * share) / deviation, np.nan)
    lower = hypergeom.cdf(good, size, n_good, n)
    upper = hypergeom.sf(good - 1, size, n_good, n)
    return Null(z, np.minimum(1.0, 2 * np.minimum(lower, upper)))


def q_values(p: Floats) -> Floats:
    """Return the smallest false discovery rate at which each p would be taken for a finding (Benjamini & Hochberg 1995)."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(p) if len(p) else p


def _atoms(y: Floats) -> tuple[Floats, Floats]:
    """Return (value, number) of groups of near values, so that number and sum stay what they are."""
    _, group, counts = np.unique(np.round(y / _WIDTH), return_inverse=True, return_counts=True)
    return np.bincount(group, y) / counts, counts.astype(np.float64)


def _two_sided(y: Floats, counts: Floats, n: Floats, total: Floats, z: Floats) -> Floats:
    from scipy.special import gammaln, ndtr

    size = counts.sum()
    s0 = np.log(n / (size - n))
    spread = n * (size - n) / size
    t, least, det = _tilt(y, counts, n, total, s0)
    start = size * np.log(size / (size - n)) - s0 * n
    r = np.sign(t) * np.sqrt(np.maximum(0.0, 2 * (start - least)))
    u = t * np.sqrt(np.maximum(det, 0.0) / spread)
    with np.errstate(divide="ignore", invalid="ignore"):
        star = r + np.log(u / r) / r
    star = np.where((np.abs(z) < _CENTRE) | ~np.isfinite(star), z, star)  # in the middle, 0/0: p is nearly 1 whatever the skew
    draws = gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    tail = np.minimum(ndtr(-star * np.sign(t)), np.exp(np.minimum(least - draws, 0.0)))
    return np.minimum(1.0, 2 * np.minimum(np.maximum(tail, np.exp(-draws)), 1.0 - tail))


def _tilt(y: Floats, counts: Floats, n: Floats, total: Floats, s: Floats) -> tuple[Floats, Floats, Floats]:
    """Minimise K(s, t) − s n − t S by Newton–Raphson with step halving; return (t, the minimum, det K'')."""
    s = s.copy()
    t = total / (n * (1 - n / counts.sum()))

    def height(s: Floats, t: Floats) -> Floats:
        return np.logaddexp(0.0, s[:, None] + t[:, None] * y) @ counts - s * n - t * total

    def curvature(s: Floats, t: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        w = 1.0 / (1.0 + np.exp(-np.clip(s[:, None] + t[:, None] * y, -500, 500)))
        v = w * (1 - w)
        return w @ counts - n, w @ (counts * y) - total, v @ counts, v @ (counts * y), v @ (counts * y * y)

    worse = height(s, t) > height(s, np.zeros_like(t))
    t[worse] = 0.0
    least = height(s, t)
    for _ in range(_STEPS):
        g0, g1, h00, h01, h11 = curvature(s, t)
        det = h00 * h11 - h01 * h01
        open_ = (np.abs(g0) + np.abs(g1) > 1e-8 * np.sqrt(n)) & (det > 1e-12 * h00 * h11) & (h00 > 0)
        if not open_.any():
            break
        with np.errstate(divide="ignore", invalid="ignore"):
            step_s = np.where(open_, (h11 * g0 - h01 * g1) / det, 0.0)
            step_t = np.where(open_, (h00 * g1 - h01 * g0) / det, 0.0)
        new = height(s - step_s, t - step_t)
        for _ in range(30):
            bad = ~(new <= least + 1e-10)
            if not bad.any():
                break
            step_s, step_t = np.where(bad, step_s / 2, step_s), np.where(bad, step_t / 2, step_t)
            new = height(s - step_s, t - step_t)
        s, t, least = s - step_s, t - step_t, np.minimum(least, new)
    _, _, h00, h01, h11 = curvature(s, t)
    return t, least, h00 * h11 - h01 * h01

"""Logistic regression on one number, very many at once, by Newton–Raphson in float64.

Of one column u of numbers, brought to mean 0 and variance 1, and labels y, each column has a problem of its own:

    minimise  J(w, b) = mean CE(y, σ(w u + b)) + ½ l2 w²

The bias bears no penalty. Every column takes a step H⁻¹g with its own 2 × 2 Hessian; where J would rise the step is halved. A
column is done when a whole step moves neither number by more than 1e-8 of its size. ``l2`` is what bounds w where the column
separates the classes, and there is no largest likelihood; because u is standardised it means the same for a latent of any size
and frequency. scikit-learn's ``LogisticRegression(C=1 / (l2 · N))`` on the standardised column minimises the same.

The loop knows nothing of how a column is held: :mod:`saebench.studies.probes.sparse` sums over non-zero entries,
:mod:`saebench.studies.probes.dense` over all. Source: 1-d probes by Newton–Raphson are those of Gao et al. 2024, arXiv
2406.04093, §4.2.

Letters: ``C`` columns, ``S`` latents, ``N`` examples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

L2 = 1e-4
"""The penalty that tasks use if they name none; on data that overlap it moves w by about 0.1%."""
CONSTANT = 1e-10
"""A column whose deviation is below this share of its largest entry is constant: the rest is rounding."""
_TOLERANCE = 1e-8
_SLACK = 1e-13
"""How much J may rise by rounding."""
_MAX_STEPS = 200
_SHRINK = 0.7
"""Columns that are done are left behind once no more than this share is still on its way."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Fits:
    """One probe a latent: p(yes) = σ(weight · x + bias), with x as it came, not standardised."""

    weight: Float[np.ndarray, " S"]
    bias: Float[np.ndarray, " S"]
    loss: Float[np.ndarray, " S"]
    """Mean CE over the examples it was fitted to, nats, without the penalty."""
    separable: Bool[np.ndarray, " S"]
    """Whether a threshold parts the classes (touching there allowed), so that only the penalty bounds the weight."""
    converged: Bool[np.ndarray, " S"]

    @classmethod
    def of_nothing(cls, size: int, share: float) -> Fits:
        """Return the fits to columns that say nothing: weight 0, and the share of yes.

        Args:
            size: ``S``.
            share: Share of examples whose label is yes; at 0 or 1 the bias is −∞ or ∞ and the loss 0.
        """
        return cls(
            weight=np.zeros(size),
            bias=np.full(size, logit(share)),
            loss=np.full(size, entropy(share)),
            separable=np.zeros(size, dtype=bool),
            converged=np.ones(size, dtype=bool),
        )

    def put(self, at: NDArray[np.int64], other: Fits) -> None:
        """Take over ``other`` as the fits of the latents ``at``."""
        for name in ("weight", "bias", "loss", "separable", "converged"):
            getattr(self, name)[at] = getattr(other, name)


def logit(share: float) -> float:
    """Return ln(p / (1 − p)); −∞ at 0, ∞ at 1."""
    with np.errstate(divide="ignore"):
        return float(np.log(share) - np.log1p(-share))


def entropy(share: float) -> float:
    """Return −p ln p − (1 − p) ln(1 − p), nats: the CE of who knows nothing but the share of yes."""
    return float(-sum(p * np.log(p) for p in (share, 1.0 - share) if p > 0))


class Columns(ABC):
    """Standardised columns with their labels, ready to be summed over."""

    share: Float[np.ndarray, " C"]
    """Share of examples whose label is yes, above 0 and below 1."""
    mean: Float[np.ndarray, " C"]
    deviation: Float[np.ndarray, " C"]
    """x = mean + deviation · u."""
    separable: Bool[np.ndarray, " C"]

    @abstractmethod
    def sums(self, w: Float[np.ndarray, " C"], b: Float[np.ndarray, " C"]) -> Float[np.ndarray, "6 C"]:
        """Return CE, Σr u, Σr, Σh u², Σh u, Σh, each over N, with z = w u + b, r = σ(z) − y, h = σ(z)(1 − σ(z))."""

    def guess(self) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]] | None:
        """Return (w, b) that may be nearer the end than the share of yes is, or ``None``; need not be finite."""
        return None

    @abstractmethod
    def kept(self, which: Bool[np.ndarray, " C"]) -> Columns:
        """Return some of the columns."""


def solve(columns: Columns, l2: float) -> Fits:
    """Return the probe of every column.

    Args:
        columns: None of them constant, none with one class only.
        l2: The penalty, above 0.
    """
    size = len(columns.share)
    w, b = np.zeros(size), np.log(columns.share) - np.log1p(-columns.share)
    out_w, out_b, out_loss, converged = np.zeros(size), b.copy(), np.zeros(size), np.zeros(size, dtype=bool)
    here, current, going = np.arange(size), columns, np.ones(size, dtype=bool)
    with np.errstate(all="ignore"):  # a step that overflows is no step down, and is halved
        sums = current.sums(w, b)
        guess = current.guess()
        if guess is not None:
            other = current.sums(*guess)
            nearer = other[0] + 0.5 * l2 * guess[0] ** 2 < sums[0]  # never where it is not finite
            w, b, sums = np.where(nearer, guess[0], w), np.where(nearer, guess[1], b), np.where(nearer, other, sums)
        step_w, step_b = _step(sums, w, l2)
        part = np.ones(size)
        for _ in range(_MAX_STEPS):
            new_w, new_b = w - part * step_w, b - part * step_b
            new = current.sums(new_w, new_b)
            down = new[0] + 0.5 * l2 * new_w**2 <= sums[0] + 0.5 * l2 * w**2 + _SLACK
            moved = part * np.maximum(np.abs(step_w), np.abs(step_b))
            small = moved <= _TOLERANCE * (1.0 + np.maximum(np.abs(w), np.abs(b)))
            w, b = np.where(down, new_w, w), np.where(down, new_b, b)
            sums = np.where(down, new, sums)
            step_w, step_b = _step(sums, w, l2)
            done = going & small  # too small a step to be halved again is the end as well
            if done.any():
                at = here[done]
                out_w[at], out_b[at], out_loss[at] = w[done], b[done], sums[0, done]
                converged[at] = (part == 1.0)[done] | (np.hypot(sums[1] + l2 * w, sums[2])[done] < _TOLERANCE)
                going &= ~done
                if not going.any():
                    break
            part = np.where(down, 1.0, 0.5 * part)
            if going.mean() < _SHRINK:
                current, here = current.kept(going), here[going]
                w, b, step_w, step_b, part = w[going], b[going], step_w[going], step_b[going], part[going]
                sums, going = sums[:, going], np.ones(len(here), dtype=bool)
        at = here[going]
        out_w[at], out_b[at], out_loss[at] = w[going], b[going], sums[0, going]
    weight = out_w / columns.deviation
    return Fits(
        weight=weight,
        bias=out_b - weight * columns.mean,
        loss=out_loss,
        separable=columns.separable,
        converged=converged,
    )


def _step(sums: Float[np.ndarray, "6 C"], w: Floats, l2: float) -> tuple[Floats, Floats]:
    """Return H⁻¹g of the penalised problem."""
    _, g_w, g_b, h_ww, h_wb, h_bb = sums
    g_w, h_ww = g_w + l2 * w, h_ww + l2
    determinant = h_ww * h_bb - h_wb * h_wb
    return (h_bb * g_w - h_wb * g_b) / determinant, (h_ww * g_b - h_wb * g_w) / determinant

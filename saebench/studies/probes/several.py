"""Probes on several numbers at once: on a few latents, and on all channels of the acts, which is the ceiling.

Letters: ``N`` examples, ``K`` numbers an example.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from saebench.studies.probes.newton import CONSTANT, L2, logit

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""What the ceiling's penalty is chosen from."""
_HELD_OUT = 5
"""One training example in so many judges the penalties."""
_TOLERANCE, _SLACK, _MAX_STEPS = 1e-8, 1e-13, 200

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """p(yes) = σ(x · weight + bias)."""

    weight: Float[np.ndarray, " K"]
    bias: float

    def __call__(self, x: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " N"]:
        """Return the log odds of yes."""
        return x @ self.weight + self.bias


@dataclass(frozen=True)
class _Scale:
    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, x: Floats) -> _Scale:
        deviation = x.std(0)
        constant = ~(deviation > CONSTANT * np.abs(x).max(0))
        return cls(x.mean(0), np.where(constant, np.inf, deviation))

    def linear(self, w: Floats, b: float) -> Linear:
        weight = w / self.deviation
        return Linear(weight=weight, bias=float(b - weight @ self.mean))


def fit_several(x: Float[np.ndarray, "N K"], labels: Bool[np.ndarray, " N"], *, l2: float = L2) -> Linear:
    """Return the minimiser of mean CE + ½ l2 |w|² on standardised numbers, by Newton–Raphson with step halving.

    A constant number gets the weight 0; with one class only all do, and the bias is ±∞.

    Args:
        x: A few numbers an example, float64.
        labels: Yes or no.
        l2: The penalty, above 0.
    """
    share = float(labels.mean())
    scale = _Scale.of(x)
    if share in (0.0, 1.0):
        return Linear(weight=np.zeros(x.shape[1]), bias=logit(share))
    u = np.column_stack([(x - scale.mean) / scale.deviation, np.ones(len(x))])
    y = labels.astype(np.float64)
    penalty = np.append(np.full(x.shape[1], l2), 0.0)
    w = np.append(np.zeros(x.shape[1]), logit(share))
    now, part = _objective(w, u, y, penalty), 1.0
    step = _newton_step(w, u, y, penalty)
    for _ in range(_MAX_STEPS):
        new = w - part * step
        value = _objective(new, u, y, penalty)
        small = part * np.abs(step).max() <= _TOLERANCE * (1.0 + np.abs(w).max())
        if value <= now + _SLACK:
            w, now, part = new, value, 1.0
            step = _newton_step(w, u, y, penalty)
        else:
            part *= 0.5
        if small:
            break
    return scale.linear(w[:-1], w[-1])


def fit_all(x: Float[np.ndarray, "N K"], labels: Bool[np.ndarray, " N"], *, seed: int = 0) -> tuple[Linear, float]:
    """Return (probe on all numbers, the penalty that was chosen), the numbers standardised.

    With as many numbers as examples a tiny penalty would learn the examples by heart, so the penalty is the one of
    :data:`PENALTIES` with the smallest CE on a fifth of the examples that the others were fitted without; then all are used.
    L-BFGS (scipy), from the largest penalty down, each from where the last one ended.

    Args:
        x: Training examples, float64.
        labels: Yes or no, both there.
        seed: Chooses the fifth, of both classes alike.
    """
    scale = _Scale.of(x)
    u, y = (x - scale.mean) / scale.deviation, labels.astype(np.float64)
    held = _held_out(labels, np.random.default_rng(seed))
    best, chosen = np.inf, PENALTIES[0]
    if held.any() and len(np.unique(y[~held])) == 2:
        w = _start(u, y[~held])
        for l2 in PENALTIES:
            w = _lbfgs(w, u[~held], y[~held], l2)
            z = u[held] @ w[:-1] + w[-1]
            loss = float((np.logaddexp(0.0, z) - y[held] * z).mean())
            if loss < best:
                best, chosen = loss, l2
    w = _lbfgs(_start(u, y), u, y, chosen)
    return scale.linear(w[:-1], float(w[-1])), chosen


def _start(u: Floats, y: Floats) -> Floats:
    return np.append(np.zeros(u.shape[1]), logit(float(y.mean())))


def _held_out(labels: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    held = np.zeros(len(labels), dtype=bool)
    for kind in (False, True):
        here = np.flatnonzero(labels == kind)
        held[rng.permutation(here)[: len(here) // _HELD_OUT]] = True
    return held


def _lbfgs(start: Floats, u: Floats, y: Floats, l2: float) -> Floats:
    from scipy.optimize import minimize

    def value(w: Floats) -> tuple[float, Floats]:
        z = u @ w[:-1] + w[-1]
        r = _sigmoid(z) - y
        gradient = np.append(u.T @ r / len(y) + l2 * w[:-1], r.mean())
        return float((np.logaddexp(0.0, z) - y * z).mean() + 0.5 * l2 * w[:-1] @ w[:-1]), gradient

    return minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-6, "ftol": 1e-10}).x


def _objective(w: Floats, u: Floats, y: Floats, penalty: Floats) -> float:
    z = u @ w
    return float((np.logaddexp(0.0, z) - y * z).mean() + 0.5 * (penalty * w * w).sum())


def _newton_step(w: Floats, u: Floats, y: Floats, penalty: Floats) -> Floats:
    p = _sigmoid(u @ w)
    gradient = u.T @ (p - y) / len(y) + penalty * w
    hessian = (u * (p * (1.0 - p))[:, None]).T @ u / len(y) + np.diag(penalty)
    return np.asarray(np.linalg.lstsq(hessian, gradient, rcond=None)[0], dtype=np.float64)


def _sigmoid(z: Floats) -> Floats:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, e) / (1.0 + e)

"""Logistic regression on several numbers with an L1 or L2 penalty, by Newton's method in float64.

Of N examples x with labels y, the numbers as they come, not standardised:

    minimise  F(w, b) = mean CE(y, σ(w · x + b)) + l Σ|w|        (L1)
    minimise  F(w, b) = mean CE(y, σ(w · x + b)) + ½ l Σw²       (L2)

The bias bears no penalty. scikit-learn's ``LogisticRegression(C=1 / (l N))`` minimises the same. With L1 a step is Newton's for
those weights that are not 0, and those that F falls by moving, each with the sign that it has or would get; a weight that would
change its sign becomes 0. Where F does not fall enough by that, the step ends where the first weight becomes 0, and is halved
until it does: along such a step F is smooth.

A fit is done when no slope of F is above 1e-6 times the root mean square of its number, in nats. So where the penalty is too weak
for that to be seen, as with C = 1e5 where the examples can be parted, the weights stay where the loss is small enough.

Letters: ``N`` examples, ``K`` numbers an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from saebench.studies.probes.newton import logit
from saebench.studies.probes.several import Linear

Norm = Literal["l1", "l2"]
_TOLERANCE, _ENOUGH, _RIDGE = 1e-6, 1e-4, 1e-12
_MAX_STEPS, _MAX_HALVINGS = 200, 40

Floats = NDArray[np.float64]


def fit_penalised(
    x: Float[np.ndarray, "N K"],
    labels: Bool[np.ndarray, " N"],
    penalties: Sequence[float],
    norm: Norm,
    start: Linear | None = None,
) -> list[Linear]:
    """Return the minimisers, one a penalty; each begins where the last one ended, so give the largest penalty first.

    Args:
        x: Examples, float64.
        labels: Yes or no, both there.
        penalties: Each l, above 0.
        norm: ``l1`` or ``l2``.
        start: Where the first begins; with weights 0 and the bias of the share of yes if ``None``.
    """
    problem = _Problem.of(x, labels)
    if start is None:
        w = np.append(np.zeros(x.shape[1]), logit(float(labels.mean())))
    else:
        w = np.append(start.weight, start.bias)
    found = []
    for penalty in penalties:
        weights = np.append(np.full(x.shape[1], penalty), 0.0)
        w = _l1(problem, weights, w) if norm == "l1" else _l2(problem, weights, w)
        found.append(Linear(weight=w[:-1].copy(), bias=float(w[-1])))
    return found


@dataclass(frozen=True, eq=False)
class _Problem:
    """Examples with a column of ones at the end, for the bias."""

    x: Floats
    y: Floats
    size: Floats
    """Root mean square of each column."""

    @classmethod
    def of(cls, x: Floats, labels: NDArray[np.bool_]) -> _Problem:
        ones = np.column_stack([x, np.ones(len(x))])
        return cls(ones, labels.astype(np.float64), np.sqrt(np.square(ones).mean(0)))

    def loss(self, z: Floats) -> float:
        return float((np.logaddexp(0.0, z) - self.y * z).mean())

    def slopes(self, z: Floats) -> tuple[Floats, Floats]:
        """Return the gradient of the loss, and the second derivative of each example's part of it."""
        e = np.exp(-np.abs(z))
        p = np.where(z >= 0, 1.0, e) / (1.0 + e)
        return self.x.T @ ((p - self.y) / len(z)), p * (1.0 - p) / len(z)

    def hessian(self, curvature: Floats, which: NDArray[np.int64] | slice) -> Floats:
        scaled = self.x[:, which] * np.sqrt(curvature)[:, None]
        return scaled.T @ scaled


def _l2(problem: _Problem, penalty: Floats, w: Floats) -> Floats:
    z = problem.x @ w
    value = problem.loss(z) + 0.5 * float(penalty @ (w * w))
    for _ in range(_MAX_STEPS):
        gradient, curvature = problem.slopes(z)
        gradient += penalty * w
        if (np.abs(gradient) <= _TOLERANCE * problem.size).all():
            break
        step = -_solved(problem.hessian(curvature, slice(None)) + np.diag(penalty), gradient)
        along, part = problem.x @ step, 1.0
        for _ in range(_MAX_HALVINGS):
            new = w + part * step
            new_value = problem.loss(z + part * along) + 0.5 * float(penalty @ (new * new))
            if new_value <= value + _ENOUGH * part * float(gradient @ step):
                break
            part *= 0.5
        else:
            break  # rounding is all that is left
        w, z, value = new, z + part * along, new_value
    return w


def _l1(problem: _Problem, penalty: Floats, w: Floats) -> Floats:
    z = problem.x @ w
    value = problem.loss(z) + float(penalty @ np.abs(w))
    for _ in range(_MAX_STEPS):
        gradient, curvature = problem.slopes(z)
        zero = (w == 0) & (penalty > 0)
        side = np.where(zero, -np.sign(gradient), np.sign(w))
        slope = gradient + penalty * side
        moving = ~zero | (np.abs(gradient) > penalty)
        if (np.abs(slope) <= _TOLERANCE * problem.size)[moving].all():
            break
        step = _l1_step(problem, curvature, slope, np.flatnonzero(moving), zero, side)
        found = _l1_search(problem, penalty, w, z, value, slope, step, side)
        if found is None:
            break  # rounding is all that is left
        w, z, value = found
    return w


def _l1_step(
    problem: _Problem, curvature: Floats, slope: Floats, moving: NDArray[np.int64], zero: NDArray[np.bool_], side: Floats
) -> Floats:
    """Return Newton's step for the weights that move; those at 0 that it would send to the wrong side stay."""
    hessian, step = problem.hessian(curvature, moving), np.zeros(len(slope))
    stays = np.zeros(len(moving), dtype=bool)
    while True:
        here = ~stays
        part = -_solved(hessian[np.ix_(here, here)], slope[moving[here]])
        wrong = zero[moving[here]] & (part * side[moving[here]] < 0)
        if not wrong.any():
            step[moving[here]] = part
            return step
        stays[np.flatnonzero(here)[wrong]] = True


def _l1_search(
    problem: _Problem, penalty: Floats, w: Floats, z: Floats, value: float, slope: Floats, step: Floats, side: Floats
) -> tuple[Floats, Floats, float] | None:
    """Return (weights, log odds, F) after a step, or ``None`` if F does not fall by any."""
    new = np.where((penalty > 0) & ((w + step) * side < 0), 0.0, w + step)
    new_z = problem.x @ new
    new_value = problem.loss(new_z) + float(penalty @ np.abs(new))
    if new_value <= value + _ENOUGH * min(0.0, float(slope @ (new - w))) and new_value < value:
        return new, new_z, new_value
    crossing = (penalty > 0) & (w != 0) & ((w + step) * w < 0)
    ratios = np.where(crossing, -w / np.where(crossing, step, 1.0), np.inf)
    first = int(ratios.argmin())
    part = min(1.0, float(ratios[first]))
    along, falls = problem.x @ step, float(slope @ step)
    for halving in range(_MAX_HALVINGS):
        new = w + part * step
        if halving == 0 and ratios[first] <= 1.0:
            new[first] = 0.0
        new_z = z + part * along
        new_value = problem.loss(new_z) + float(penalty @ np.abs(new))
        if new_value <= value + _ENOUGH * part * falls:
            return new, problem.x @ new, new_value
        part *= 0.5
    return None


def _solved(hessian: Floats, gradient: Floats) -> Floats:
    """Return H⁻¹g, with a little on the diagonal where two columns are alike."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    n = len(hessian)
    ridge = _RIDGE * max(float(np.trace(hessian)) / n, np.finfo(float).tiny)
    for _ in range(4):
        try:
            step = cho_solve(cho_factor(hessian + ridge * np.eye(n), check_finite=False), gradient, check_finite=False)
            if np.isfinite(step).all():
                return step
        except LinAlgError:
            pass
        ridge *= 1e3
    return np.asarray(np.linalg.lstsq(hessian, gradient, rcond=None)[0], dtype=np.float64)

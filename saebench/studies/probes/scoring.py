"""What a probe is worth on texts that it has not seen, and how sure that is.

Letters: ``N`` test examples, ``B`` draws of the bootstrap, ``G`` groups of equal answers, ``T`` tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from saebench.stats import Estimate

SCORES = ("loss", "acc", "f1", "auc")

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The scores of one probe on the test examples of one task."""

    values: Mapping[str, float]
    """By name of :data:`SCORES`."""
    draws: Mapping[str, Floats]
    """Each as ``B`` draws of the test examples give it; a draw without one of the classes gives NaN where both are needed."""

    def stderr(self, name: str) -> float | None:
        """Return the deviation of a score over the draws, or ``None`` with fewer than two of them."""
        return _deviation(self.draws[name])


def draw_examples(n: int, draws: int, rng: np.random.Generator) -> Float[np.ndarray, "B N"]:
    """Return how often each of ``n`` examples is drawn when ``n`` are drawn with replacement, once a row."""
    return rng.multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64)


def judge(log_odds: Float[np.ndarray, " N"], labels: Bool[np.ndarray, " N"], drawn: Float[np.ndarray, "B N"]) -> Finding:
    """Return what the log odds of yes are worth.

    CE is −ln of the probability given to the right answer, nats; yes is said where the log odds are above 0; F1 is
    2 TP / (2 TP + FP + FN), 0 if none of them is there; AUC = P(z₊ > z₋) + ½ P(z₊ = z₋).

    Args:
        log_odds: z of every test example.
        labels: Yes or no.
        drawn: From :func:`draw_examples`; may have no rows.
    """
    weights = np.concatenate([np.ones((1, len(labels))), drawn])
    with np.errstate(invalid="ignore"):  # ±∞ where a class was missing in training
        losses = np.where(labels, np.logaddexp(0.0, -log_odds), np.logaddexp(0.0, log_odds))
    said = log_odds > 0
    found = {
        "loss": _mean(losses, weights),
        "acc": _mean((said == labels).astype(np.float64), weights),
        "f1": _f1(said, labels, weights),
        "auc": _auc(log_odds, labels, weights),
    }
    return Finding(
        values={name: float(values[0]) for name, values in found.items()}, draws={name: v[1:] for name, v in found.items()}
    )


def over_tasks(values: Sequence[float], drawn: Float[np.ndarray, "B T"]) -> Estimate:
    """Return the mean over tasks; its standard error is the deviation of the mean over draws of the tasks.

    Args:
        values: One a task.
        drawn: How often each task is drawn (:func:`draw_examples` of the number of tasks).
    """
    if not len(values):
        return Estimate(value=None, n=0, reason="no probe task gives examples")
    array = np.array(values, dtype=np.float64)
    stderr = _deviation(drawn @ array / len(array)) if len(array) > 1 else None
    return Estimate(value=float(array.mean()), stderr=stderr, n=len(array))


def over_examples(draws: Sequence[Floats]) -> float | None:
    """Return the deviation, over draws of every task's test examples, of the mean over tasks; the tasks stay as they are."""
    return _deviation(np.mean(draws, 0)) if len(draws) else None


def _deviation(draws: Floats) -> float | None:
    finite = draws[np.isfinite(draws)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else None


def _mean(values: Floats, weights: Floats) -> Floats:
    return weights @ values / weights.sum(1)


def _f1(said: NDArray[np.bool_], labels: NDArray[np.bool_], weights: Floats) -> Floats:
    right = weights @ (said & labels)
    wrong = weights @ (said != labels)
    return np.divide(2 * right, 2 * right + wrong, out=np.zeros(len(weights)), where=right > 0)


def _auc(z: Floats, labels: NDArray[np.bool_], weights: Floats) -> Floats:
    order = np.argsort(z, kind="stable")
    z, labels, weights = z[order], labels[order], weights[:, order]
    starts = np.flatnonzero(np.append(True, z[1:] != z[:-1]))
    yes = np.add.reduceat(weights * labels, starts, axis=1)
    no = np.add.reduceat(weights * ~labels, starts, axis=1)
    below = no.cumsum(1) - no
    pairs = yes.sum(1) * no.sum(1)
    return np.divide((yes * (below + 0.5 * no)).sum(1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)

"""k-sparse probes as the package ``sae-probes`` makes them: k latents chosen by their means, one penalty chosen held out.

Source: Kantamneni et al. 2025, "Are Sparse Autoencoders Useful?", and sae-probes 0.4.2 (``run_sae_evals``, ``find_best_reg``);
what is said here of the package was read there.

1. Every latent is divided by its mean size where it is not 0, over the training texts. Latents are ordered by how far apart its
   means are over the two classes; the first k are taken.
2. Logistic regression on them, not standardised, with C of ten from 1e5 to 1e-5: the last min(0.2 N, 100) training texts are held
   out, and the C with the largest AUC on them is taken, of equal ones the largest.
3. The same on all training texts with that C. The scores are those on the test texts.

The package finds its L1 fits with ``saga``, in float32, until weights move by less than 1e-4 of the largest in a round or 1,000
rounds are over; ours are converged (:mod:`saebench.studies.probes.penalised`).

Letters: ``N`` training texts, ``M`` test texts, ``S`` latents, ``K`` chosen ones, ``D`` width of the acts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from saebench.studies.probes.penalised import Norm, fit_penalised
from saebench.studies.probes.several import Linear

CS = np.logspace(5, -5, 10)
"""What C is chosen from, in the order in which the first of equal ones is taken."""
_HELD_OUT_SHARE, _HELD_OUT_MOST = 0.2, 100
_NEVER = 1e-6

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class KSparse:
    """What one probe is worth on the test texts."""

    auc: float
    """Area under the ROC curve, ties counted half."""
    auc_stderr: float
    """By DeLong et al. (1988), over the test texts."""
    acc: float
    f1: float
    """The mean of both classes' F1, each weighted by its share of the test texts."""
    auc_held_out: float | None
    """Of the C that was taken; ``None`` where a class is lacking among the held-out texts, or among the others."""
    c: float
    n_weights: int
    """Weights that are not 0."""


def held_out(n: int, rng: np.random.Generator | None) -> Bool[np.ndarray, " N"]:
    """Return which of ``n`` training texts C is chosen on: the last min(0.2 n, 100), or as many that are drawn.

    Args:
        n: Training texts.
        rng: Draws them; ``None`` where the texts are in random order, as the package deals them.
    """
    held = np.arange(n) >= n - min(int(_HELD_OUT_SHARE * n), _HELD_OUT_MOST)
    return held if rng is None else rng.permutation(held)


def ranked(latents: csr_array, labels: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " S"]:
    """Return the latents in the order in which they are taken.

    |mean₁(x / m) − mean₀(x / m)|, largest first, m the latent's mean size where it is not 0; of equal ones the lower first. Both
    quotients have 1e-6 added below, as in the package.

    Args:
        latents: ``[N, S]``, of the training texts.
        labels: Both classes.
    """
    x = csr_array(latents, dtype=np.float64)
    assert x.shape is not None  # scipy's own hints allow it
    size = x.shape[1]
    counts = np.bincount(x.indices[x.data != 0], minlength=size)
    m = np.bincount(x.indices, np.abs(x.data), minlength=size) / (counts + _NEVER)
    yes = labels.astype(np.float64)
    apart = x.T @ (yes / yes.sum() - (1.0 - yes) / (1.0 - yes).sum())
    return np.argsort(-np.abs(apart / (m + _NEVER)), kind="stable")


def k_sparse(
    latents: csr_array, labels: Bools, is_train: Bools, held: Bool[np.ndarray, " N"], ks: Sequence[int], norm: Norm
) -> tuple[dict[int, KSparse], Int[np.ndarray, " S"]]:
    """Return the probes by k, and the order of the latents; where there are fewer than k, all are taken.

    Args:
        latents: ``[N + M, S]``, of all texts.
        labels: Of all texts; both classes in both parts.
        is_train: Which texts are for training.
        held: Which of the training texts C is chosen on (:func:`held_out`).
        ks: How many latents.
        norm: The penalty.
    """
    train = csr_array(latents[is_train])
    order = ranked(train, labels[is_train])
    taken = order[: max(ks)]
    x = np.ascontiguousarray(latents[:, taken].toarray(), dtype=np.float64)
    found: dict[int, KSparse] = {}
    for k in ks:
        width = min(k, len(taken))
        same = next((other for other in found if min(other, len(taken)) == width), None)
        found[k] = found[same] if same is not None else _probed(x[:, :width], labels, is_train, held, _newton(norm))
    return found, order


def dense(acts: Float[np.ndarray, "T D"], labels: Bools, is_train: Bools, held: Bool[np.ndarray, " N"]) -> KSparse:
    """Return the package's baseline: the same with an L2 penalty on all channels of the acts.

    Its optimiser is the package's (scipy's L-BFGS-B from weights 0 to a largest slope of 1e-4, 1,000 steps at most): on that
    many numbers, not standardised, where it stops is a part of what it gives.

    Args:
        acts: Of all texts.
        labels: Of all texts; both classes in both parts.
        is_train: Which texts are for training.
        held: Which of the training texts C is chosen on.
    """
    return _probed(acts.astype(np.float64), labels, is_train, held, _lbfgs)


_Fit = Callable[[Floats, Bools, Sequence[float], Linear | None], list[Linear]]
"""From examples, labels and penalties, the largest first, to probes."""


def _newton(norm: Norm) -> _Fit:
    def fit(x: Floats, labels: Bools, penalties: Sequence[float], start: Linear | None) -> list[Linear]:
        return fit_penalised(x, labels, penalties, norm, start)

    return fit


def _lbfgs(x: Floats, labels: Bools, penalties: Sequence[float], _start: Linear | None) -> list[Linear]:
    from scipy.optimize import minimize

    y = labels.astype(np.float64)

    def value(w: Floats, l2: float) -> tuple[float, Floats]:
        z = x @ w[:-1] + w[-1]
        e = np.exp(-np.abs(z))
        r = (np.where(z >= 0, 1.0, e) / (1.0 + e) - y) / len(y)
        loss = np.maximum(z, 0.0) + np.log1p(e) - y * z
        return float(loss.mean() + 0.5 * l2 * w[:-1] @ w[:-1]), np.append(x.T @ r + l2 * w[:-1], r.sum())

    options = {"maxiter": 1000, "maxls": 50, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps}
    zeros = np.zeros(x.shape[1] + 1)
    found = [minimize(value, zeros, args=(l2,), jac=True, method="L-BFGS-B", options=options).x for l2 in penalties]
    return [Linear(weight=w[:-1], bias=float(w[-1])) for w in found]


def _probed(x: Floats, labels: Bools, is_train: Bools, held: Bools, fit: _Fit) -> KSparse:
    train, y = x[is_train], labels[is_train]
    c, auc_held_out, start = 1.0, None, None
    if _both(y[~held]) and _both(y[held]):
        n = int((~held).sum())
        fits = fit(train[~held], y[~held], [1.0 / (one * n) for one in CS[::-1]], None)[::-1]
        aucs = [auc(one(train[held]), y[held])[0] for one in fits]
        best = int(np.argmax(aucs))
        c, auc_held_out, start = float(CS[best]), aucs[best], fits[best]
    (probe,) = fit(train, y, [1.0 / (c * len(y))], start)
    z, truth = probe(x[~is_train]), labels[~is_train]
    area, stderr = auc(z, truth)
    said = z > 0
    return KSparse(
        auc=area, auc_stderr=stderr, acc=float((said == truth).mean()), f1=_weighted_f1(said, truth),
        auc_held_out=auc_held_out, c=c, n_weights=int((probe.weight != 0).sum()),
    )  # fmt: skip


def _both(labels: Bools) -> bool:
    return bool(labels.any()) and not bool(labels.all())


def auc(z: Float[np.ndarray, " M"], labels: Bool[np.ndarray, " M"]) -> tuple[float, float]:
    """Return P(z₊ > z₋) + ½ P(z₊ = z₋), and its standard error over the examples by DeLong et al. (1988).

    Each yes has the share of noes below it, each no the share of yeses above it, ties counted half; the variance is the sum of
    the two groups' variances over their numbers. NaN for a group of one.

    Args:
        z: Log odds, or any number that is larger for yes.
        labels: Yes or no, both there.
    """
    yes, no = np.sort(z[labels]), np.sort(z[~labels])
    above = (np.searchsorted(no, yes, "left") + np.searchsorted(no, yes, "right")) / (2 * len(no))
    below = 1.0 - (np.searchsorted(yes, no, "left") + np.searchsorted(yes, no, "right")) / (2 * len(yes))
    if min(len(yes), len(no)) < 2:
        return float(above.mean()), float("nan")
    return float(above.mean()), float(np.sqrt(above.var(ddof=1) / len(yes) + below.var(ddof=1) / len(no)))


def _weighted_f1(said: Bools, truth: Bools) -> float:
    total = 0.0
    for kind in (False, True):
        right = int(((said == kind) & (truth == kind)).sum())
        wrong = int((said != truth).sum())
        total += float((truth == kind).mean()) * (2 * right / (2 * right + wrong) if right else 0.0)
    return total

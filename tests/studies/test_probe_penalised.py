"""Penalised logistic regression: where a minimum must be, what it must not depend on, and scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from saebench.studies.probes.penalised import Norm, fit_penalised
from saebench.studies.probes.several import Linear

NORMS: tuple[Norm, ...] = ("l1", "l2")


def made(n: int = 300, k: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return numbers of several sizes, mostly 0, and labels that two of them say something about."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, k)) < 0.4, rng.exponential(size=(n, k)), 0.0) * np.exp(rng.normal(size=k))
    return x, rng.random(n) < 1 / (1 + np.exp(0.5 - x[:, 0] + x[:, -1]))


def objective(one: Linear, x: np.ndarray, labels: np.ndarray, penalty: float, norm: Norm) -> float:
    z, w = one(x), one.weight
    return float((np.logaddexp(0, z) - labels * z).mean() + penalty * (np.abs(w).sum() if norm == "l1" else 0.5 * w @ w))


def gradient(one: Linear, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r = 1 / (1 + np.exp(-one(x))) - labels
    return np.append(x.T @ r, r.sum()) / len(x)


@pytest.mark.parametrize("k", [1, 6, 40])
def test_at_an_l1_minimum_slopes_are_the_penalty_or_below(k):
    x, labels = made(k=k)
    sizes = np.sqrt((x**2).mean(0))
    path = fit_penalised(x, labels, [0.3, 0.03, 0.003, 0.0003], "l1")
    for penalty, one in zip([0.3, 0.03, 0.003, 0.0003], path, strict=True):
        slopes, zero = gradient(one, x, labels), one.weight == 0
        assert abs(slopes[-1]) < 1e-6
        assert (np.abs(slopes[:-1]) <= penalty + 1e-6 * sizes)[zero].all()
        assert np.abs((slopes[:-1] + penalty * np.sign(one.weight)) / sizes)[~zero].max(initial=0) < 1e-6
    counts = [int((one.weight != 0).sum()) for one in path]
    assert counts[0] < counts[-1] or k == 1


def test_at_an_l2_minimum_slopes_are_0():
    x, labels = made()
    for penalty, one in zip([1.0, 1e-3], fit_penalised(x, labels, [1.0, 1e-3], "l2"), strict=True):
        slopes = gradient(one, x, labels) + np.append(penalty * one.weight, 0.0)
        assert np.abs(slopes / np.append(np.sqrt((x**2).mean(0)), 1.0)).max() < 1e-6


def test_a_large_l1_penalty_leaves_the_share_of_yes():
    x, labels = made()
    share = labels.mean()
    largest = np.abs(x.T @ (share - labels)).max() / len(x)
    above, below = (fit_penalised(x, labels, [largest * factor], "l1")[0] for factor in (1.001, 0.98))
    assert (above.weight == 0).all() and above.bias == pytest.approx(np.log(share / (1 - share)))
    assert (below.weight != 0).sum() == 1


@pytest.mark.parametrize("norm", NORMS)
def test_scikit_learn_finds_the_same(norm):
    from sklearn.linear_model import LogisticRegression

    x, labels = made()
    for c in (0.1, 10.0):
        options = {"solver": "saga", "l1_ratio": 1.0, "tol": 1e-9, "max_iter": 20_000} if norm == "l1" else {"tol": 1e-10}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older ones want penalty="l1" beside l1_ratio
            more = {"penalty": "elasticnet"} if norm == "l1" else {}
            theirs = LogisticRegression(C=c, **options, **more).fit(x, labels)
        (ours,) = fit_penalised(x, labels, [1 / (c * len(x))], norm)
        assert ours.weight == pytest.approx(theirs.coef_[0], abs=1e-4) and ours.bias == pytest.approx(
            theirs.intercept_[0], abs=1e-4
        )


@pytest.mark.parametrize("norm", NORMS)
def test_where_it_begins_does_not_matter(norm):
    x, labels = made(k=30, n=200)
    penalties = [0.1, 0.01, 0.001]
    far = Linear(weight=np.linspace(-3, 3, 30), bias=2.0)
    for penalty, one in zip(penalties, fit_penalised(x, labels, penalties, norm), strict=True):
        other = fit_penalised(x, labels, [penalty], norm, far)[0]
        mine, others = (objective(two, x, labels, penalty, norm) for two in (one, other))
        assert mine == pytest.approx(others, abs=1e-8)


def test_l1_goes_with_the_scale():
    x, labels = made()
    one, other = (fit_penalised(x * s, labels, [0.01 * s], "l1")[0] for s in (1.0, 1000.0))
    assert one.weight == pytest.approx(other.weight * 1000, abs=1e-4) and one.bias == pytest.approx(other.bias, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_examples_that_can_be_parted_more_numbers_than_examples_and_columns_alike(norm):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(40, 60)), np.arange(40) % 2 == 0
    for one in fit_penalised(x, labels, [1e-2, 1e-5, 1e-9], norm):
        assert np.isfinite(one.weight).all() and np.isfinite(one.bias)
    assert ((one(x) > 0) == labels).all()
    x, labels = made()
    twice = np.column_stack([x, x[:, :1], np.zeros(len(x)), np.full(len(x), 3.0)])
    plain, more = (fit_penalised(some, labels, [0.01], norm)[0] for some in (x, twice))
    assert objective(more, twice, labels, 0.01, norm) <= objective(plain, x, labels, 0.01, norm) + 1e-9
    assert more.weight[-2] == 0

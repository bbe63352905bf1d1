"""Correlations, overlaps and tail shares of per-token ΔCE: by hand, against scipy, and their errors against known ones."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from saebench.studies.propagation.same_tokens import TAILS, Likeness, Ranked, bootstrap


def alike(delta: np.ndarray) -> Likeness:
    return Ranked(delta).likeness(np.ones(delta.shape[1]))


def deviation(drawn: list[Likeness], name: str) -> float:
    return float(np.std([getattr(one, name)[0, 1] for one in drawn], ddof=1))


def pair(n: int, r: float, seed: int = 0) -> np.ndarray:
    a, b = np.random.default_rng(seed).normal(size=(2, n))
    return np.stack([a, r * a + np.sqrt(1 - r * r) * b])


def test_correlations_are_scipys_with_and_without_ties() -> None:
    rng = np.random.default_rng(0)
    smooth = np.stack([pair(500, 0.6)[0], np.exp(pair(500, 0.6)[1]), rng.normal(size=500)])
    for delta in (smooth, np.round(smooth, 0)):
        found = alike(delta)
        assert_allclose(found.pearson, np.corrcoef(delta), atol=1e-12)
        assert_allclose(found.spearman, np.asarray(stats.spearmanr(delta, axis=1)[0], dtype=float), atol=1e-12)


def test_a_token_that_counts_thrice_is_three_tokens() -> None:
    rng = np.random.default_rng(1)
    delta = np.round(pair(200, 0.5), 1)
    weight = rng.integers(0, 4, 200)
    counted, repeated = Ranked(delta).likeness(weight.astype(float)), alike(np.repeat(delta, weight, axis=1))
    assert_allclose(counted.pearson, repeated.pearson, atol=1e-12)
    assert_allclose(counted.spearman, repeated.spearman, atol=1e-12)
    assert_allclose(counted.share, repeated.share, rtol=1e-9)


def test_tails_by_hand() -> None:
    """Of 20 tokens the worst 1% and 5% is one, the worst 10% are two."""
    first = np.array([8.0, 4.0, *[0.5] * 8, *[-0.5] * 10])
    second = np.array([4.0, 8.0, *first[2:]])
    found = alike(np.stack([first, first[::-1], second]))
    assert TAILS == (0.01, 0.05, 0.10)
    assert_allclose(found.share, np.array([[8, 8, 12]] * 3) / 11)
    assert_allclose(found.overlap, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    forty = alike(np.concatenate([np.stack([first, second]), np.zeros((2, 20))], 1))
    assert_allclose(forty.overlap, 1, err_msg="the worst two of 40 are the same, in whatever order")


def test_strangers_meet_as_often_as_chance_has_it_and_twins_always() -> None:
    one, other = pair(20_000, 0.0)
    found = alike(np.stack([one, other, 3 * one + 1]))
    assert abs(found.overlap[0, 1] - 0.05) < 0.02 and abs(found.spearman[0, 1]) < 0.03
    assert_allclose([found.overlap[0, 2], found.spearman[0, 2], found.pearson[0, 2]], 1)
    assert_allclose(found.others("overlap"), [(found.overlap[0, 1] + 1) / 2, found.overlap[0, 1], (found.overlap[0, 1] + 1) / 2])


def test_what_does_not_vary_or_does_not_cost_is_undefined() -> None:
    a, b = pair(50, 0.4)
    found = alike(np.stack([a + 1, np.zeros(50), b - 9]))
    assert np.isnan(found.pearson[1]).all() and np.isnan(found.spearman[:, 1]).all() and np.isnan(found.overlap[1]).all()
    assert np.isfinite(found.pearson[0, 2])
    assert np.isnan(found.share[1:]).all() and np.isfinite(found.share[0]).all()
    assert_allclose(found.others("pearson"), [found.pearson[0, 2], np.nan, found.pearson[0, 2]])


def test_errors_are_those_of_theory_and_know_that_tokens_of_one_context_go_together() -> None:
    n, r = 400, 0.5
    delta = pair(n, r)
    alone = bootstrap(Ranked(delta), np.arange(n), draws=200, seed=0)
    theory = (1 - r * r) / np.sqrt(n)
    assert deviation(alone, "pearson") == pytest.approx(theory, rel=0.25)
    assert deviation(alone, "spearman") == pytest.approx(theory, rel=0.35)
    copies = bootstrap(Ranked(np.repeat(delta, 5, axis=1)), np.repeat(np.arange(n), 5), draws=200, seed=0)
    for name in ("pearson", "spearman"):
        assert deviation(copies, name) == pytest.approx(deviation(alone, name), rel=0.01)


def test_draws_depend_on_the_seed_alone() -> None:
    delta = np.concatenate([pair(60, 0.3), pair(60, 0.7, seed=5)])
    context = np.repeat([0, 1, 4, 5, 7, 9], 10)
    both, two = (bootstrap(Ranked(d), context, draws=5, seed=3) for d in (delta, delta[:2]))
    for one, other in zip(both, two, strict=True):
        assert_allclose(one.pearson[:2, :2], other.pearson)
        assert_allclose(one.overlap[:2, :2], other.overlap)
    assert not np.allclose(both[0].pearson, bootstrap(Ranked(delta), context, draws=5, seed=4)[0].pearson)
    assert bootstrap(Ranked(delta), np.zeros(60, dtype=int), draws=5, seed=0) == []

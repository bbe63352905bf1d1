"""The null of a latent's scores: closed forms, enumeration of every draw, and draws at random."""

from __future__ import annotations

from itertools import combinations
from math import comb, log

import numpy as np
import pytest
from scipy.special import ndtr

from saebench.studies.cloze.null import mean_null, q_values, sign_null


def population(kind: str, size: int = 200) -> np.ndarray:
    g = np.random.default_rng(5)
    if kind == "skewed":
        return -(g.exponential(size=size) ** 2)
    if kind == "outlier":
        return np.append(g.normal(size=size - 1), -30.0)
    return np.round(g.normal(size=size), 1)  # many ties


def draws(values: np.ndarray, n: int, times: int) -> np.ndarray:
    """Return ``times`` random choices of n of the values, without replacement."""
    order = np.argsort(np.random.default_rng(n).random((times, len(values))), axis=1)
    return values[order[:, :n]]


def test_mean_and_deviation_are_those_of_all_draws():
    values = population("skewed", 11)
    sums = np.array([sum(some) for some in combinations(values, 4)])
    z = mean_null(values, np.full(len(sums), 4), sums).z
    np.testing.assert_allclose(z, (sums - sums.mean()) / sums.std(), atol=1e-9)


@pytest.mark.parametrize("n", [5, 11])
def test_p_is_near_that_of_the_enumeration_of_all_draws(n: int):
    values = population("skewed", 16)
    sums = np.array([sum(some) for some in combinations(values, n)])
    ordered = np.sort(sums)
    for share in (0.002, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 0.998):
        total = ordered[int(share * len(ordered))]
        exact = 2 * min((sums <= total + 1e-9).mean(), (sums >= total - 1e-9).mean())
        (p,) = mean_null(values, np.array([n]), np.array([total])).p
        assert abs(log(p / exact)) < 0.35, (share, p, exact)


@pytest.mark.parametrize("kind", ["skewed", "outlier", "ties"])
@pytest.mark.parametrize("n", [10, 60, 190])
def test_under_the_null_5_percent_are_below_5_percent(kind: str, n: int):
    times, values = 2000, population(kind)
    p = mean_null(values, np.full(times, n), draws(values, n, times).sum(1)).p
    for level in (0.05, 0.01, 0.001):
        error = (level * (1 - level) / times) ** 0.5
        # in a population with one far outlier, the draws with it are 1 − n/N or n/N of all, between the levels: hence 0.01
        slack = 0.01 if level == 0.05 else 0.0
        assert (p < level).mean() < level + slack + 4 * error
        assert (p < level).mean() > level - slack - 4 * error


def test_a_normal_p_would_not_do():
    """Where one prompt suffers far more than the others, each latent that meets it would be a finding."""
    values = population("outlier")
    null = mean_null(values, np.full(2000, 10), draws(values, 10, 2000).sum(1))
    assert (2 * ndtr(-np.abs(null.z)) < 0.001).mean() > 0.02 > (null.p < 0.001).mean()


def test_no_p_is_smaller_than_that_of_one_draw_in_all():
    values = np.arange(30.0)
    (p,) = mean_null(values, np.array([12]), np.array([values[-12:].sum()])).p
    assert 2 / comb(30, 12) <= p < 3 / comb(30, 12)
    two = np.repeat([0.0, -5.0], 20)
    (p,) = mean_null(two, np.array([20]), np.array([-100.0])).p
    assert 0 < p < 1e-9


def test_latents_tested_together_are_as_tested_alone():
    values = population("skewed")
    n = np.tile([10, 40, 100, 150], 5)
    total = np.array([draws(values, int(k), i + 1)[-1].sum() for i, k in enumerate(n)])
    together = mean_null(values, n, total)
    for i in range(len(n)):
        alone = mean_null(values, n[i : i + 1], total[i : i + 1])
        assert (together.z[i], together.p[i]) == pytest.approx((alone.z[0], alone.p[0]), rel=1e-6)


def test_the_sign_score_is_hypergeometric():
    size, n_good, n = 14, 5, 6
    ways = np.array([comb(n_good, x) * comb(size - n_good, n - x) for x in range(n)], dtype=float)
    ways /= comb(size, n)
    null = sign_null(n_good, size, np.full(6, n), np.arange(6))
    for x in range(6):
        assert null.p[x] == pytest.approx(min(1, 2 * min(ways[: x + 1].sum(), ways[x:].sum())))
    x = np.arange(6)
    mean = ways @ x
    np.testing.assert_allclose(null.z, (x - mean) / (ways @ (x - mean) ** 2) ** 0.5, atol=1e-9)


def test_the_sign_score_errs_on_the_safe_side():
    good, times = population("skewed") >= -1, 2000
    found = draws(good, 60, times).sum(1)
    p = sign_null(int(good.sum()), len(good), np.full(times, 60), found).p
    assert 0.01 < (p < 0.05).mean() < 0.05 + 4 * (0.05 * 0.95 / times) ** 0.5


def test_where_all_prompts_are_alike_nothing_can_be_said():
    null = mean_null(np.full(30, -0.25), np.array([12]), np.array([-3.0]))
    assert np.isnan(null.z).all() and np.isnan(null.p).all()
    null = sign_null(30, 30, np.array([12]), np.array([12]))
    assert np.isnan(null.z).all() and null.p.tolist() == [1.0]


def test_q_is_the_smallest_rate_that_takes_the_latent():
    p = np.array([0.001, 0.8, 0.02, 0.03, 0.02])
    by_hand = [min(min(1, q * len(p) / (p <= q).sum()) for q in p if q >= own) for own in p]
    assert q_values(p).tolist() == pytest.approx(by_hand)
    assert q_values(np.zeros(0)).tolist() == []

"""Accumulators and standard errors: by hand, against numpy, and against resampling."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.stats import Tally, Window, add_at, ratio, ratio_of_means


def test_ratio_by_hand() -> None:
    a, b = np.array([1.0, 3.0, 5.0]), np.array([2.0, 2.0, 2.0])
    e = ratio(a, b, n=6)
    assert e.value == 1.5
    # residuals −2, 0, 2: sqrt(3/2 · 8) / 6
    assert e.stderr == pytest.approx(np.sqrt(12) / 6)


def test_equal_clusters_give_the_textbook_error_of_a_mean() -> None:
    x = np.random.default_rng(0).normal(size=(40, 25))
    e = ratio(x.sum(1), np.full(40, 25.0), n=1000)
    assert e.value == pytest.approx(x.mean())
    assert e.stderr == pytest.approx(x.mean(1).std(ddof=1) / np.sqrt(40))


def test_undefined_has_a_reason_and_one_cluster_no_error() -> None:
    assert ratio(np.zeros(3), np.zeros(3), n=3).value is None
    assert ratio(np.zeros(3), np.zeros(3), n=3).reason
    assert ratio(np.array([2.0]), np.array([4.0]), n=4).stderr is None


def test_errors_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(1)
    b = rng.gamma(4, size=300)
    a = 0.7 * b + rng.normal(scale=0.3, size=300)
    n_a, n_b = rng.integers(5, 9, 300).astype(float), rng.integers(3, 6, 300).astype(float)
    one, two = ratio(a, b, n=300), ratio_of_means(a, n_a, b, n_b, reason="")
    draws = rng.integers(0, 300, (3000, 300))
    assert one.stderr == pytest.approx((a[draws].sum(1) / b[draws].sum(1)).std(), rel=0.06)
    means = (a[draws].sum(1) / n_a[draws].sum(1)) / (b[draws].sum(1) / n_b[draws].sum(1))
    assert two.value == pytest.approx((a.sum() / n_a.sum()) / (b.sum() / n_b.sum()))
    assert two.stderr == pytest.approx(means.std(), rel=0.06)


def test_tally_against_numpy_in_any_order_and_chunking() -> None:
    rng = np.random.default_rng(2)
    values = 1e6 + rng.normal(size=(12, 9))  # a large offset must not eat the variance
    context, position = (g.ravel() for g in np.meshgrid(np.arange(12), np.arange(9), indexing="ij"))
    order = rng.permutation(108)
    tally = Tally(12, 10, (Window(name="late", start=5, stop=9),))
    for part in np.array_split(order, 7):
        tally.add(values.ravel()[part], context[part], position[part])
    assert tally.mean().value == pytest.approx(values.mean(), rel=1e-12)
    assert tally.mean("late").value == pytest.approx(values[:, 5:].mean(), rel=1e-12)
    assert tally.mean("late").n == 48
    means, errors, counts = tally.by_position()
    np.testing.assert_allclose(means[:9], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(errors[:9], values.std(0, ddof=1) / np.sqrt(12), rtol=1e-6)
    assert counts == [12] * 9 + [0]
    assert means[9] is None


def test_add_at_touches_only_its_span() -> None:
    sums = np.zeros(6)
    add_at(sums, np.array([3, 2, 3]), np.array([1.0, 2.0, 4.0]))
    add_at(sums, np.array([], dtype=np.int64))
    assert sums.tolist() == [0, 0, 2, 5, 0, 0]

"""F1, AUC and mutual information: identities, cases by hand, loops over all pairs, and scikit-learn where it is there."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import entropy, mannwhitneyu

from saebench.studies.truth import measure

CASES = [(seed, n, share) for seed, (n, share) in enumerate(itertools.product([7, 60, 400], [0.1, 0.4, 0.9]))]


def random_case(seed: int, n: int, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a value with many zeros and ties, a label that leans on it, and a yes-or-no answer."""
    rng = np.random.default_rng(seed)
    label = rng.random(n) < share
    label[:2] = True, False
    values = np.round(np.maximum(0, rng.normal(size=n) + 0.7 * label), 1).astype(np.float32)
    return values, label, values >= 0.6


def counts(yes: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    return np.array([(yes & label).sum()]), np.array([yes.sum()]), np.array([label.sum()]), len(label)


def auc_of(values: np.ndarray, *labels: np.ndarray) -> np.ndarray:
    tokens = np.flatnonzero(values)
    tokens = tokens[np.argsort(-values[tokens])]
    return measure.auc(values[tokens], tokens, np.stack(labels, 1))


def test_by_hand():
    # TP 3, FP 1, FN 2 of 10
    hits, said, positives = np.array([3]), np.array([4]), np.array([5])
    assert measure.f1(hits, said, positives) == pytest.approx(2 * 3 / 9)
    cells = {"yes yes": 0.3, "yes no": 0.1, "no yes": 0.2, "no no": 0.4}
    expected = sum(
        p * math.log2(p / (q * r)) for p, q, r in zip(cells.values(), [0.4, 0.4, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5], strict=True)
    )
    assert measure.mutual_information(hits, said, positives, 10) == pytest.approx(expected)
    assert measure.chance_f1(np.array([0.5])) == pytest.approx(2 / 3)
    assert measure.adjusted_f1(np.array([5 / 6, 0.1]), np.array([2 / 3, 2 / 3])) == pytest.approx([0.5, 0.0])
    assert_allclose(measure.entropy_bits(np.array([0.0, 0.5, 1.0])), [0, 1, 0], atol=1e-15)
    assert measure.entropy_bits(np.array([0.11])) == pytest.approx(entropy([0.11, 0.89], base=2))
    # of six pairs (1, 2 | 0, 0, 2): two are lost or drawn
    values = np.array([1, 2, 0, 0, 2], dtype=np.float32)
    assert auc_of(values, np.array([1, 1, 0, 0, 0], dtype=bool)) == pytest.approx((2 + 0 + 2 + 0.5) / 6)


def test_edges():
    label = np.array([1, 1, 0, 0, 0, 0], dtype=bool)
    bits = measure.entropy_bits(np.array([1 / 3]))[0]
    everything, nothing = np.ones(6, dtype=bool), np.zeros(6, dtype=bool)
    for yes, f1, mi, area in [(label, 1, bits, 1), (~label, 0, bits, 0), (everything, 0.5, 0, 0.5), (nothing, 0, 0, 0.5)]:
        hits, said, positives, n = counts(yes, label)
        assert measure.f1(hits, said, positives) == pytest.approx(f1)
        assert measure.mutual_information(hits, said, positives, n) == pytest.approx(mi)
        assert auc_of(yes.astype(np.float32), label) == pytest.approx(area)
    assert measure.f1(*(np.array([0]),) * 3) == 0


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
def test_always_yes_is_the_best_answer_without_knowledge(share):
    said = np.linspace(0.01, 1, 50)  # yes with this probability, whatever the label
    expected = 2 * said * share / (said + share)
    assert (np.diff(expected) > 0).all() and measure.chance_f1(np.array([share])) == pytest.approx(expected[-1])


@pytest.mark.parametrize(("seed", "n", "share"), CASES)
def test_against_all_pairs_and_scipy(seed, n, share):
    values, label, yes = random_case(seed, n, share)
    wins = sum(
        1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(values[label].tolist(), values[~label].tolist())
    )
    pairs = int(label.sum() * (~label).sum())
    both = auc_of(values, label, ~label)
    assert_allclose(both, [wins / pairs, 1 - wins / pairs], rtol=1e-12)
    assert_allclose(
        both[0], mannwhitneyu(values[label].astype(float), values[~label].astype(float)).statistic / pairs, rtol=1e-12
    )
    table = np.histogram2d(yes, label, bins=2, range=[[0, 1], [0, 1]])[0] / n
    expected = entropy(table.sum(0), base=2) + entropy(table.sum(1), base=2) - entropy(table.ravel(), base=2)
    assert_allclose(measure.mutual_information(*counts(yes, label)), [expected], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("seed", "n", "share"), CASES)
def test_against_scikit_learn(seed, n, share):
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed; scipy and loops are compared above")
    values, label, yes = random_case(seed, n, share)
    hits, said, positives, total = counts(yes, label)
    assert_allclose(measure.f1(hits, said, positives), [metrics.f1_score(label, yes)], rtol=1e-12)
    assert_allclose(auc_of(values, label), [metrics.roc_auc_score(label, values)], rtol=1e-12)
    expected = metrics.mutual_info_score(label, yes) / math.log(2)
    assert_allclose(measure.mutual_information(hits, said, positives, total), [expected], rtol=1e-9, atol=1e-12)

"""What a probe is worth: by hand, by scikit-learn, and by drawing examples one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from saebench.studies.probes.scoring import SCORES, draw_examples, judge, over_examples, over_tasks

NONE = np.zeros((0, 4))


def test_by_hand():
    z = np.array([2.0, -1.0, 1.0, -3.0])
    found = judge(z, np.array([True, True, False, False]), NONE).values
    assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(t)) for t in (-2, 1, 1, -3)) / 4)
    assert found["acc"] == 0.5 and found["f1"] == 0.5 and found["auc"] == 0.75
    assert judge(z, z > 0, NONE).values["auc"] == 1.0 and judge(z, z < 0, NONE).values["f1"] == 0.0
    tied = judge(np.zeros(4), np.array([True, False, False, False]), NONE).values
    assert tied["auc"] == 0.5 and tied["loss"] == pytest.approx(math.log(2)) and tied["acc"] == 0.75


def test_large_log_odds_are_exact():
    found = judge(np.array([800.0, -800.0]), np.array([False, False]), np.zeros((0, 2))).values
    assert found["loss"] == 400.0 and math.isnan(found["auc"])


def test_scores_are_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed; cases by hand are above")
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.3
    z = np.round(rng.normal(size=300) + labels, 1)
    found = judge(z, labels, np.zeros((0, 300))).values
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(labels, z))
    assert found["f1"] == pytest.approx(metrics.f1_score(labels, z > 0))
    assert found["acc"] == pytest.approx(metrics.accuracy_score(labels, z > 0))
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, 1 / (1 + np.exp(-z))))


def test_a_draw_is_the_score_of_the_texts_drawn():
    rng = np.random.default_rng(1)
    labels, z = rng.random(40) < 0.5, np.round(rng.normal(size=40), 1)
    drawn = draw_examples(40, 25, rng)
    assert drawn.shape == (25, 40) and (drawn.sum(1) == 40).all()
    finding = judge(z, labels, drawn)
    for b in range(25):
        some = np.repeat(np.arange(40), drawn[b].astype(int))
        alone = judge(z[some], labels[some], np.zeros((0, 40))).values
        for name in SCORES:
            assert finding.draws[name][b] == pytest.approx(alone[name])
    assert finding.stderr("acc") == pytest.approx(finding.draws["acc"].std(ddof=1))


def test_errors_are_near_the_formulas():
    rng = np.random.default_rng(2)
    labels = rng.random(400) < 0.5
    z = rng.normal(size=400) + labels
    drawn = draw_examples(400, 2000, rng)
    finding = judge(z, labels, drawn)
    losses = np.where(labels, np.logaddexp(0, -z), np.logaddexp(0, z))
    assert finding.stderr("loss") == pytest.approx(losses.std() / 20, rel=0.1)
    values = rng.normal(size=30).tolist()
    mean = over_tasks(values, draw_examples(30, 2000, rng))
    assert mean.value == pytest.approx(np.mean(values)) and mean.n == 30
    assert mean.stderr == pytest.approx(np.std(values) / math.sqrt(30), rel=0.1)
    two = [finding.draws["loss"], np.zeros(2000)]
    assert over_examples(two) == pytest.approx(finding.draws["loss"].std(ddof=1) / 2)


def test_one_task_and_none():
    alone = over_tasks([0.5], draw_examples(1, 10, np.random.default_rng(0)))
    assert alone.value == 0.5 and alone.stderr is None
    nothing = over_tasks([], np.zeros((10, 0)))
    assert nothing.value is None and nothing.reason == "no probe task gives examples"
    assert over_tasks([1.0, 3.0], np.array([[2.0, 0.0], [0.0, 2.0]])).stderr == pytest.approx(math.sqrt(2))

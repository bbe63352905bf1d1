"""k-sparse probes as the package makes them: its ranking, choice of C and scores written out again, and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from saebench.studies.probes.ksparse import CS, auc, dense, held_out, k_sparse, ranked
from saebench.studies.probes.penalised import Norm


def made(n: int = 500, size: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return latents that are mostly 0, labels that a few of them say something about, and which are for training."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random((n, size)) < 0.3, rng.exponential(size=(n, size)), 0.0) * np.exp(rng.normal(size=size))
    labels = rng.random(n) < 1 / (1 + np.exp(-(x[:, 2] + 0.5 * x[:, 5] - x[:, 7])))
    return x.astype(np.float32), labels, np.arange(n) < 3 * n // 5


def by_hand(x: np.ndarray, labels: np.ndarray, is_train: np.ndarray, norm: str) -> dict[str, float]:
    """Return what scikit-learn's own functions give, one C after the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    options = {"l1": {"solver": "saga", "penalty": "elasticnet", "l1_ratio": 1.0, "tol": 1e-7, "max_iter": 5000}}
    own = options.get(norm, {"tol": 1e-9} if norm == "l2" else {})
    train, y = x[is_train], labels[is_train]
    n = len(y) - min(int(0.2 * len(y)), 100)
    best, chosen = -1.0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for c in np.logspace(5, -5, 10):
            model = LogisticRegression(C=c, **{"max_iter": 1000} | own).fit(train[:n], y[:n])
            area = float(roc_auc_score(y[n:], model.decision_function(train[n:])))
            if area > best:
                best, chosen = area, float(c)
        model = LogisticRegression(C=chosen, **{"max_iter": 1000} | own).fit(train, y)
    test, truth = x[~is_train], labels[~is_train]
    said = model.predict(test)
    return {
        "c": chosen, "auc_held_out": best, "auc": float(roc_auc_score(truth, model.decision_function(test))),
        "acc": float(accuracy_score(truth, said)), "f1": float(f1_score(truth, said, average="weighted")),
    }  # fmt: skip


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_as_written_out_with_scikit_learn(norm: Norm):
    x, labels, is_train = made()
    held = held_out(300, None)
    found, order = k_sparse(csr_array(x), labels, is_train, held, [1, 3, 8], norm)
    for k in (1, 3, 8):
        theirs, ours = by_hand(x[:, order[:k]].astype(np.float64), labels, is_train, norm), found[k]
        for name, value in theirs.items():
            assert getattr(ours, name) == pytest.approx(value, abs=2e-3), (k, name)
        assert 0 < ours.auc_stderr < 0.1 and 0 < ours.n_weights <= k


def test_the_baseline_stops_where_scikit_learn_stops():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(500, 120)).astype(np.float32) * np.exp(rng.normal(size=120)).astype(np.float32)
    labels = x[:, 0] + rng.normal(size=500) > 0
    is_train = np.arange(500) < 300
    theirs, ours = by_hand(x.astype(np.float64), labels, is_train, "default"), dense(x, labels, is_train, held_out(300, None))
    for name, value in theirs.items():
        assert getattr(ours, name) == pytest.approx(value, abs=1e-9), name


def test_the_order_is_that_of_means_of_latents_over_their_size():
    x = np.array([[0, 4, 0, 2], [0, 4, 9, 0], [0, 2, 0, -2], [3, 2, 0, 0]], dtype=np.float32)
    # over their mean sizes 3, 3, 9 and 2 the means of the classes are 0 and 1/2, 4/3 and 2/3, 1/2 and 0, 1/2 and -1/2
    assert ranked(csr_array(x), np.array([True, True, False, False])).tolist()[:2] == [3, 1]
    x, labels, _ = made(size=200)
    latents = torch.from_numpy(x)
    size = latents.abs().sum(0) / ((latents != 0).sum(0) + 1e-6)
    over = latents / (size + 1e-6)
    apart = (over[torch.from_numpy(labels)].mean(0) - over[torch.from_numpy(~labels)].mean(0)).abs()
    order = ranked(csr_array(x), labels)
    assert apart[order[0]] == apart.max() and (np.diff(apart[torch.from_numpy(order)].numpy()) < 1e-6).all()


def test_zeros_that_are_held_do_not_count():
    x, labels, _ = made()
    held = csr_array(x)
    held.data[::3] = 0
    without = held.copy()
    without.eliminate_zeros()
    assert held.nnz > without.nnz and (ranked(held, labels) == ranked(without, labels)).all()


def test_a_planted_latent_is_taken_and_more_than_all_is_all():
    x, labels, is_train = made()
    x[:, 11] = labels * (1 + np.arange(500) % 3)
    found, order = k_sparse(csr_array(x), labels, is_train, held_out(300, None), [1, 16, 32, 64], "l1")
    assert order[0] == 11 and found[1].auc == found[1].acc == found[1].f1 == found[1].auc_held_out == 1.0
    assert found[1].c == CS[0] == 1e5 and found[1].auc_stderr == 0
    assert found[32] == found[64] and found[32].n_weights <= 30


def test_without_both_classes_held_out_c_is_1():
    x, labels, is_train = made()
    held = np.zeros(300, bool)
    held[np.flatnonzero(labels[:300])[:20]] = True
    found, _ = k_sparse(csr_array(x), labels, is_train, held, [3], "l1")
    assert found[3].auc_held_out is None and found[3].c == 1.0 and found[3].auc > 0.5


def test_what_is_held_out():
    assert held_out(1024, None).nonzero()[0].tolist() == list(range(924, 1024))
    assert held_out(10, None).nonzero()[0].tolist() == [8, 9]
    drawn = held_out(1024, np.random.default_rng(0))
    assert drawn.sum() == 100 and not drawn[924:].all()


def test_auc_and_its_error():
    z, labels = np.array([1.0, 3.0, 0.0, 2.0]), np.array([True, True, False, False])
    assert auc(z, labels) == (0.75, pytest.approx(np.sqrt(0.125)))
    assert auc(np.zeros(4), labels) == (0.5, 0.0)
    assert np.isnan(auc(z, np.arange(4) == 1)[1])
    rng = np.random.default_rng(0)
    areas, errors = np.array([auc(np.round(rng.normal(size=200) + y, 1), y) for y in rng.random((400, 200)) < 0.5]).T
    assert errors.mean() == pytest.approx(areas.std(), rel=0.15)

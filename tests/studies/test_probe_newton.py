"""Probes by Newton's method: scikit-learn's coefficients, whatever way the numbers are held."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.sparse import csc_array, csr_array

from saebench.studies.probes import sparse as sparse_module
from saebench.studies.probes.dense import fit_dense
from saebench.studies.probes.newton import L2, Fits, entropy, logit
from saebench.studies.probes.several import PENALTIES, fit_all, fit_several
from saebench.studies.probes.sparse import fit_sparse

N, S = 160, 60


def draw(seed: int = 0, n: int = N, s: int = S) -> tuple[np.ndarray, np.ndarray]:
    """Return latents of every kind of trouble, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random(n) < 0.4
    x = np.where(rng.random((n, s)) < rng.uniform(0.01, 0.9, s), rng.exponential(size=(n, s)), 0.0)
    x[:, 0] = 0.0  # silent
    x[:, 1] = 3.25  # constant, never 0
    x[:, 2] = labels * 2.0  # parts the classes, one of them silent
    x[:, 3] = np.where(labels, 5.0, 1.0) + rng.random(n)  # parts them, never 0
    x[:, 4] = 0.0
    x[np.flatnonzero(labels)[:3], 4] = 1.5  # fires in one class only: parts them, touching at 0
    x[:, 5] = 1e-6 * (labels + rng.random(n))  # small, and parts them
    x[:, 6] = 1e6 + labels + rng.normal(size=n)  # a large mean
    x[:, 7] = np.where(rng.random(n) < 0.5, rng.normal(size=n), 0.0) - labels  # both signs
    x[:, 8] = 0.0
    x[7, 8] = 4.0  # one entry
    x[:, 9] = np.where(labels, -1.0, 1.0)  # parts them, both signs
    x[:, 10] = 0.1  # constant, and its mean is not exactly it
    return x, labels


def dense(x: np.ndarray, labels: np.ndarray, *, l2: float = L2, at_once: int | None = None) -> Fits:
    given = torch.from_numpy(x)
    return fit_dense(lambda some: given[:, some], x.shape[1], [labels], n=len(x), l2=l2, at_once=at_once)[0]


@pytest.fixture(scope="module")
def fits() -> Fits:
    x, labels = draw()
    return fit_sparse([(csr_array(x), labels)])[0]


@pytest.mark.parametrize("kind", ["outliers", "signed", "around 0", "ordinary"])
def test_where_it_begins_never_keeps_it_from_the_end(kind: str, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    labels = rng.random(2000) < 0.5
    fires = rng.random((2000, 60)) < 0.2
    x = np.where(fires, rng.exponential(size=fires.shape), 0.0)
    if kind == "outliers":  # fires as the label says, but for three that are huge
        x = np.where(labels[:, None], rng.exponential(size=fires.shape), 0.0)
        x[np.flatnonzero(~labels)[:3]] = 1e6
    if kind == "signed":
        x = np.where(fires, rng.normal(size=fires.shape), 0.0)
    if kind == "around 0":
        x = rng.permuted(np.repeat([1.0, -1.0, 0.0], [200, 200, 1600])[:, None].repeat(60, 1), axis=0)  # its mean is 0
    fits = fit_sparse([(csc_array(x), labels)])[0]
    monkeypatch.setattr(sparse_module.SparseColumns, "guess", lambda _self: None)
    plain = fit_sparse([(csc_array(x), labels)])[0]
    assert fits.converged.all() and plain.converged.all()
    assert_allclose(fits.loss, plain.loss, atol=1e-9)
    assert_allclose(fits.weight, plain.weight, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("l2", [L2, 1e-6, 0.1])
def test_coefficients_are_scikit_learns(l2: float):
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed; scipy is compared below")
    x, labels = draw()
    fits = fit_sparse([(csc_array(x), labels)], l2=l2)[0]
    checked = 0
    for j in range(S):
        deviation, mean = x[:, j].std(), x[:, j].mean()
        if deviation < 1e-10 * np.abs(x[:, j]).max() or not x[:, j].any():
            assert fits.weight[j] == 0.0 and fits.bias[j] == pytest.approx(logit(labels.mean()), abs=1e-12)
            continue
        model = linear.LogisticRegression(C=1 / (l2 * N), solver="newton-cholesky", tol=1e-13, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says so when the last digits do not settle
            model.fit(((x[:, j] - mean) / deviation)[:, None], labels)
        w = model.coef_[0, 0]
        assert fits.weight[j] * deviation == pytest.approx(w, abs=1e-5), j
        assert fits.bias[j] + fits.weight[j] * mean == pytest.approx(model.intercept_[0], abs=1e-5), j
        checked += 1
    assert checked == S - 3 and fits.converged.all()


def test_coefficients_minimise_the_objective(fits):
    x, labels = draw()
    for j in (2, 4, 6, 7, 20):
        u = (x[:, j] - x[:, j].mean()) / x[:, j].std()

        def objective(c: np.ndarray, u: np.ndarray = u) -> float:
            z = c[0] * u + c[1]
            return float((np.logaddexp(0, z) - labels * z).mean() + 0.5 * L2 * c[0] ** 2)

        mine = np.array([fits.weight[j] * x[:, j].std(), fits.bias[j] + fits.weight[j] * x[:, j].mean()])
        found = minimize(objective, mine + 0.1, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 2000})
        assert objective(mine) <= found.fun + 1e-13
        assert_allclose(mine, found.x, atol=1e-4)
        z = fits.weight[j] * x[:, j] + fits.bias[j]
        assert fits.loss[j] == pytest.approx((np.logaddexp(0, z) - labels * z).mean(), abs=1e-9)


def test_sparse_is_dense_and_blocks_and_batches_move_nothing(fits):
    x, labels = draw()
    others = [dense(x, labels), dense(x, labels, at_once=3 * N)]
    others += [fit_sparse([(csr_array(x), labels)], at_once=n)[0] for n in (1, 300)]
    other_labels = np.roll(labels, 7)
    both = fit_sparse([(csr_array(x[:90]), labels[:90]), (csr_array(x), labels), (csr_array(x), other_labels)])
    others.append(both[1])
    for other in others:
        scale = np.maximum(x.std(0), 1e-12)
        assert_allclose(other.weight * scale, fits.weight * scale, atol=1e-7)
        assert_allclose(other.bias[:6], fits.bias[:6], atol=1e-6)
        assert_allclose(other.loss, fits.loss, atol=1e-9)
        assert_array_equal(other.separable, fits.separable)
        assert other.converged.all()
    alone = fit_sparse([(csr_array(x[:90]), labels[:90])])[0]
    assert_allclose(both[0].loss, alone.loss, atol=1e-12)
    assert_allclose(both[2].loss, dense(x, other_labels).loss, atol=1e-9)


def test_what_parts_the_classes_is_known_and_bounded(fits):
    x, labels = draw()
    for j in range(S):
        yes, no = x[labels, j], x[~labels, j]
        parts = x[:, j].std() > 1e-10 and (yes.min() >= no.max() or no.min() >= yes.max())
        assert fits.separable[j] == parts, j
    assert fits.separable[[2, 3, 4, 9]].all() and not fits.separable[[0, 1, 6, 7, 10]].any()
    assert np.isfinite(fits.weight).all() and np.abs(fits.weight[2] * x[:, 2].std()) < 20
    assert fits.loss[2] < 0.01 and fits.loss[3] < 0.01
    smaller = fit_sparse([(csr_array(x), labels)], l2=1e-8)[0]
    assert smaller.converged.all() and smaller.loss[2] < fits.loss[2] and abs(smaller.weight[2]) > abs(fits.weight[2])


def test_latents_that_say_nothing_get_the_share_of_yes(fits):
    _, labels = draw()
    for j in (0, 1, 10):
        assert fits.weight[j] == 0 and fits.loss[j] == pytest.approx(entropy(labels.mean())) and not fits.separable[j]
    assert fits.loss.max() <= entropy(labels.mean()) + 1e-12  # knowing a latent is never worse in training


@pytest.mark.parametrize("kind", [False, True])
def test_one_class(kind: bool):
    x, _ = draw()
    labels = np.full(N, kind)
    for fits in (fit_sparse([(csr_array(x), labels)])[0], dense(x, labels)):
        assert (fits.weight == 0).all() and (fits.loss == 0).all() and (fits.bias == (np.inf if kind else -np.inf)).all()
        assert fits.converged.all() and not fits.separable.any()
    several = fit_several(x[:, :3], labels)
    assert (several.weight == 0).all() and several.bias == (np.inf if kind else -np.inf)


def test_a_latent_means_the_same_at_any_size():
    x, labels = draw()
    scaled = fit_sparse([(csr_array(x * 1e4), labels)])[0]
    plain = fit_sparse([(csr_array(x), labels)])[0]
    assert_allclose(scaled.loss, plain.loss, atol=1e-9)
    assert_allclose(scaled.weight * 1e4, plain.weight, rtol=1e-6, atol=1e-9)


def test_a_planted_latent_is_the_best():
    rng = np.random.default_rng(1)
    labels = rng.random(400) < 0.5
    x = np.where(rng.random((400, 300)) < 0.05, rng.exponential(size=(400, 300)), 0.0)
    x[:, 217] = np.where(labels & (rng.random(400) < 0.9), 1 + rng.random(400), 0.0)
    fits = fit_sparse([(csr_array(x), labels)])[0]
    assert fits.loss.argmin() == 217 and fits.weight[217] > 0 and fits.loss[217] < 0.35 < np.delete(fits.loss, 217).min()


def test_zeros_that_are_stored_and_no_entries_at_all():
    x, labels = draw()
    stored = csc_array(x)
    stored.data[::5] = 0.0
    clean = stored.copy()
    clean.eliminate_zeros()
    assert stored.nnz > clean.nnz
    pair = [fit_sparse([(matrix, labels)])[0] for matrix in (stored, clean)]
    assert_array_equal(pair[0].loss, pair[1].loss)
    nothing = fit_sparse([(csr_array((N, 4)), labels)])[0]
    assert (nothing.weight == 0).all()
    assert_allclose(nothing.loss, entropy(labels.mean()))


def test_memory_is_bounded_by_the_entries_worked_on(monkeypatch):
    x, labels = draw()
    seen: list[int] = []
    real = sparse_module.SparseColumns

    class Watched(real):
        def __init__(self, flat):
            seen.append(len(flat.x))
            super().__init__(flat)

    monkeypatch.setattr(sparse_module, "SparseColumns", Watched)
    fit_sparse([(csr_array(x), labels)] * 2, at_once=500)
    assert max(seen) <= 500 and sum(seen) == 2 * np.count_nonzero(x)


def test_several_latents_at_once_are_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    x, labels = draw(3)
    for columns in ([12, 13], [2, 14, 15, 16, 17], [1, 20, 21, 22]):
        some = x[:, columns]
        deviation = np.where(some.std(0) > 0, some.std(0), 1.0)
        model = linear.LogisticRegression(C=1 / (L2 * N), solver="newton-cholesky", tol=1e-13, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit((some - some.mean(0)) / deviation, labels)
        found = fit_several(some, labels)
        assert_allclose(found.weight * deviation, model.coef_[0], atol=1e-5)
        assert_allclose(found(some), model.decision_function((some - some.mean(0)) / deviation), atol=1e-5)


def test_several_of_one_latent_is_that_latent(fits):
    x, labels = draw()
    for j in (2, 7, 30):
        found = fit_several(x[:, [j]], labels)
        assert found.weight[0] == pytest.approx(fits.weight[j], rel=1e-6) and found.bias == pytest.approx(fits.bias[j], abs=1e-5)


def test_the_ceiling_chooses_a_penalty_and_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 150))
    labels = 2 * x[:, :2].sum(1) + rng.normal(size=300) > 0
    linear, l2 = fit_all(x[:200], labels[:200], seed=0)
    assert l2 in PENALTIES and l2 > min(PENALTIES)  # with 150 numbers for 160 examples a tiny penalty learns noise by heart
    z = linear(x[200:])
    loss = (np.logaddexp(0, z) - labels[200:] * z).mean()
    assert loss < 0.65 and ((z > 0) == labels[200:]).mean() > 0.65
    again, _ = fit_all(x[:200], labels[:200], seed=0)
    assert_array_equal(again.weight, linear.weight)

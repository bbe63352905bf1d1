"""Many small least-squares problems at once: scipy's answers one by one, the conditions of a minimum, singular problems."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from saebench.studies.shrinkage.solve import TOLERANCE, solve

N, D = 60, 12


def problems(k: int, *, alike: float = 0.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return (unit rows [N, k, D], targets [N, D], starts ≥ 0 [N, k], about half of them 0)."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, k, D, generator=g, dtype=torch.float64) + alike * torch.randn(N, 1, D, generator=g, dtype=torch.float64)
    rows = torch.nn.functional.normalize(rows, dim=2)
    start = torch.randn(N, k, generator=g, dtype=torch.float64).clamp_min(0)
    return rows, 3 * torch.randn(N, D, generator=g, dtype=torch.float64), start


def solved(rows: Tensor, target: Tensor, start: Tensor, nonnegative: bool) -> Tensor:
    error = target - torch.einsum("nk,nkd->nd", start, rows)
    found = solve(rows @ rows.mT, torch.einsum("nkd,nd->nk", rows, error), start, nonnegative=nonnegative)
    assert bool(found.settled.all())
    return found.z


def squared_error(rows: Tensor, target: Tensor, z: Tensor) -> Tensor:
    return (target - torch.einsum("nk,nkd->nd", z, rows)).square().sum(1)


@pytest.mark.parametrize(("k", "alike"), [(1, 0.0), (3, 0.0), (8, 0.0), (12, 0.0), (8, 3.0), (12, 30.0), (30, 0.0), (30, 3.0)])
def test_nonnegative_minima_are_scipys(k: int, alike: float) -> None:
    rows, target, start = problems(k, alike=alike)
    z = solved(rows, target, start, nonnegative=True)
    assert bool((z >= 0).all())
    ours = squared_error(rows, target, z)
    for i in range(N):
        theirs, norm = scipy.optimize.nnls(rows[i].T.numpy(), target[i].numpy())
        assert float(ours[i]) == pytest.approx(norm**2, rel=1e-8, abs=1e-12)
        if k < D:
            np.testing.assert_allclose(z[i].numpy(), theirs, atol=1e-5)
    gradient = torch.einsum("nkd,nd->nk", rows, torch.einsum("nk,nkd->nd", z, rows) - target)
    assert float(gradient.min()) > -1e-6, "nothing at 0 would help"
    assert float((gradient.abs() * (z > 0)).max()) < 1e-6, "what is above 0 is at its best"
    if k > 3:
        assert bool((z == 0).any()) and bool((z > 0).any())


@pytest.mark.parametrize("k", [1, 5, 12])
def test_signed_minima_are_least_squares(k: int) -> None:
    rows, target, start = problems(k)
    expected = torch.linalg.lstsq(rows.mT, target[..., None]).solution[..., 0]
    z = solved(rows, target, start, nonnegative=False)
    torch.testing.assert_close(squared_error(rows, target, z), squared_error(rows, target, expected), rtol=1e-8, atol=1e-4)
    if k < D:
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-6)


def test_of_many_signed_minima_the_one_next_to_the_start_is_found() -> None:
    rows, target, start = problems(20)
    z = solved(rows, target, start, nonnegative=False)
    assert float(squared_error(rows, target, z).max()) < 1e-12
    step = torch.linalg.pinv(rows.mT) @ (target - torch.einsum("nk,nkd->nd", start, rows))[..., None]
    torch.testing.assert_close(z, start + step[..., 0], rtol=0, atol=1e-3)


def test_a_latent_that_is_there_twice_is_no_trouble() -> None:
    rows, target, start = problems(6)
    twice = torch.cat([rows, rows], 1)
    z = solved(twice, target, torch.cat([start, start], 1), nonnegative=True)
    once = solved(rows, target, start, nonnegative=True)
    torch.testing.assert_close(squared_error(twice, target, z), squared_error(rows, target, once))
    torch.testing.assert_close(z[:, :6] + z[:, 6:], once, rtol=1e-5, atol=1e-6)


def test_a_minimum_stays_where_it_is_and_zeros_move_nothing() -> None:
    rows, target, start = problems(5)
    z = solved(rows, target, start, nonnegative=True)
    again = solved(rows, target, z, nonnegative=True)
    assert float((again - z).abs().max()) < 1e-6 > TOLERANCE
    padded = torch.cat([rows, torch.zeros(N, 4, D, dtype=torch.float64)], 1)
    wide = solved(padded, target, torch.cat([start, torch.full((N, 4), 0.7, dtype=torch.float64)], 1), nonnegative=True)
    torch.testing.assert_close(wide[:, :5], z, rtol=1e-5, atol=1e-6)
    assert torch.equal(wide[:, 5:], torch.full((N, 4), 0.7, dtype=torch.float64))


def test_what_is_not_finite_is_left_and_said() -> None:
    rows, target, start = problems(3)
    target[1] = float("nan")
    error = target - torch.einsum("nk,nkd->nd", start, rows)
    found = solve(rows @ rows.mT, torch.einsum("nkd,nd->nk", rows, error), start, nonnegative=True)
    assert found.settled.tolist() == [True] + [False] + [True] * (N - 2)
    assert torch.equal(found.z[1], start[1])

"""Norms about the median: closed forms, both ways of taking them, and a head with and without a soft cap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from saebench.lm.effects import Sizes, effect_sizes, logits_of, norms_about_median
from saebench.lm.model import LanguageModel


def sparsity(*rows: torch.Tensor) -> float:
    """Return the sparsity of one effect over as many positions."""
    return float(Sizes(*norms_about_median(torch.stack(rows))[:, None]).sparsity(rows[0].shape[0])[0])


def spike(v: int, at: int = 3, size: float = -2.0) -> torch.Tensor:
    return torch.zeros(v).index_fill(0, torch.tensor([at]), size)


@pytest.mark.parametrize("v", [101, 100])
def test_one_logit_is_one_of_all(v: int) -> None:
    silent = torch.zeros(v)
    assert sparsity(spike(v), silent, silent) == pytest.approx(1 / (3 * v))
    assert sparsity(spike(v), spike(v, 7), silent) == pytest.approx(2 / (3 * v)), "two equal ones are two of all"
    assert sparsity(spike(v) + 40, silent - 3, silent + 0.5) == pytest.approx(1 / (3 * v)), "a shift changes no prediction"


def test_all_alike_is_one() -> None:
    """Half up, half down, and one in the middle that is the median."""
    v = 1001
    signs = torch.tensor([1.0, -1.0]).repeat(v // 2)
    row = torch.cat([signs, torch.zeros(1)])
    assert sparsity(row, row, row, row) == pytest.approx((v - 1) / v)
    even = torch.cat([torch.zeros(2), signs[2:]])
    assert sparsity(even) == pytest.approx(998 / 1000)


@pytest.mark.parametrize("v", [50, 51])
def test_by_the_definition(v: int) -> None:
    x = torch.randn(6, v, generator=torch.Generator().manual_seed(0)) + torch.arange(6)[:, None]
    middle = x.median(1, keepdim=True).values
    found = norms_about_median(x.clone())
    assert_allclose(found, torch.stack([(x - middle).abs().sum(1), (x - middle).square().sum(1)]), rtol=1e-5)
    sizes = Sizes(*found.reshape(2, 2, 3))
    e = (x - middle).reshape(2, -1).double()
    assert_allclose(sizes.sparsity(v), e.abs().sum(1) ** 2 / e.square().sum(1) / (3 * v), rtol=1e-5)
    assert_allclose(sizes.first_share(), (e.reshape(2, 3, v)[:, 0] ** 2).sum(1) / (e**2).sum(1), rtol=1e-5)


def test_normal_numbers_give_two_over_pi() -> None:
    generator = torch.Generator().manual_seed(0)
    found = [sparsity(*torch.randn(16, 5000, generator=generator)) for _ in range(12)]
    error = np.std(found, ddof=1) / math.sqrt(len(found))
    assert error < 1e-3 and abs(np.mean(found) - 2 / math.pi) < 4 * error


def test_nothing_has_no_sparsity() -> None:
    sizes = Sizes(*norms_about_median(torch.full((2, 9), 4.0))[:, None])
    assert (sizes.square == 0).all() and np.isnan(sizes.sparsity(9)).all() and np.isnan(sizes.first_share()).all()


@torch.inference_mode()
def test_changes_of_logits_are_those_of_the_head(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's head has a soft cap, so its logits are subtracted behind it."""
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(3, 4, tiny.d_model, generator=generator) for _ in range(2))
    after[1, 2] = before[1, 2]
    change = tiny.head(after) - tiny.head(before)
    wanted = norms_about_median(change.flatten(0, 1)).reshape(2, 3, 4)
    for chunk, tile in ((1 << 20, 768), (1, 40)):  # of a vocabulary of 96
        monkeypatch.setattr("saebench.lm.effects._CHUNK_BYTES", chunk)
        monkeypatch.setattr("saebench.lm.effects._VOCAB_CPU", tile)
        found = effect_sizes(tiny, after, before)
        assert_allclose([found.l1, found.square], wanted, rtol=1e-4)
        assert found.square[1, 2] == 0
    if getattr(tiny.config, "final_logit_softcapping", None) is None:
        torch.testing.assert_close(logits_of(tiny, (after - before)[0]), (tiny.head(after) - tiny.head(before))[0])
    else:
        assert not torch.allclose(logits_of(tiny, (after - before)[0]), change[0], rtol=1e-3)

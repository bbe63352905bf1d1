"""Continuations side by side give what each gives by itself."""

from __future__ import annotations

import pytest
import torch

from saebench.lm.branches import PADDING, TRUNK, branch_mask, branched, takes_branches
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from tests.lm.families import build

# rows of seven: a trunk of three, branches of two, one and one; and a trunk of two with one branch of one, padded
BRANCH = torch.tensor([[0, 0, 0, 1, 1, 2, 3], [0, 0, 1, -1, -1, -1, -1]])
POSITION = torch.tensor([[0, 1, 2, 3, 4, 3, 3], [0, 1, 2, 0, 0, 0, 0]])
TOKENS = torch.tensor([[1, 17, 30, 5, 6, 44, 5], [1, 20, 80, 0, 0, 0, 0]])
SITES = ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.2.hook_resid_post"]


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("branches") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def texts() -> list[tuple[int, torch.Tensor]]:
    """Return (row, positions in it) of every text that the rows hold."""
    out = []
    for row, branch in enumerate(BRANCH):
        for number in range(1, int(branch.max()) + 1):
            out.append((row, ((branch == TRUNK) | (branch == number)).nonzero()[:, 0]))
    return out


def test_the_mask_by_hand():
    mask = branch_mask(torch.tensor([[0, 0, 1, 2, -1]]), torch.float32)[0, 0] == 0
    assert mask.int().tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 0, 1]]
    assert PADDING < TRUNK


@pytest.mark.parametrize("site", SITES)
def test_clean_and_spliced_are_those_of_each_text_by_itself(model: LanguageModel, site: str):
    port = Port(model, site)
    with branched(port, BRANCH, POSITION):
        together = port.clean(TOKENS)
        where = BRANCH != PADDING
        where[:, 0] = False
        bent = port.splice(together, together.target * 0.5 + 0.1, where)
    assert together.final is not None
    for row, own in texts():
        alone = port.clean(TOKENS[row, own][None])
        assert alone.final is not None
        torch.testing.assert_close(together.final[row, own], alone.final[0], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(together.acts[row, own], alone.acts[0], atol=2e-5, rtol=1e-4)
        there = torch.arange(len(own))[None] > 0
        torch.testing.assert_close(bent[row, own], port.splice(alone, alone.target * 0.5 + 0.1, there)[0], atol=2e-5, rtol=1e-4)


def test_nothing_is_left_behind(model: LanguageModel):
    port = Port(model, SITES[1])
    before = port.clean(TOKENS).final
    with pytest.raises(RuntimeError), branched(port, BRANCH, POSITION):
        raise RuntimeError
    torch.testing.assert_close(port.clean(TOKENS).final, before, atol=0, rtol=0)


def test_what_is_tried_holds_also_for_rows_longer_than_the_context(model: LanguageModel):
    port = Port(model, SITES[1])
    assert takes_branches(port, 5, 9)
    assert takes_branches(port, model.n_ctx, 3 * model.n_ctx)


def _sees_everything(branch: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(len(branch), 1, branch.shape[1], branch.shape[1], dtype=dtype)


@pytest.mark.parametrize("mask", [_sees_everything, lambda *_: 1 / 0])
def test_a_model_that_heeds_no_mask_is_found_out(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, mask):
    """Here by a mask that hides nothing, and one that ends in an error."""
    monkeypatch.setattr("saebench.lm.branches.branch_mask", mask)
    assert not takes_branches(Port(model, SITES[1]), 5, 9)


def test_attention_with_a_shorter_window_is_left_alone(tmp_path):
    build("gemma2", str(tmp_path))
    port = Port(load_model(str(tmp_path), device="cpu"), SITES[1])
    assert takes_branches(port, 5, 7), "the texts fit its window of five"
    assert not takes_branches(port, 6, 9)

"""The stream in front of a site at a few positions is that of the whole forward."""

from __future__ import annotations

import contextlib

import pytest
import torch

from saebench.lm import prefix_ends
from saebench.lm.branches import branch_mask, branched
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.prefix_ends import gives_ends, stream_at
from tests.lm.families import build

BRANCH = torch.tensor([[0, 0, 0, 1, 1, 2, 3], [0, 0, 1, -1, -1, -1, -1]])
POSITION = torch.tensor([[0, 1, 2, 3, 4, 3, 3], [0, 1, 2, 0, 0, 0, 0]])
TOKENS = torch.tensor([[1, 17, 30, 5, 6, 44, 5], [1, 20, 80, 0, 0, 0, 0]])
AT = torch.tensor([[2, 4, 5], [2, 1, 0]])


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("ends") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize("site", ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"])
def test_plain_texts_and_branches(model: LanguageModel, site: str):
    port = Port(model, site)
    assert gives_ends(port, 7)
    rows = torch.arange(2)[:, None]
    causal = torch.arange(7) <= AT[..., None]
    found = stream_at(port, TOKENS, AT, AT, causal, contextlib.nullcontext())
    torch.testing.assert_close(found, port.clean(TOKENS, final=False).acts[rows, AT], atol=2e-5, rtol=1e-4)
    with branched(port, BRANCH, POSITION):
        whole = port.clean(TOKENS, final=False).acts[rows, AT]
    sees = (branch_mask(BRANCH, torch.float32)[:, 0] == 0)[rows, AT]
    found = stream_at(port, TOKENS, AT, POSITION.gather(1, AT), sees, branched(port, BRANCH, POSITION))
    torch.testing.assert_close(found, whole, atol=2e-5, rtol=1e-4)


def test_nothing_is_left_behind(model: LanguageModel):
    port = Port(model, "blocks.1.hook_resid_pre")
    before = port.clean(TOKENS).final
    assert stream_at(port, TOKENS, AT, AT, torch.arange(7) <= AT[..., None], contextlib.nullcontext()) is not None
    torch.testing.assert_close(port.clean(TOKENS).final, before, atol=0, rtol=0)


def test_where_it_cannot_be_done_it_is_not(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    assert not gives_ends(Port(model, "blocks.0.hook_resid_pre"), 7), "no block runs"
    assert not gives_ends(Port(model, "blocks.1.hook_mlp_out"), 7), "inside a block"
    port = Port(model, "blocks.1.hook_resid_pre")
    monkeypatch.setattr(model.config, "sliding_window", 5, raising=False)
    assert not gives_ends(port, 7) and gives_ends(port, 5)
    monkeypatch.setattr(model.config, "sliding_window", None, raising=False)
    monkeypatch.setattr(prefix_ends, "attending", lambda _instead: contextlib.nullcontext())
    assert not gives_ends(port, 7), "an attention that is not torch's own"

"""A tree of texts laid out flat gives at the end of each text what the text gives by itself."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.lm import flat_tree
from saebench.lm.flat_tree import runs_flat, stream_at_ends
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.narrow_heads import attend_narrow
from saebench.lm.port import Port
from saebench.lm.token_tree import Text, Tree, grow
from tests.lm.families import build

TEXTS: list[Text] = [(1, 17, 9, 9, 9, 2, 7, 7, 3), (1, 17, 30, 5, 6, 44, 5), (1, 17, 30, 8), (20,), (20, 1, 17, 30, 5)]
"""One text, one that leaves it after two tokens, one that leaves that after three, and two that begin otherwise."""


def tree() -> Tree:
    """Return ``TEXTS`` as one tree."""
    ((numbers, grown),) = grow(TEXTS, 1000)
    assert numbers.tolist() == [0, 1, 2, 3, 4] and len(grown.tokens) == 9 + 5 + 1 + 1 + 4
    return grown


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("flat") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize("narrow", [0, 4, 24])
@pytest.mark.parametrize("coarse", [1, 16])
@pytest.mark.parametrize("site", ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"])
def test_ends_are_those_of_one_forward_a_text(
    model: LanguageModel, site: str, coarse: int, narrow: int, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the lengths up to which attention of narrow heads is done across texts: none, some, all."""
    monkeypatch.setattr(flat_tree, "_COARSE", coarse)
    monkeypatch.setattr(flat_tree, "LENGTH", narrow)
    port = Port(model, site)
    assert runs_flat(port, 9)
    alone = torch.stack([port.clean(torch.tensor([text]), final=False).acts[0, -1] for text in TEXTS])
    torch.testing.assert_close(stream_at_ends(port, tree()), alone, atol=2e-5, rtol=1e-4)
    monkeypatch.setattr(flat_tree, "_GATHERED", 1)
    torch.testing.assert_close(stream_at_ends(port, tree()), alone, atol=2e-5, rtol=1e-4)


def test_in_half_precision(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    folder, attended = model.id, []
    monkeypatch.setattr(flat_tree, "attend_narrow", lambda *_: attended.append(1))
    half = load_model(folder, device="cpu", dtype="bfloat16")
    port = Port(half, "blocks.2.hook_resid_pre")
    assert runs_flat(port, 9)
    alone = torch.stack([port.clean(torch.tensor([text]), final=False).acts[0, -1] for text in TEXTS])
    torch.testing.assert_close(stream_at_ends(port, tree()), alone, atol=0.05, rtol=0.05)
    assert not attended, "across texts in float32 alone"


@pytest.mark.parametrize(("width", "calls"), [(16, True), (5, False)])
def test_attention_goes_across_texts_where_heads_are_narrow(
    model: LanguageModel, width: int, calls: bool, monkeypatch: pytest.MonkeyPatch
):
    attended: list[tuple[int, ...]] = []

    def watched(query: Tensor, *args: Any) -> Tensor:
        attended.append(tuple(query.shape))
        return attend_narrow(query, *args)

    monkeypatch.setattr(flat_tree, "attend_narrow", watched)
    monkeypatch.setattr(flat_tree, "WIDTH", width)
    assert stream_at_ends(Port(model, "blocks.2.hook_resid_pre"), tree()) is not None
    assert bool(attended) == calls


def test_a_text_sees_its_own_tokens_alone(model: LanguageModel):
    port = Port(model, "blocks.2.hook_resid_pre")
    before = stream_at_ends(port, tree())
    other = tree()
    other.tokens[9] = 40  # the first token of the second text's own, which the third has too
    after = stream_at_ends(port, other)
    assert before is not None and after is not None
    moved = (before - after).abs().amax(1) > 1e-6
    assert moved.tolist() == [False, True, True, False, False]


def test_nothing_is_left_behind(model: LanguageModel):
    port = Port(model, "blocks.1.hook_resid_pre")
    tokens = torch.tensor([TEXTS[0]])
    before = port.clean(tokens).final
    assert stream_at_ends(port, tree()) is not None
    torch.testing.assert_close(port.clean(tokens).final, before, atol=0, rtol=0)


def test_where_it_cannot_be_done_it_is_not(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    assert not runs_flat(Port(model, "blocks.1.hook_mlp_out"), 7), "inside a block"
    port = Port(model, "blocks.1.hook_resid_pre")
    assert not runs_flat(port, 2), "too short to branch"
    monkeypatch.setattr(model.config, "sliding_window", 5, raising=False)
    assert not runs_flat(port, 7) and runs_flat(port, 5)
    monkeypatch.setattr(model.config, "sliding_window", None, raising=False)
    monkeypatch.setattr(flat_tree, "attending", lambda _instead: contextlib.nullcontext())
    assert not runs_flat(port, 7), "an attention that is not torch's own"

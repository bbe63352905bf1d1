"""What a change does from its position on is what it does in a whole forward with a hook, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.lm.model import LanguageModel
from saebench.lm.onward import Onward
from saebench.lm.port import Port

WIDTH = 4
TOKENS = torch.randint(4, 90, (3, 13), generator=torch.Generator().manual_seed(1))
ROW = torch.tensor([0, 1, 2, 2])
POSITION = torch.tensor([0, 3, 1, 9])
FAST = (
    "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_pre",
    "blocks.2.hook_resid_post",
    "blocks.1.hook_mlp_out",
)
SLOW = ("blocks.1.attn.hook_z", "blocks.1.hook_attn_out")


def hooked(model: LanguageModel, site: str, row: int, position: int, change: Tensor, new: Tensor | None = None) -> Tensor:
    """Return the logits of a whole forward of the bridge: ``new`` at the site but for position 0, and the change added."""

    def put(act: Tensor, hook: object) -> Tensor:
        out = act.clone().flatten(2)
        if new is not None:
            out[:, 1:] = new[row, 1:]
        out[0, position] += change
        return out.view(act.shape)

    return model.bridge.run_with_hooks(TOKENS[row : row + 1], fwd_hooks=[(site, put)])[0, position : position + WIDTH]


def check(model: LanguageModel, site: str, from_position: bool) -> None:
    port = Port(model, site)
    onward = Onward(port, TOKENS.shape[1], WIDTH)
    assert onward.from_position == from_position
    clean = port.clean(TOKENS, final=False)
    generator = torch.Generator().manual_seed(2)
    change = torch.randn(len(ROW), clean.target.shape[2], generator=generator)
    where = torch.ones_like(TOKENS, dtype=torch.bool)
    where[:, 0] = False
    noisy = clean.target * 0.5 + 0.3 * torch.randn(clean.target.shape, generator=generator)
    for base, new in ((onward.base(clean), None), (onward.base(clean, noisy, where), noisy)):
        found = model.head(onward.finals(base, ROW, POSITION, change))
        for i, (row, position) in enumerate(zip(ROW.tolist(), POSITION.tolist(), strict=True)):
            torch.testing.assert_close(found[i], hooked(model, site, row, position, change[i], new), atol=1e-4, rtol=1e-4)
        nothing = model.head(onward.finals(base, ROW, POSITION, torch.zeros_like(change)))
        assert (nothing - found).abs().amax((1, 2)).min() > 1e-3, "the change must change something"
        alone = torch.cat([onward.finals(base, ROW[i, None], POSITION[i, None], change[i, None]) for i in range(len(ROW))])
        torch.testing.assert_close(model.head(alone), found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", FAST)
@torch.inference_mode()
def test_a_change_is_what_it_is_in_a_whole_forward(tiny: LanguageModel, site: str) -> None:
    check(tiny, site, from_position=True)


@pytest.mark.parametrize("site", SLOW)
@torch.inference_mode()
def test_where_contexts_run_whole_it_is_the_same(tiny: LanguageModel, site: str) -> None:
    check(tiny, site, from_position=False)


@torch.inference_mode()
def test_only_the_positions_behind_the_change_run(tiny: LanguageModel) -> None:
    port = Port(tiny, "blocks.1.hook_resid_pre")
    onward = Onward(port, TOKENS.shape[1], WIDTH)
    base = onward.base(port.clean(TOKENS, final=False))
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda _m, args, out: seen.append((out[0] if isinstance(out, tuple) else out).shape[1]))
        for block in tiny.stack.blocks[1:]
    ]
    onward.finals(base, ROW, POSITION, torch.zeros(len(ROW), tiny.d_model))
    for handle in handles:
        handle.remove()
    assert seen == [WIDTH, WIDTH]


@pytest.mark.parametrize("fault", ["mask", "error"])
def test_a_model_that_gives_something_else_is_found_out(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    def instead(sees: Tensor, dtype: torch.dtype) -> Any:
        return torch.zeros(sees.shape, dtype=dtype)[:, None] if fault == "mask" else 1 / 0

    monkeypatch.setattr("saebench.lm.onward._added", instead)
    assert not Onward(Port(tiny, "blocks.1.hook_resid_pre"), 13, WIDTH).from_position


def test_memory_is_bounded_by_what_runs_at_once(tiny: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    onward = Onward(Port(tiny, "blocks.1.hook_resid_pre"), 13, WIDTH)
    assert onward.at_once(13, 2048) == 2048 // WIDTH and onward.at_once(13, 1) == 1
    monkeypatch.setattr("saebench.lm.onward._PAST_BYTES", 3 * 2 * 13 * tiny.d_model * 4)
    assert onward.at_once(13, 2048) == 3
    whole = Onward(Port(tiny, "blocks.1.attn.hook_z"), 13, WIDTH)
    assert whole.at_once(13, 2048) == 2048 // 13

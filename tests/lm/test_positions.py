"""The final norm's output at some positions is that of the whole forward, and the last block's MLP runs nowhere else."""

from __future__ import annotations

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from saebench.lm.branches import PADDING, branched
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.positions import Finals, gives_few
from tests.lm.families import build
from tests.lm.test_branches import BRANCH, POSITION, TOKENS

LAYERS = [0, 1, 2]
PLAIN = torch.where(BRANCH == PADDING, PADDING, 0), torch.arange(7).expand(2, 7)
"""The same tokens as one text a row."""
# of the first row the trunk's end, twice, and two places in branches; of the second one place
PREDICTED = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([2, 2, 3, 6, 1])


@pytest.fixture(scope="module", params=["gpt2", "llama", "gpt_neox", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("positions") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def port_at(model: LanguageModel, layer: int) -> Port:
    return Port(model, f"blocks.{layer}.hook_resid_pre")


def outputs(port: Port, branch: torch.Tensor, position: torch.Tensor, *, few: bool) -> list[torch.Tensor]:
    """Return clean and two spliced outputs where something is predicted."""
    found: dict[int, torch.Tensor] = {}
    finals = Finals(port, TOKENS, branch, position, PREDICTED, found.__setitem__, few=few)
    assert (finals.clean.final is None) == few
    where = branch != PADDING
    where[:, 0] = False
    for factor in (0.5, -1.0):
        finals.splice(finals.clean.target[where] * factor + 0.1, where)
    finals.finish()
    return [found[which] for which in range(3)]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("side_by_side", [False, True])
def test_a_few_positions_are_those_of_the_whole_forward(model: LanguageModel, layer: int, side_by_side: bool):
    port = port_at(model, layer)
    if side_by_side:
        with branched(port, BRANCH, POSITION):
            few, whole = (outputs(port, BRANCH, POSITION, few=f) for f in (True, False))
    else:
        few, whole = (outputs(port, *PLAIN, few=f) for f in (True, False))
    for found, wanted in zip(few, whole, strict=True):
        assert found.shape == (5, model.d_model)
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    for other in few[1:]:
        assert (few[0] - other).abs().max() > 1e-2, "the splice must change something"
    assert (few[1] - few[2]).abs().max() > 1e-2


def test_passes_do_not_wait_for_ever(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    port = port_at(model, 1)
    together = outputs(port, *PLAIN, few=True)
    monkeypatch.setattr("saebench.lm.positions._WAITING_BYTES", 0)
    told: list[int] = []
    finals = Finals(port, TOKENS, *PLAIN, PREDICTED, lambda which, _found: told.append(which), few=True)
    finals.splice(finals.clean.target[:, 1] * 0.5, PLAIN[1] == 1)
    assert told == [0, 1]
    for found, wanted in zip(outputs(port, *PLAIN, few=True), together, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


def test_the_last_mlp_sees_the_wanted_positions_alone(model: LanguageModel):
    port, seen = port_at(model, 1), []
    mlps = [next(child for name, child in block.named_children() if "mlp" in name) for block in model.stack.blocks]
    handles = [mlp.register_forward_pre_hook(lambda _m, args: seen.append(args[0].shape[1])) for mlp in mlps[1:]]
    counts = []
    for few in (True, False):
        seen.clear()
        outputs(port, *PLAIN, few=few)
        counts.append(list(seen))
    for handle in handles:
        handle.remove()
    assert counts == [[7, 7, 7, 3], [7] * 6], "block 1 thrice, then block 2 once, at three positions of a row at most"


def test_it_is_used_where_it_holds(model: LanguageModel):
    assert all(gives_few(port_at(model, layer), 40) for layer in LAYERS)
    assert gives_few(Port(model, "blocks.1.hook_resid_post"), model.n_ctx)
    assert not gives_few(Port(model, "blocks.2.hook_resid_post"), 5), "nothing runs behind the last block"
    assert not gives_few(Port(model, "blocks.1.hook_mlp_out"), 5), "the bridge has an attention of its own"


@pytest.mark.parametrize("fault", [lambda branch, at: torch.ones(1, 1, at.shape[1], branch.shape[1]).bool(), lambda *_: 1 / 0])
def test_a_model_that_gives_something_else_is_found_out(model: LanguageModel, monkeypatch: pytest.MonkeyPatch, fault):
    """Here by a mask that hides nothing, and one that ends in an error."""
    monkeypatch.setattr("saebench.lm.positions._sees", fault)
    assert not gives_few(port_at(model, 1), 9)


def test_nothing_is_left_behind(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    before, port = ALL_ATTENTION_FUNCTIONS["sdpa"], port_at(model, 1)
    whole = port.clean(TOKENS).final
    assert gives_few(port, 9)
    finals = Finals(port, TOKENS, *PLAIN, PREDICTED, lambda _which, _found: None, few=True)
    monkeypatch.setattr(model.stack.base, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finals.finish()
    monkeypatch.undo()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
    torch.testing.assert_close(port.clean(TOKENS).final, whole, atol=0, rtol=0)


def test_attention_that_is_not_torchs_own_is_left_whole(tmp_path):
    build("gemma2", str(tmp_path))  # its scores have a soft cap, which torch's attention has not
    port = port_at(load_model(str(tmp_path), device="cpu"), 1)
    assert not gives_few(port, 4) and not gives_few(port, 40)


def test_a_window_shorter_than_the_texts_is_left_whole(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model.config, "sliding_window", 8, raising=False)
    assert gives_few(port_at(model, 1), 8) and not gives_few(port_at(model, 1), 9)

"""Prefix, suffix and splice against full hooked forwards, for every family and site."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.lm.ablation import Ablation
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port

SITES = [
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "attn.hook_z",
    "mlp.hook_pre",
    "mlp.hook_post",
    "mlp.hook_in",
    "mlp.hook_out",
    "attn.hook_out",
]


def tokens_of(model: LanguageModel) -> Tensor:
    tokens = torch.randint(4, 90, (3, 17), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 1
    return tokens


def lacks(model: LanguageModel, site: str) -> bool:
    return model.family == "gpt_neox" and site == "hook_resid_mid"  # attention and MLP run in parallel


def full_hooked(model: LanguageModel, site: str, layer: int, tokens: Tensor, new: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return (acts, logits) of one plain forward through the whole bridge with one hook, built without Port."""
    seen: list[Tensor] = []

    def hook(act: Tensor, hook: object) -> Tensor | None:
        seen.append(act.flatten(2).clone())
        return None if new is None else new.reshape(act.shape)

    name = f"blocks.{layer}.{site}"
    if site == "hook_resid_mid" and new is not None:
        # TransformerLens' alias feeds the norm only; replacing the stream itself means replacing what attention adds to it
        pre = full_hooked(model, "hook_resid_pre", layer, tokens, None)[0]
        name, new = f"blocks.{layer}.hook_attn_out", new - pre
    logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[(name, hook)])
    return seen[0], logits


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("site", SITES)
@torch.inference_mode()
def test_clean_and_spliced_equal_the_full_hooked_forward(tiny: LanguageModel, site: str, layer: int) -> None:
    if lacks(tiny, site):
        pytest.skip("GPT-NeoX has no residual stream between attention and MLP")
    tokens = tokens_of(tiny)
    port = Port(tiny, f"blocks.{layer}.{site}")
    clean = port.clean(tokens)
    acts, logits = full_hooked(tiny, site, layer, tokens, None)
    torch.testing.assert_close(clean.acts, acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.head(clean.final), logits, rtol=1e-4, atol=1e-4)

    new = clean.acts * 0.5 + 0.3 * torch.randn(clean.acts.shape, generator=torch.Generator().manual_seed(2))
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, 0] = False
    where[1, 5:9] = False
    spliced = tiny.head(port.splice(clean, new, where))
    mixed = torch.where(where[..., None], new, acts)
    _, expected = full_hooked(tiny, site, layer, tokens, mixed)
    torch.testing.assert_close(spliced, expected, rtol=1e-4, atol=1e-4)
    assert (spliced - logits).abs().max() > 1e-3, "the splice must do something"


@pytest.mark.parametrize("site", SITES)
@torch.inference_mode()
def test_splicing_the_clean_acts_changes_nothing(tiny: LanguageModel, site: str) -> None:
    if lacks(tiny, site):
        pytest.skip("GPT-NeoX has no residual stream between attention and MLP")
    tokens = tokens_of(tiny)
    port = Port(tiny, f"blocks.1.{site}")
    clean = port.clean(tokens)
    same = port.splice(clean, clean.acts, torch.ones_like(tokens, dtype=torch.bool))
    torch.testing.assert_close(same, clean.final, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("site", SITES)
@torch.inference_mode()
def test_a_splice_leaves_no_trace(tiny: LanguageModel, site: str) -> None:
    """Acts are read clean: after any splice, and after one that fails half-way, a clean forward is what it was."""
    if lacks(tiny, site):
        pytest.skip("GPT-NeoX has no residual stream between attention and MLP")
    tokens = tokens_of(tiny)
    port = Port(tiny, f"blocks.1.{site}")
    before = port.clean(tokens)
    where = torch.ones_like(tokens, dtype=torch.bool)
    port.splice(before, before.acts * 3, where)
    with pytest.raises(RuntimeError):
        port.splice(before, torch.zeros(3, 17, 5), where)
    after = port.clean(tokens)
    assert torch.equal(before.acts, after.acts)
    assert torch.equal(before.final, after.final)
    assert torch.equal(tiny.hf(tokens).logits, tiny.hf(tokens).logits)
    assert not any("forward" in vars(block) for block in tiny.stack.blocks)


@torch.inference_mode()
def test_prefix_and_suffix_equal_the_plain_model(tiny: LanguageModel) -> None:
    tokens = tokens_of(tiny)
    whole = tiny.hf(tokens, output_hidden_states=True)
    for layer in range(tiny.n_layers + 1):
        hidden = tiny.stack.prefix(tokens, layer)
        if layer < tiny.n_layers:  # the last hidden state is reported behind the final norm
            assert torch.equal(hidden, whole.hidden_states[layer])
        torch.testing.assert_close(tiny.head(tiny.stack.suffix(tokens, hidden, layer)), whole.logits, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_later_blocks_do_not_run_in_the_prefix(tiny: LanguageModel) -> None:
    ran: list[int] = []
    handles = [b.register_forward_pre_hook(lambda *_a, i=i: ran.append(i)) for i, b in enumerate(tiny.stack.blocks)]
    tokens = tokens_of(tiny)
    try:
        hidden = tiny.stack.prefix(tokens, 2)
        assert ran == [0, 1]
    finally:
        for handle in handles:
            handle.remove()
    heavy: list[int] = []
    inner = [
        next(m for m in b.modules() if isinstance(m, torch.nn.Linear) or type(m).__name__ == "Conv1D") for b in tiny.stack.blocks
    ]
    handles = [m.register_forward_pre_hook(lambda *_a, i=i: heavy.append(i)) for i, m in enumerate(inner)]
    try:
        tiny.stack.suffix(tokens, hidden, 2)
        assert heavy == [2], "earlier blocks must not compute"
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def test_transcoder_port_reads_normalised_and_writes_mlp_out(tiny: LanguageModel) -> None:
    tokens = tokens_of(tiny)
    port = Port(tiny, "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")
    clean = port.clean(tokens)
    acts, logits = full_hooked(tiny, "ln2.hook_normalized", 1, tokens, None)
    target, _ = full_hooked(tiny, "hook_mlp_out", 1, tokens, None)
    torch.testing.assert_close(clean.acts, acts, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clean.target, target, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tiny.head(clean.final), logits, rtol=1e-4, atol=1e-4)
    where = torch.ones_like(tokens, dtype=torch.bool)
    _, expected = full_hooked(tiny, "hook_mlp_out", 1, tokens, target * 2)
    torch.testing.assert_close(tiny.head(port.splice(clean, target * 2, where)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", [0, 2])
@torch.inference_mode()
def test_module_sites_are_what_the_module_is_given_and_gives_back(tiny: LanguageModel, layer: int) -> None:
    """Against plain hooks on the Hugging Face modules, with no bridge in between: behind the norm's weight and bias."""
    tokens = tokens_of(tiny)
    block = tiny.stack.blocks[layer]
    attention = next(module for name, module in block.named_children() if name in ("attn", "attention", "self_attn"))
    seen: dict[str, Tensor] = {}

    def before(_module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen["mlp.hook_in"] = args[0] if args else kwargs["hidden_states"]

    def after(name: str) -> object:
        return lambda _module, _args, out: seen.update({name: out[0] if isinstance(out, tuple) else out})

    handles = [
        block.mlp.register_forward_pre_hook(before, with_kwargs=True),
        block.mlp.register_forward_hook(after("mlp.hook_out")),
        attention.register_forward_hook(after("attn.hook_out")),
    ]
    try:
        tiny.hf(tokens)
    finally:
        for handle in handles:
            handle.remove()
    for name, expected in seen.items():
        torch.testing.assert_close(Port(tiny, f"blocks.{layer}.{name}").clean(tokens).acts, expected, rtol=1e-5, atol=1e-5)
    transcoder = Port(tiny, f"blocks.{layer}.mlp.hook_in", f"blocks.{layer}.mlp.hook_out").clean(tokens)
    torch.testing.assert_close(transcoder.acts, seen["mlp.hook_in"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(transcoder.target, seen["mlp.hook_out"], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_clean_without_final_stops_behind_the_site(tiny: LanguageModel) -> None:
    tokens = tokens_of(tiny)
    for site in ("hook_resid_pre", "hook_mlp_out"):
        port = Port(tiny, f"blocks.1.{site}")
        short, whole = port.clean(tokens, final=False), port.clean(tokens)
        assert short.final is None
        assert torch.equal(short.acts, whole.acts)


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_post", "hook_mlp_out"])
@pytest.mark.parametrize("keep_first", [True, False])
@torch.inference_mode()
def test_shared_ablation_equals_ablating_every_context(tiny: LanguageModel, site: str, keep_first: bool) -> None:
    tokens = tokens_of(tiny)
    port = Port(tiny, f"blocks.1.{site}")
    value = torch.linspace(-1, 1, tiny.d_model)
    ablation = Ablation(port, value, tokens, keep_first=keep_first)
    assert ablation.shared == (site != "hook_mlp_out")
    clean = port.clean(tokens)
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, 0] = not keep_first
    wanted = torch.ones_like(tokens, dtype=torch.bool)
    wanted[:, -1] = False
    direct = port.splice(clean, value.expand_as(clean.target), where)
    got = ablation.logits(clean, where, wanted)(slice(None))
    torch.testing.assert_close(got, tiny.head(direct[wanted]), rtol=1e-5, atol=1e-5)
    if ablation.shared:
        logp = tiny.head(direct).double().log_softmax(-1)
        expected = -logp[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
        ce = torch.from_numpy(ablation.shared_ce(tiny.head, tokens, wanted)[:, :-1])
        torch.testing.assert_close(ce, expected, rtol=1e-5, atol=1e-5)


def test_ablation_is_not_shared_when_first_tokens_differ(tiny: LanguageModel) -> None:
    tokens = tokens_of(tiny)
    tokens[1, 0] = 7
    assert not Ablation(Port(tiny, "blocks.1.hook_resid_pre"), torch.zeros(24), tokens).shared
    assert Ablation(Port(tiny, "blocks.1.hook_resid_pre"), torch.zeros(24), tokens, keep_first=False).shared


def test_a_site_the_model_lacks_is_refused_with_near_ones(tiny: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"blocks are 0 to 2.*blocks\.2\.hook_resid_pre"):
        Port(tiny, "blocks.9.hook_resid_pre")
    with pytest.raises(InputError, match="hook_resid_pre"):
        Port(tiny, "blocks.1.hook_residpre")

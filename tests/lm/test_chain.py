"""Several sites in one forward: against full hooked forwards, for every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.lm.chain import Chain, depth
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import Site

EDGES = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")
INSIDE = ("blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out")
SETS = {"edges": EDGES, "inside": (*INSIDE, "blocks.1.hook_resid_post", "blocks.2.hook_attn_out")}


def tokens_of() -> Tensor:
    tokens = torch.randint(4, 90, (3, 17), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 1
    return tokens


def chain_of(model: LanguageModel, *sites: str) -> Chain:
    return Chain([Port(model, site) for site in sites])


def but_first(tokens: Tensor) -> Tensor:
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, 0] = False
    return where


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def hooked(model: LanguageModel, tokens: Tensor, spliced: str | None, new: Tensor | None, names: list[str]) -> list[Tensor]:
    """Return the acts at ``names`` and the logits of one forward of the whole bridge, with ``new`` at a site."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def look(act: Tensor, hook: object) -> None:
            seen[name] = act.flatten(2).clone()

        return look

    def put(act: Tensor, hook: object) -> Tensor:
        assert new is not None
        return new.reshape(act.shape)

    hooks = [(spliced, put)] if spliced is not None else []
    logits = model.bridge.run_with_hooks(tokens, fwd_hooks=[*hooks, *((name, keep(name)) for name in names)])
    return [*(seen[name] for name in names), logits]


@pytest.mark.parametrize("sites", SETS.values(), ids=SETS)
@torch.inference_mode()
def test_a_splice_is_seen_further_on_as_in_a_full_hooked_forward(tiny: LanguageModel, sites: tuple[str, ...]) -> None:
    tokens = tokens_of()
    chain = chain_of(tiny, *sites)
    clean = chain.clean(tokens)
    expected = hooked(tiny, tokens, None, None, list(sites))
    for one, acts in zip(clean, expected, strict=False):
        torch.testing.assert_close(one.acts, acts, rtol=1e-5, atol=1e-5)
        assert one.final is clean[0].final, "one clean forward for all"
    for i, site in enumerate(sites):
        noise = 0.3 * torch.randn(clean[i].acts.shape, generator=torch.Generator().manual_seed(2))
        mixed = torch.where(but_first(tokens)[..., None], clean[i].acts * 0.5 + noise, clean[i].acts)
        found = chain.splice(i, clean[i], clean[i].acts * 0.5 + noise, but_first(tokens))
        names = [sites[j] for j in chain.behind(i)]
        assert names == [name for name in sites[i + 1 :]]
        *acts, logits = hooked(tiny, tokens, site, mixed, names)
        for (read, written), wanted, name in zip(found.acts.values(), acts, names, strict=True):
            torch.testing.assert_close(read, wanted, rtol=1e-4, atol=1e-4)
            assert torch.equal(read, written)
            if tiny.family != "gpt_neox" or name[:9] != site[:9]:  # attention and MLP of a block may stand side by side
                assert (read - clean[sites.index(name)].acts).abs().max() > 1e-3, "the splice must do something"
        torch.testing.assert_close(tiny.head(found.final), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sites", SETS.values(), ids=SETS)
@torch.inference_mode()
def test_a_splice_of_the_clean_acts_gives_the_clean_forward_bit_for_bit(tiny: LanguageModel, sites: tuple[str, ...]) -> None:
    tokens = tokens_of()
    chain = chain_of(tiny, *sites)
    clean = chain.clean(tokens)
    for i in range(len(sites)):
        found = chain.splice(i, clean[i], clean[i].target.clone(), torch.ones_like(tokens, dtype=torch.bool))
        assert list(found.acts) == chain.behind(i)
        assert all(torch.equal(read, clean[j].acts) for j, (read, _) in found.acts.items())
        assert same(found.final, clean[i].final)


@torch.inference_mode()
def test_nothing_stays_behind_and_nothing_before_the_splice_is_computed(tiny: LanguageModel) -> None:
    tokens, chain = tokens_of(), chain_of(tiny, *EDGES)
    before = chain.clean(tokens)
    linear = [next(m for m in b.modules() if type(m).__name__ in ("Linear", "Conv1D")) for b in tiny.stack.blocks]
    ran: list[int] = []
    handles = [m.register_forward_pre_hook(lambda *_a, i=i: ran.append(i)) for i, m in enumerate(linear)]
    try:
        chain.splice(2, before[2], before[2].acts * 3, but_first(tokens))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [2]
    with pytest.raises(RuntimeError):
        chain.splice(0, before[0], torch.zeros(3, 17, 5), but_first(tokens))
    after = chain.clean(tokens)
    assert all(torch.equal(a.acts, b.acts) and same(a.final, b.final) for a, b in zip(before, after, strict=True))


def test_sites_lie_along_the_forward() -> None:
    names = [
        "blocks.1.hook_resid_pre", "blocks.1.ln1.hook_normalized", "blocks.1.attn.hook_z", "blocks.1.hook_attn_out",
        "blocks.1.hook_resid_mid", "blocks.1.ln2.hook_normalized", "blocks.1.mlp.hook_in", "blocks.1.mlp.hook_pre",
        "blocks.1.mlp.hook_post", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post", "blocks.2.ln1.hook_normalized",
    ]  # fmt: skip
    depths = [depth(Site.parse(name)) for name in names]
    assert depths == sorted(set(depths))
    for one, same in (
        ("blocks.1.hook_resid_post", "blocks.2.hook_resid_pre"),
        ("blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out"),
    ):
        assert depth(Site.parse(one)) == depth(Site.parse(same))


@torch.inference_mode()
def test_one_place_under_two_names_is_not_behind_itself_and_a_transcoder_is_read_and_written(tiny: LanguageModel) -> None:
    tokens = tokens_of()
    ports = [
        Port(tiny, "blocks.0.hook_resid_post"), Port(tiny, "blocks.1.hook_resid_pre"),
        Port(tiny, "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"), Port(tiny, "blocks.2.hook_resid_pre"),
    ]  # fmt: skip
    chain = Chain(ports)
    assert [chain.behind(i) for i in range(4)] == [[2, 3], [2, 3], [3], []]
    clean = chain.clean(tokens)
    alone = ports[2].clean(tokens)
    torch.testing.assert_close(clean[2].acts, alone.acts)
    torch.testing.assert_close(clean[2].target, alone.target)
    read, written = chain.splice(0, clean[0], clean[0].acts * 0.5, but_first(tokens)).acts[2]
    *expected, _ = hooked(
        tiny, tokens, "blocks.1.hook_resid_pre", torch.where(but_first(tokens)[..., None], clean[0].acts * 0.5, clean[0].acts),
        ["blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"],
    )  # fmt: skip
    torch.testing.assert_close(read, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(written, expected[1], rtol=1e-4, atol=1e-4)


def test_ports_of_two_models_are_refused(tiny: LanguageModel) -> None:
    other = LanguageModel(tiny.hf, tiny.tokenizer, id="other")
    with pytest.raises(InputError, match="one model"):
        Chain([Port(tiny, EDGES[0]), Port(other, EDGES[2])])

"""sparsify from files alone: activations against their equations, older configurations, sites by folder, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

K = 4
CFG = {
    "activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": K, "multi_topk": False,
    "skip_connection": False, "transcode": False, "d_in": D,
}  # fmt: skip
OLD = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": 0, "k": K, "signed": False, "d_in": D}


def state() -> dict[str, Tensor]:
    return {
        "encoder.weight": rand(S, D, seed=1), "encoder.bias": rand(S, seed=2), "W_dec": rand(S, D, seed=3),
        "b_dec": rand(D, seed=4),
    }  # fmt: skip


def folder_of(folder: Path, cfg: dict[str, Any], **more: Tensor | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: one for key, one in (state() | more).items() if one is not None}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def root(folder: Path, **settings: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"sae": {"k": K}, "hookpoints": []} | settings))
    return folder


def encoded(x: Tensor, *, shift: bool = True, signed: bool = False) -> Tensor:
    t = state()
    p = (x - t["b_dec"] if shift else x) @ t["encoder.weight"].T + t["encoder.bias"]
    p = p if signed else p.clamp(min=0)
    order = p.abs().argsort(1, descending=True)[:, :K]
    return torch.zeros_like(p).scatter(1, order, p.gather(1, order))


def decoded(f: Tensor) -> Tensor:
    return f @ state()["W_dec"] + state()["b_dec"]


@pytest.mark.parametrize("cfg", [CFG, OLD, OLD | {"num_latents": S}])
def test_topk_of_now_and_of_2024(tmp_path: Path, cfg: dict) -> None:
    sae, x = load_sae(folder_of(tmp_path / "layers.3", cfg)), acts()
    agrees(sae, x, encoded(x), decoded(encoded(x)))
    c = sae.config
    assert (c.d_in, c.d_out, c.d_sae, c.k, c.architecture, c.site) == (D, D, S, K, "topk", "blocks.3.hook_resid_post")
    told = inspect_sae(tmp_path / "layers.3", hash=False)
    assert (told["format"], told["d_sae"]) == ("sparsify", S)


def test_signed_latents_are_chosen_by_size(tmp_path: Path) -> None:
    sae, x = load_sae(folder_of(tmp_path / "layers.3", OLD | {"signed": True})), acts()
    f = encoded(x, signed=True)
    assert bool((f < 0).any())
    agrees(sae, x, f, decoded(f))
    with pytest.raises(InputError, match=r"cfg\.json.*signed"):
        inspect_sae(folder_of(tmp_path / "layers.4", CFG | {"signed": True, "activation": "groupmax"}))


def test_groupmax_keeps_the_largest_of_each_group(tmp_path: Path) -> None:
    sae, x, t = load_sae(folder_of(tmp_path / "layers.3", CFG | {"activation": "groupmax"})), acts(), state()
    p = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).clamp(min=0)
    f = torch.cat([group * (group == group.amax(1, keepdim=True)) for group in p.split(S // K, dim=1)], dim=1)
    agrees(sae, x, f, decoded(f))


@pytest.mark.parametrize("skip", [True, False])
def test_transcoders_take_nothing_off_their_input(tmp_path: Path, skip: bool) -> None:
    w = rand(D, D, seed=8)
    folder = folder_of(tmp_path / "layers.1.mlp", CFG | {"transcode": True, "skip_connection": skip}, W_skip=w if skip else None)
    sae, x = load_sae(folder), acts()
    f = encoded(x, shift=False)
    agrees(sae, x, f, decoded(f) + x @ w.T if skip else decoded(f))
    c = sae.config
    assert (c.site, c.site_out, c.architecture) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out", "transcoder")


def test_an_sae_may_have_a_skip_connection_too(tmp_path: Path) -> None:
    w, x = rand(D, D, seed=8), acts()
    sae = load_sae(folder_of(tmp_path / "layers.3", CFG | {"skip_connection": True}, W_skip=w))
    agrees(sae, x, encoded(x), decoded(encoded(x)) + x @ w.T)
    assert sae.config.site_out is None
    with pytest.raises(InputError, match=r"sae\.safetensors.*W_skip"):
        inspect_sae(folder_of(tmp_path / "layers.4", CFG | {"skip_connection": True}))
    with pytest.raises(InputError, match=r"sae\.safetensors.*skip_connection"):
        inspect_sae(folder_of(tmp_path / "layers.5", CFG, W_skip=w))


@pytest.mark.parametrize(
    ("name", "model", "site"),
    [
        ("layers.3", None, "blocks.3.hook_resid_post"),
        ("h.3", "gpt2", "blocks.3.hook_resid_post"),
        ("gpt_neox.layers.3", None, "blocks.3.hook_resid_post"),
        ("model.layers.3", None, "blocks.3.hook_resid_post"),
        ("layer_30", None, "blocks.30.hook_resid_post"),
        ("layers.3.mlp", "HuggingFaceTB/SmolLM2-135M", "blocks.3.hook_mlp_out"),
        ("h.3.attn", "gpt2", "blocks.3.hook_attn_out"),
        ("layers.3.self_attn", "meta-llama/Llama-3.2-1B", "blocks.3.hook_attn_out"),
        ("layers.3.attention", "EleutherAI/pythia-160m", "blocks.3.hook_attn_out"),
        ("layers.3.mlp", "google/gemma-2-2b", "blocks.3.mlp.hook_out"),
        ("layers.3.self_attn", "google/gemma-3-1b-pt", "blocks.3.attn.hook_out"),
        ("layers.3", "google/gemma-2-2b", "blocks.3.hook_resid_post"),
        ("layers.3.mlp", "google/gemma-2b", "blocks.3.hook_mlp_out"),
        ("embed_tokens", "meta-llama/Meta-Llama-3-8B", "blocks.0.hook_resid_pre"),
        ("embed_in", "EleutherAI/pythia-160m", "blocks.0.hook_resid_pre"),
        ("embed_tokens", "google/gemma-2-2b", None),
        ("embed_tokens", None, None),
        ("layers.3.block_sparse_moe", None, None),
        ("mine", None, None),
    ],
)
def test_sites_by_the_folder(tmp_path: Path, name: str, model: str | None, site: str | None) -> None:
    folder = folder_of(root(tmp_path, **({"model": model} if model else {}), ctx_len=64) / name, CFG)
    for path in (folder, folder / "sae.safetensors"):
        c = load_sae(path).config
        assert (c.site, c.model_id, c.context_length) == (site, model, 64)
        assert site is None or any(repr(name) in line for line in c.assumptions)


def test_several_seeds_and_the_best(tmp_path: Path) -> None:
    root(tmp_path, model="gpt2", ctx_len=64)
    for seed in (0, 1):
        folder_of(tmp_path / f"h.3.mlp/seed{seed}", CFG)
    found = [load_sae(one.path).config for one in find_all(tmp_path)]
    assert [(c.name, c.site, c.model_id, c.context_length) for c in found] == [
        (f"h.3.mlp-seed{seed}", "blocks.3.hook_mlp_out", "gpt2", 64) for seed in (0, 1)
    ]
    best = tmp_path / "best/h.3"
    folder_of(best / "h.3", CFG)
    c = load_sae(root(best, model="gpt2", ctx_len=32) / "h.3").config
    assert (c.site, c.context_length) == ("blocks.3.hook_resid_post", 32)


def test_settings_of_something_else_above_are_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "layers.3", CFG)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_ctx": 9}))
    assert load_sae(folder).config.context_length is None
    root(tmp_path, model={"name": "x"})
    assert load_sae(folder).config.model_id is None
    root(tmp_path, ctx_len="long")
    with pytest.raises(InputError, match=r"config\.json.*ctx_len"):
        inspect_sae(folder)


def test_transcoders_that_do_not_say_where_they_write(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", CFG | {"transcode": True})
    with pytest.raises(InputError, match=r"nothing says where it writes.*--set site_out"):
        load_sae(folder, site="blocks.1.mlp.hook_in")
    c = load_sae(folder, site="blocks.1.mlp.hook_in", given={"site_out": "blocks.1.mlp.hook_out"}).config
    assert (c.site, c.site_out) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    blocks = load_sae(folder_of(tmp_path / "layers.2", CFG | {"transcode": True})).config
    assert (blocks.site, blocks.site_out) == ("blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")


def test_transcoders_of_when_only_the_run_said_so(tmp_path: Path) -> None:
    cfg = {key: value for key, value in CFG.items() if key != "transcode"}
    sae, x = load_sae(folder_of(root(tmp_path, transcode=True) / "layers.1.mlp", cfg)), acts()
    agrees(sae, x, encoded(x), decoded(encoded(x)))  # as the library encodes with such a cfg.json
    assert (sae.config.site, sae.config.site_out) == ("blocks.1.mlp.hook_in", "blocks.1.mlp.hook_out")
    assert any("transcoder" in line for line in sae.config.warnings)


def test_a_missing_k_is_asked_for(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "layers.3", {key: value for key, value in CFG.items() if key != "k"})
    with pytest.raises(InputError, match=r"cfg\.json.*--set k="):
        inspect_sae(folder)
    x = acts()
    agrees(load_sae(folder, given={"k": str(K)}), x, encoded(x), decoded(encoded(x)))


VARIANT = CFG | {"dtype": "bfloat16", "n_sources": 0, "n_targets": 0, "normalize_io": False, "coalesce_topk": "none"}


def test_a_variant_that_is_the_same_is_read_and_others_are_refused(tmp_path: Path) -> None:
    x = acts()
    agrees(load_sae(folder_of(tmp_path / "layers.3", VARIANT)), x, encoded(x), decoded(encoded(x)))
    changes = ({"n_targets": 4}, {"coalesce_topk": "concat"}, {"normalize_io": True})
    for changed in changes:
        with pytest.raises(InputError, match=r"cfg\.json.*not supported"):
            inspect_sae(folder_of(tmp_path / "layers.4", VARIANT | changed))
    for key in ("W_decs.0", "post_encs.0.weight", "encoder._weight.weight", "in_norm"):
        with pytest.raises(InputError, match=r"sae\.safetensors.*not supported"):
            inspect_sae(folder_of(tmp_path / "layers.5", CFG, **{key: torch.zeros(2, 2)}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"W_dec": None}, "W_dec"),
        ({"W_dec": rand(D, S)}, "W_dec"),
        ({"b_dec": rand(S)}, "b_dec"),
        ({"encoder.bias": None}, "encoder.bias"),
        ({"encoder.weight": rand(S)}, "encoder.weight"),
    ],
)
def test_headers_tell_what_is_wrong(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(InputError) as caught:
        inspect_sae(folder_of(tmp_path / "layers.3", CFG, **changed), hash=False)
    assert said in str(caught.value)
    assert "sae.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "said"), [({"activation": "softmax"}, "softmax"), ({"d_in": 13}, "13"), ({"num_latents": 41}, "41")]
)
def test_settings_that_contradict_the_weights(tmp_path: Path, changed: dict, said: str) -> None:
    with pytest.raises(InputError, match=rf"cfg\.json.*{said}"):
        inspect_sae(folder_of(tmp_path / "layers.3", CFG | changed))

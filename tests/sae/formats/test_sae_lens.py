"""sae_lens from files alone: every architecture against its equation, early configurations, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import OUT, D, S, acts, agrees, rand
from tests.sae.formats.sae_lens_cases import (
    LEGACY,
    META,
    cfg_of,
    decoded,
    encoded,
    folder_of,
    jump,
    pursue,
    standard,
    tensors,
    topk,
)

LATENTS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "standard": ({}, lambda p: p.clamp(min=0)),
    "topk": ({"k": 4, "rescale_acts_by_decoder_norm": False}, lambda p: topk(p, 4)),
    "abstopk": ({"k": 4}, lambda p: topk(p, 4, signed=True)),
}


@pytest.mark.parametrize("architecture", LATENTS)
@pytest.mark.parametrize("shift", [True, False])
def test_four_tensors(tmp_path: Path, architecture: str, shift: bool) -> None:
    more, activate = LATENTS[architecture]
    t, x = standard(), acts()
    sae = load_sae(folder_of(tmp_path / "a", cfg_of(architecture, **more | {"apply_b_dec_to_input": shift}), t))
    f = activate(encoded(t, x, float(shift)))
    agrees(sae, x, f, decoded(t, f))
    c = sae.config
    assert (c.d_in, c.d_sae, c.k, c.architecture) == (D, S, more.get("k"), architecture)
    assert (c.site, c.model_id, c.context_length, c.prepend_bos) == ("blocks.1.hook_resid_pre", "gpt2", 128, True)
    assert (c.residual, c.warnings) == ("raw", ())


@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
def test_latents_are_chosen_and_kept_at_the_scale_of_the_decoder(tmp_path: Path, architecture: str) -> None:
    t, x = standard(), acts()
    t["W_dec"][3] = 0  # a latent whose row has no length reconstructs nothing
    sae = load_sae(folder_of(tmp_path / "a", cfg_of(architecture, k=4, rescale_acts_by_decoder_norm=True), t))
    norms = t["W_dec"].norm(dim=1)
    f = topk(encoded(t, x) * norms, 4, signed=architecture == "abstopk")
    agrees(sae, x, f, decoded(t, f / norms.clamp(min=1e-20)))


@pytest.mark.parametrize("kind", ["layer_norm", "constant_norm_rescale"])
def test_what_is_done_to_each_token_is_undone(tmp_path: Path, kind: str) -> None:
    t, x = standard(), acts()
    sae = load_sae(folder_of(tmp_path / "a", cfg_of("standard", normalize_activations=kind), t))
    if kind == "layer_norm":
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        f = encoded(t, (x - mean) / (deviation + 1e-5)).clamp(min=0)
        agrees(sae, x, f, decoded(t, f) * deviation + mean)
    else:
        c = D**0.5 / x.norm(dim=1, keepdim=True)
        f = encoded(t, x * c).clamp(min=0)
        agrees(sae, x, f, decoded(t, f) / c)


def test_gated(tmp_path: Path) -> None:
    t, x = tensors("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"), acts()
    m = (x - t["b_dec"]) @ t["W_enc"]
    f = (m + t["b_gate"] > 0) * (m * t["r_mag"].exp() + t["b_mag"]).clamp(min=0)
    agrees(load_sae(folder_of(tmp_path / "a", cfg_of("gated"), t)), x, f, decoded(t, f))
    scale = tensors("scaling_factor")  # of the time of flat configurations
    sae = load_sae(folder_of(tmp_path / "b", LEGACY | {"architecture": "gated"}, t | scale))
    agrees(sae, x, f, decoded(t, f * scale["scaling_factor"]))
    whole = {name: (3 * one).round() for name, one in t.items()} | {"r_mag": torch.zeros(S), "b_mag": torch.full((S,), 99.0)}
    m = (x.round() - whole["b_dec"]) @ whole["W_enc"]
    sae = load_sae(folder_of(tmp_path / "c", cfg_of("gated"), whole | {"b_gate": -m[0]}))
    found = sae.encode(x.round()).to_dense()
    assert not found[0].any(), "where the gate is exactly 0 a latent is off"
    assert torch.equal(found, (m - m[0] > 0) * (m + 99).clamp(min=0))


def test_jumprelu_is_strict_and_old_thresholds_are_logarithms(tmp_path: Path) -> None:
    t, x = standard() | tensors("threshold"), acts()
    f = jump(encoded(t, x), t["threshold"])
    agrees(load_sae(folder_of(tmp_path / "a", cfg_of("jumprelu"), t)), x, f, decoded(t, f))
    old = standard() | {"log_threshold": t["threshold"].log()}
    agrees(load_sae(folder_of(tmp_path / "b", cfg_of("jumprelu"), old)), x, f, decoded(t, f))
    whole = {name: (3 * one).round() for name, one in standard().items()}  # exact in any order
    p = encoded(whole, x.round())
    sae = load_sae(folder_of(tmp_path / "c", cfg_of("jumprelu"), whole | {"threshold": p[0]}))
    found = sae.encode(x.round()).to_dense()
    assert not found[0].any(), "exactly at its threshold a latent is off"
    assert torch.equal(found, jump(p, p[0]))


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_transcoders(tmp_path: Path, kind: str) -> None:
    names = (("threshold",) if "jumprelu" in kind else ()) + (("W_skip",) if "skip" in kind else ())
    t, x = standard(OUT) | tensors(*names, out=OUT), acts()
    sae = load_sae(folder_of(tmp_path / "a", cfg_of(kind, d_out=OUT), t))
    f = jump(x @ t["W_enc"] + t["b_enc"], t.get("threshold", 0))
    recon = f @ t["W_dec"] + t["b_dec"]
    agrees(sae, x, f, recon + x @ t["W_skip"].T if "skip" in kind else recon)
    c = sae.config
    assert (c.d_in, c.d_out, c.site, c.site_out) == (D, OUT, "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out")
    with pytest.raises(InputError, match="apply_b_dec_to_input"):
        load_sae(folder_of(tmp_path / "b", cfg_of(kind, d_out=OUT, apply_b_dec_to_input=True), t))
    normalised = folder_of(tmp_path / "c", cfg_of(kind, d_out=OUT, normalize_activations="layer_norm"), t)
    if "skip" in kind:  # the library's skip connection reads what came before
        with pytest.raises(InputError, match="layer_norm"):
            load_sae(normalised)
    else:  # and the recon is of another space, so nothing is undone
        inner = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        f = jump(inner @ t["W_enc"] + t["b_enc"], t.get("threshold", 0))
        agrees(load_sae(normalised), x, f, f @ t["W_dec"] + t["b_dec"])


def test_a_transcoder_that_does_not_say_where_it_writes(tmp_path: Path) -> None:
    cfg = cfg_of("transcoder", metadata=META)
    folder = folder_of(tmp_path / "a", cfg, standard())
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=r"nothing says where it writes.*--set site_out"):
            look(folder)
    c = load_sae(folder, given={"site_out": "blocks.1.hook_mlp_out"}).config
    assert c.site_out == "blocks.1.hook_mlp_out"
    assert not c.warnings
    with pytest.raises(InputError, match="hook_mlp_out"):
        load_sae(folder, given={"site_out": "blocks.1.hook_mlp_ot"})


@pytest.mark.parametrize(
    ("own", "threshold", "steps", "stop"),
    [
        ({}, 1e-2, D, True),
        ({"residual_threshold": 2.5}, 2.5, D, True),
        ({"residual_threshold": 0.0, "max_iterations": 5}, 0.0, 5, True),
        ({"residual_threshold": 0.5, "max_iterations": 20, "stop_on_duplicate_support": False}, 0.5, 20, False),
    ],
)
@pytest.mark.parametrize("shift", [True, False])
def test_matching_pursuit(tmp_path: Path, own: dict, threshold: float, steps: int, stop: bool, shift: bool) -> None:
    t, x = tensors("W_dec", "b_dec"), acts(24)
    t["W_dec"] /= t["W_dec"].norm(dim=1, keepdim=True)
    sae = load_sae(folder_of(tmp_path / "a", cfg_of("matching_pursuit", **own, apply_b_dec_to_input=shift), t))
    b = t["b_dec"] if shift else torch.zeros(D)
    f = pursue(x - b, t["W_dec"], threshold, steps, stop)
    agrees(sae, x, f, f @ t["W_dec"] + b)
    assert int(sae.encode(x).l0().max()) <= steps
    told = json.loads(json.dumps(inspect_sae(tmp_path / "a")))
    assert told["pursuit"] == {"residual_threshold": threshold, "max_iterations": steps, "stop_on_repeat": stop}


def test_matching_pursuit_settings_that_are_refused(tmp_path: Path) -> None:
    t = tensors("W_dec", "b_dec")
    for own in ({"max_iterations": 0}, {"residual_threshold": "small"}, {"stop_on_duplicate_support": 1}):
        with pytest.raises(InputError, match=next(iter(own)).split("_")[0]):
            load_sae(folder_of(tmp_path / "a", cfg_of("matching_pursuit", **own), t))


@pytest.mark.parametrize("architecture", ["temporal", "frobnicated"])
def test_architectures_that_are_refused_by_name(tmp_path: Path, architecture: str) -> None:
    folder = folder_of(tmp_path / "a", cfg_of(architecture), standard())
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=architecture):
            look(folder)


def test_early_configurations(tmp_path: Path) -> None:
    """The layout of the well-known GPT-2 SAEs: flat, hook_point, no word on centring."""
    t, x = standard(), acts()
    sae = load_sae(folder_of(tmp_path / "a", LEGACY, t))
    c = sae.config
    assert (c.site, c.model_id, c.context_length) == ("blocks.8.hook_resid_pre", "gpt2-small", 128)
    assert (c.residual, c.prepend_bos) == ("centred", True)
    assert any("centred" in line and "hook_point" in line for line in c.assumptions)
    assert any("prepend_bos" in line for line in c.assumptions)
    f = encoded(t, x).clamp(min=0)
    agrees(sae, x, f, decoded(t, f))


def test_centring_is_read_where_it_is_said(tmp_path: Path) -> None:
    raw = LEGACY | {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
    assert load_sae(folder_of(tmp_path / "a", raw, standard())).config.residual == "raw"
    centred = cfg_of("standard", metadata=META | {"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    assert load_sae(folder_of(tmp_path / "b", centred, standard())).config.residual == "centred"
    bare = {"d_in": D, "d_sae": S, "metadata": {"hook_name": "blocks.0.hook_resid_pre"}}
    assert load_sae(folder_of(tmp_path / "d", bare, standard())).config.residual == "raw"
    later = {key: value for key, value in LEGACY.items() if not key.startswith("hook_point")} | {
        "hook_name": "blocks.8.hook_resid_pre"
    }
    c = load_sae(folder_of(tmp_path / "c", later, standard())).config
    assert c.residual == "raw"
    assert any("taken as raw" in line and "--residual centred" in line for line in c.assumptions)
    inner = load_sae(folder_of(tmp_path / "e", later | {"hook_name": "blocks.8.mlp.hook_post"}, standard())).config
    assert not any("residual stream" in line for line in inner.assumptions), "it does not matter there"
    nowhere = load_sae(folder_of(tmp_path / "f", {key: one for key, one in later.items() if key != "hook_name"}, standard()))
    assert nowhere.config.site is None and any("taken as raw" in line for line in nowhere.config.assumptions)
    for folder in ("a", "b", "d"):
        assert not any("taken as raw" in line for line in load_sae(tmp_path / folder).config.assumptions)


def test_value_biases_that_hook_z_lacked(tmp_path: Path) -> None:
    meta = META | {"hook_name": "blocks.1.attn.hook_z", "model_from_pretrained_kwargs": {"fold_value_biases": True}}
    cfg = cfg_of("standard", metadata=meta, reshape_activations="hook_z")
    t, x = standard(), acts()
    sae = load_sae(folder_of(tmp_path / "a", cfg, t))
    assert any("value biases" in line for line in sae.config.warnings)
    f = encoded(t, x).clamp(min=0)  # heads lie side by side
    agrees(sae, x, f, decoded(t, f))
    early = LEGACY | {"hook_point": "blocks.1.attn.hook_z"}
    assert any("value biases" in line for line in load_sae(folder_of(tmp_path / "b", early, t)).config.warnings)
    flat = {key: value for key, value in LEGACY.items() if not key.startswith("hook_point")} | {"hook_name": meta["hook_name"]}
    assert any("may have been" in line for line in load_sae(folder_of(tmp_path / "d", flat, t)).config.warnings)
    told = flat | {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
    assert not load_sae(folder_of(tmp_path / "e", told, t)).config.warnings
    with pytest.raises(InputError, match="reshape_activations"):
        load_sae(folder_of(tmp_path / "c", cfg | {"reshape_activations": "conv"}, t))


def test_early_topk_and_activation_functions(tmp_path: Path) -> None:
    t, x = standard(), acts()
    cfg = LEGACY | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 4}, "normalize_activations": False}
    f = topk(encoded(t, x), 4)
    agrees(load_sae(folder_of(tmp_path / "a", cfg, t)), x, f, decoded(t, f))
    unused = LEGACY | {"activation_fn": "relu", "activation_fn_kwargs": {"k": 4}, "normalize_activations": True}
    sae = load_sae(folder_of(tmp_path / "b", unused, t), given={"norm_scale": "0.5"})
    f = encoded(t, x * 0.5).clamp(min=0)
    agrees(sae, x, f, decoded(t, f) / 0.5)
    with pytest.raises(InputError, match="tanh-relu"):
        load_sae(folder_of(tmp_path / "c", LEGACY | {"activation_fn": "tanh-relu"}, t))


def test_a_missing_k_is_asked_for(tmp_path: Path) -> None:
    t, x = standard(), acts()
    for at, cfg in enumerate((cfg_of("topk"), LEGACY | {"activation_fn": "topk"})):
        folder = folder_of(tmp_path / str(at), cfg, t)
        with pytest.raises(InputError, match=r"cfg\.json.*--set k="):
            inspect_sae(folder)
        f = topk(encoded(t, x), 3)
        agrees(load_sae(folder, given={"k": "3"}), x, f, decoded(t, f))


def test_scaling_factors(tmp_path: Path) -> None:
    t, x, scale = standard(), acts(), tensors("scaling_factor")
    f = encoded(t, x).clamp(min=0)
    sae = load_sae(folder_of(tmp_path / "a", LEGACY | {"finetuning_scaling_factor": True}, t | scale))
    agrees(sae, x, f, decoded(t, f * scale["scaling_factor"]))
    assert any("scaling_factor" in line for line in sae.config.assumptions)
    unused = load_sae(folder_of(tmp_path / "b", LEGACY | {"finetuning_scaling_factor": False}, t | scale))
    agrees(unused, x, f, decoded(t, f))
    assert any("left it out" in line for line in unused.config.warnings)
    ones = load_sae(folder_of(tmp_path / "c", LEGACY, t | {"scaling_factor": torch.ones(S)}))
    agrees(ones, x, f, decoded(t, f))
    assert not ones.config.warnings


@pytest.mark.parametrize(
    "cfg", [LEGACY | {"hook_point_head_index": 3}, cfg_of("standard", metadata=META | {"hook_head_index": 3})]
)
def test_single_heads_are_refused(tmp_path: Path, cfg: dict) -> None:
    with pytest.raises(InputError, match="single head 3"):
        load_sae(folder_of(tmp_path / "a", cfg, standard()))


@pytest.mark.parametrize(
    ("module", "model", "site"),
    [
        ("model.layers.3", "meta-llama/Llama-3.2-1B", "blocks.3.hook_resid_post"),
        ("transformer.h.3.mlp", "gpt2", "blocks.3.hook_mlp_out"),
        ("model.layers.3.mlp", "google/gemma-2-2b", "blocks.3.mlp.hook_out"),
        ("model.norm", "gpt2", None),
    ],
)
def test_modules_of_other_models(tmp_path: Path, module: str, model: str, site: str | None) -> None:
    meta = META | {"hook_name": module, "model_name": model, "model_class_name": "AutoModelForCausalLM"}
    c = load_sae(folder_of(tmp_path / "a", cfg_of("standard", metadata=meta), standard())).config
    assert (c.site, c.residual) == (site, "raw")
    assert any(module in line for line in (c.assumptions if site else c.warnings))


@pytest.mark.parametrize(
    ("architecture", "changed", "said"),
    [
        ("standard", {"W_enc": None}, "W_enc"),
        ("standard", {"b_dec": rand(S)}, "b_dec"),
        ("standard", {"b_enc": rand(1, S)}, "b_enc"),
        ("standard", {"W_dec": rand(D, S)}, "W_dec"),
        ("jumprelu", {}, "threshold"),
        ("batchtopk", {"topk_threshold": rand(S)}, "topk_threshold"),
        ("gated", {}, "b_gate"),
        ("skip_transcoder", {"W_skip": rand(D, OUT)}, "W_skip"),
        ("standard", {"scaling_factor": rand(3)}, "scaling_factor"),
    ],
)
def test_headers_tell_what_is_wrong(tmp_path: Path, architecture: str, changed: dict, said: str) -> None:
    weights = standard(OUT if "transcoder" in architecture else D) | changed
    folder = folder_of(tmp_path / "a", cfg_of(architecture), {key: one for key, one in weights.items() if one is not None})
    with pytest.raises(InputError) as caught:
        inspect_sae(folder, hash=False)
    assert said in str(caught.value)
    assert "sae_weights.safetensors" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("d_in", S), ("d_sae", D), ("d_in", 12.5)])
def test_settings_that_contradict_the_weights(tmp_path: Path, key: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"cfg\.json.*{key}"):
        inspect_sae(folder_of(tmp_path / "a", cfg_of("standard", **{key: value}), standard()), hash=False)
    silent = {name: one for name, one in cfg_of("standard").items() if name != key}
    assert load_sae(folder_of(tmp_path / "b", silent, standard())).config.d_sae == S

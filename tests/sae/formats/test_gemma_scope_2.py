"""Gemma Scope 2: equation with and without the affine skip, modules to hook names, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import OUT, D, S, acts, agrees, rand

REPO = "gemma-scope-2-4b-it"
SAE = {
    "hf_hook_point_in": "model.layers.17.output", "hf_hook_point_out": "model.layers.17.output", "width": S,
    "model_name": "google/gemma-3-4b-it", "architecture": "jump_relu", "l0": 60, "affine_connection": False, "type": "sae",
}  # fmt: skip
TRANSCODER = SAE | {
    "hf_hook_point_in": "model.layers.17.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.17.post_feedforward_layernorm.output", "type": "transcoder",
}  # fmt: skip


def params(d_out: int = D, *, skip: bool = False) -> dict[str, Tensor]:
    t = {
        "w_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "w_dec": rand(S, d_out, seed=3), "b_dec": rand(d_out, seed=4),
        "threshold": rand(S, seed=5).abs() + 0.3,
    }  # fmt: skip
    return t | ({"affine_skip_connection": rand(D, d_out, seed=6)} if skip else {})


def written(folder: Path, tensors: dict[str, Tensor] | None, cfg: dict | None, name: str = "params.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if tensors is not None:
        save_file(tensors, folder / name)
    if cfg is not None:
        (folder / "config.json").write_text(json.dumps(cfg))
    return folder


def equation(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    pre = x @ t["w_enc"] + t["b_enc"]
    latents = torch.where(pre > t["threshold"], pre, torch.zeros(())).relu()
    recon = latents @ t["w_dec"] + t["b_dec"]
    return latents, recon + x @ t["affine_skip_connection"] if "affine_skip_connection" in t else recon


def test_equation_of_an_sae(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / REPO / "resid_post_all/layer_17_width_16k_l0_medium", params(), SAE))
    agrees(sae, acts(), *equation(params(), acts()))
    c = sae.config
    assert (c.format, c.architecture, c.site, c.site_out) == ("gemma_scope_2", "jumprelu", "blocks.17.hook_resid_post", None)
    assert (c.model_id, c.context_length, c.prepend_bos) == ("google/gemma-3-4b-it", 1024, True)


@pytest.mark.parametrize("d_out", [D, OUT])
@pytest.mark.parametrize("skip", [False, True])
def test_equation_of_a_transcoder(tmp_path: Path, d_out: int, skip: bool) -> None:
    """The skip is stored [D, O] and used as it is: x @ A. It reads what the MLP is given, behind the norm's gain."""
    t = params(d_out, skip=skip)
    sae = load_sae(written(tmp_path / "transcoder/layer_17_width_16k_l0_big", t, TRANSCODER | {"affine_connection": skip}))
    agrees(sae, acts(), *equation(t, acts()))
    c = sae.config
    assert (c.site, c.site_out) == ("blocks.17.mlp.hook_in", "blocks.17.hook_mlp_out")
    assert c.architecture == ("jumprelu_skip_transcoder" if skip else "jumprelu_transcoder")
    assert sae.is_transcoder
    assert any("gain" in line for line in c.assumptions)


@pytest.mark.parametrize(
    ("module", "folder", "site"),
    [
        ("model.layers.3.output", "resid_post", "blocks.3.hook_resid_post"),
        ("model.layers.3.self_attn.o_proj.input", "attn_out", "blocks.3.attn.hook_z"),
        ("model.layers.3.post_feedforward_layernorm.output", "mlp_out_all", "blocks.3.hook_mlp_out"),
    ],
)
def test_sites_by_settings_and_by_names(tmp_path: Path, module: str, folder: str, site: str) -> None:
    told = {"hf_hook_point_in": module, "hf_hook_point_out": module}
    about = inspect_sae(written(tmp_path / "any", params(), SAE | told))
    assert (about["site"], about["site_out"]) == (site, None)
    unsaid = written(tmp_path / f"models--google--{REPO}/snapshots/0af/{folder}/layer_3_width_16k_l0_small", params(), None)
    about = inspect_sae(unsaid)
    assert (about["site"], about["site_out"], about["model_id"]) == (site, None, "google/gemma-3-4b-it")
    assert folder in str(about["assumptions"]) and REPO in str(about["assumptions"])


def test_a_transcoder_by_its_folders(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "transcoder_all/layer_5_width_16k_l0_big_affine", params(skip=True), None))
    assert (sae.config.site, sae.config.site_out) == ("blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")
    assert sae.config.architecture == "jumprelu_skip_transcoder"


@pytest.mark.parametrize(
    ("name", "repo", "model"),
    [
        ("gemma-v3-1b-pt", None, "google/gemma-3-1b-pt"),
        ("google/gemma-3-270m-pt", None, "google/gemma-3-270m"),
        (None, "gemma-scope-2-270m-it", "google/gemma-3-270m-it"),
        (None, "gemma-scope-2-270m-pt", "google/gemma-3-270m"),
        (None, "gemma-scope-2-27b-pt", "google/gemma-3-27b-pt"),
        (None, "downloads", None),
    ],
)
def test_models(tmp_path: Path, name: str | None, repo: str | None, model: str | None) -> None:
    cfg = {key: value for key, value in (SAE | {"model_name": name}).items() if value is not None}
    assert load_sae(written(tmp_path / (repo or "x") / "resid_post/layer_17", params(), cfg)).config.model_id == model


def test_what_nothing_says_is_asked_for(tmp_path: Path) -> None:
    """Of an SAE the site alone; of a transcoder where it writes, for without that it would pass for an SAE."""
    square = load_sae(written(tmp_path / "a", params(), None))
    assert (square.config.site, square.is_transcoder) == (None, False)
    assert any("taken as an SAE, not as a transcoder" in line and "site_out" in line for line in square.config.assumptions)
    told = load_sae(tmp_path / "a", given={"site_out": "blocks.2.hook_mlp_out"}, site="blocks.2.mlp.hook_in")
    assert told.is_transcoder and not told.config.warnings
    named = load_sae(written(tmp_path / "e", params(), SAE))
    assert not any("not as a transcoder" in line for line in named.config.assumptions)
    for name, t in (("b", params(skip=True)), ("c", params(OUT))):
        with pytest.raises(InputError, match="--set site_out="):
            load_sae(written(tmp_path / name, t, None))
        told = {"site_out": "blocks.2.hook_mlp_out"}
        sae = load_sae(tmp_path / name, given=told, site="blocks.2.mlp.hook_in")
        assert (sae.config.site, sae.config.site_out) == ("blocks.2.mlp.hook_in", "blocks.2.hook_mlp_out")
    with pytest.raises(InputError, match="--set site_out="):
        load_sae(written(tmp_path / "d", params(), {"type": "transcoder"}))


def test_an_unknown_module_is_warned_of(tmp_path: Path) -> None:
    told = {"hf_hook_point_in": "model.layers.1.mlp.gate_proj.output", "hf_hook_point_out": "model.layers.1.mlp.gate_proj.output"}
    sae = load_sae(written(tmp_path / "a", params(), SAE | told))
    assert sae.config.site is None
    assert any("gate_proj" in line and "--site" in line for line in sae.config.warnings)


CLT = SAE | {
    "hf_hook_point_in": "model.layers.{all}.pre_feedforward_layernorm.output",
    "hf_hook_point_out": "model.layers.{all}.post_feedforward_layernorm.output", "type": "clt",
}  # fmt: skip


@pytest.mark.parametrize("cfg", [None, CLT, CLT | {"type": "crosscoder"}], ids=["no settings", "clt", "crosscoder"])
def test_files_of_several_layers_are_refused_with_the_reason(tmp_path: Path, cfg: dict | None) -> None:
    """One file a layer, w_dec [S, layers, D]; and stacks of all layers, w_enc [layers, D, S]."""
    t = params() | {"w_dec": rand(S, 3, D)}
    kind = "crosscoder" if cfg and cfg["type"] == "crosscoder" else "cross-layer transcoder"
    folder = tmp_path / "clt/width_262k_l0_big"
    for i in range(3):
        written(folder, t, cfg, f"params_layer_{i}.safetensors")
    for path in (folder, folder / "params_layer_1.safetensors"):
        with pytest.raises(InputError, match=rf"{kind} \(w_dec is \[40, 3, 12\]\).*several layers at once"):
            load_sae(path)
    assert "several layers" in str(list_saes(tmp_path)[0]["refused"])
    stacked = written(tmp_path / "stacked", t | {"w_enc": rand(3, D, S), "w_dec": rand(3, S, 3, D)}, cfg)
    with pytest.raises(InputError, match=r"w_dec is \[3, 40, 3, 12\]"):
        load_sae(stacked)


def test_a_folder_called_clt_is_no_reason(tmp_path: Path) -> None:
    assert load_sae(written(tmp_path / "clt/resid_post/layer_1", params(), SAE)).config.d_sae == S


@pytest.mark.parametrize(
    ("tensors", "cfg", "said"),
    [
        ({"threshold": None}, {}, "lacks the tensor 'threshold'"),
        ({"w_dec": None}, {}, "lacks the tensor"),
        ({"b_dec": rand(D + 1)}, {}, "'b_dec' has 13 entries"),
        ({"w_dec": rand(S + 1, D)}, {}, "the decoder takes 41"),
        ({"affine_skip_connection": rand(D, D + 1)}, {"affine_connection": True}, r"expected \[12, 12\]"),
        ({}, {"width": S + 1}, "width is 41"),
        ({}, {"width": "wide"}, "'width' should be a whole number"),
        ({}, {"architecture": "topk"}, "'topk'"),
        ({}, {"affine_connection": True}, "have no affine_skip_connection"),
        ({"affine_skip_connection": rand(D, D)}, {}, "have an affine_skip_connection"),
        ({}, {"hf_hook_point_in": 5}, "'hf_hook_point_in' should be text"),
    ],
)
def test_damage_and_contradictions(tmp_path: Path, tensors: dict, cfg: dict, said: str) -> None:
    kept = {key: one for key, one in (params() | tensors).items() if one is not None}
    with pytest.raises(InputError, match=said) as caught:
        load_sae(written(tmp_path / "a", kept, SAE | cfg))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_cut_file_is_named_and_other_files_are_left_alone(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", params(), SAE)
    whole = (folder / "params.safetensors").read_bytes()
    (folder / "params.safetensors").write_bytes(whole[:-5])
    with pytest.raises(InputError, match=r"params\.safetensors is not a whole"):
        load_sae(folder)
    native = {"W_enc": rand(D, S), "W_dec": rand(S, D)}
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(written(tmp_path / "b", native, None))
    with pytest.raises(InputError, match=r"has no params\.safetensors"):
        load_sae(tmp_path / "b", format="gemma_scope_2")


def test_examples_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", params(), SAE)
    save_file({"tokens": torch.zeros(3, dtype=torch.int64)}, folder / "examples.safetensors")
    agrees(load_sae(folder), acts(), *equation(params(), acts()))

"""Versions 2 and 3 of OpenMOSS' SAEs: scaled latents, the gate at p · dn, which version is which, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import locate
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees, rand
from tests.sae.formats.moss import ACROSS, OUT_SITE, SITE, STREAM, V2, linear, stored, write

NORM = "dataset_average_activation_norm."
LOG = {2: "log_jumprelu_threshold", 3: "activation_function.log_jumprelu_threshold"}
WEIGHTS = "sae_weights.safetensors"
LOG_THRESHOLD = rand(S, seed=8) * 0.3


def norms(site: str = STREAM, site_out: str | None = None) -> dict[str, Tensor]:
    return {f"{NORM}{site}": torch.tensor(5.5), f"{NORM}{site_out or site}": torch.tensor(5.5 if site_out is None else 0.8)}


def written(
    folder: Path, version: int, tensors: dict[str, Tensor] | None = None, *, extra: dict[str, Tensor] | None = None,
    where: str = WEIGHTS, **settings: Any,
) -> Path:  # fmt: skip
    cfg = V2 | settings
    told = norms(cfg["hook_point_in"], None if cfg["hook_point_out"] == cfg["hook_point_in"] else cfg["hook_point_out"])
    more = (told | {LOG[version]: LOG_THRESHOLD} if cfg["act_fn"] == "jumprelu" else told) if extra is None else extra
    weights = stored() if tensors is None else tensors
    return write(folder, cfg, (linear(weights) if version == 2 else weights) | more, where)


def library(
    t: dict[str, Tensor], x: Tensor, kind: str, nin: Any = 1.0, nout: Any = 1.0, dn: Tensor | None = None, shift: bool = False
) -> tuple[Tensor, Tensor]:
    """f = act(p · dn) / dn and a decoder in scaled units, as version 3 states it; version 2's mask times p is the same."""
    dn = t["W_D"].norm(dim=1) if dn is None else dn
    pre = (x * nin - (t["b_D"] if shift else 0)) @ t["W_E"] + t["b_E"]
    scaled = pre * dn
    if kind == "jumprelu":
        act = scaled * (scaled > LOG_THRESHOLD.exp())
    elif kind == "topk":
        top = scaled.topk(5, dim=-1)
        act = torch.zeros_like(scaled).scatter(-1, top.indices, top.values)
        assert bool((top.values > 0).all()), "fewer than k positive: releases differ"
    else:
        act = scaled.relu()
    return act / dn, (act / dn @ t["W_D"] + t["b_D"]) / nout


VERSIONS = pytest.mark.parametrize("version", [2, 3])
NIN, NOUT = D**0.5 / 5.5, D**0.5 / 0.8


@VERSIONS
@pytest.mark.parametrize("kind", ["jumprelu", "topk", "relu"])
def test_equation(tmp_path: Path, version: int, kind: str) -> None:
    sae = load_sae(written(tmp_path / "a", version, act_fn=kind))
    agrees(sae, acts(), *library(stored(), acts(), kind, NIN, NIN))
    c = sae.config
    assert (c.format, c.activation, c.site, c.site_out) == (f"openmoss_v{version}", kind, STREAM, None)
    assert c.architecture == {"relu": "standard"}.get(kind, kind)
    assert c.k == (5 if kind == "topk" else None)
    assert any("fewer than k" in line for line in c.assumptions) == (kind == "topk")


@VERSIONS
@pytest.mark.parametrize("kind", ["jumprelu", "topk"])
def test_the_norm_of_the_decoder_counts_only_with_its_flag(tmp_path: Path, version: int, kind: str) -> None:
    """The norms run from 0.3 to 2, so a gate without them keeps others."""
    plain = library(stored(), acts(), kind, NIN, NIN, dn=torch.ones(S))
    agrees(load_sae(written(tmp_path / "a", version, act_fn=kind, sparsity_include_decoder_norm=False)), acts(), *plain)
    gated = library(stored(), acts(), kind, NIN, NIN)[0]
    assert not torch.equal(gated != 0, plain[0] != 0)


@VERSIONS
def test_flags_that_are_not_there_are_the_librarys_defaults(tmp_path: Path, version: int) -> None:
    flags = ("sparsity_include_decoder_norm", "apply_decoder_bias_to_pre_encoder")
    whole = written(tmp_path / "a", version)
    lean = written(tmp_path / "b", version)
    (lean / "config.json").write_text(json.dumps({key: value for key, value in V2.items() if key not in flags}))
    assert load_sae(lean).sha256 == load_sae(whole).sha256
    for key in flags:
        assert any(key in line and "does not say" in line for line in load_sae(lean).config.assumptions)
        assert not any(key in line for line in load_sae(whole).config.assumptions)


@VERSIONS
def test_a_transcoder_has_two_scales(tmp_path: Path, version: int) -> None:
    sae = load_sae(written(tmp_path / "a", version, **ACROSS))
    agrees(sae, acts(), *library(stored(), acts(), "jumprelu", NIN, NOUT))
    assert (sae.config.site, sae.config.site_out, sae.config.architecture) == (SITE, OUT_SITE, "jumprelu_transcoder")
    assert load_sae(written(tmp_path / "b", version, **ACROSS, act_fn="relu")).config.architecture == "transcoder"


@VERSIONS
def test_inference_needs_no_norms_and_unset_ones_are_not_read(tmp_path: Path, version: int) -> None:
    """The library writes what lies in memory where no norm was set."""
    extra = {LOG[version]: LOG_THRESHOLD, f"{NORM}{STREAM}": torch.tensor(float("nan"))}
    sae = load_sae(written(tmp_path / "a", version, extra=extra, norm_activation="inference"))
    agrees(sae, acts(), *library(stored(), acts(), "jumprelu"))


@VERSIONS
def test_token_wise(tmp_path: Path, version: int) -> None:
    sae = load_sae(written(tmp_path / "a", version, norm_activation="token-wise"))
    factor = D**0.5 / acts().norm(dim=1, keepdim=True)
    agrees(sae, acts(), *library(stored(), acts(), "jumprelu", factor, factor))
    assert sae.config.normalisation == "unit_norm"


@VERSIONS
@pytest.mark.parametrize("norm", ["dataset-wise", "token-wise"])
def test_b_dec_before_the_encoder_is_in_scaled_units(tmp_path: Path, version: int, norm: str) -> None:
    sae = load_sae(written(tmp_path / "a", version, norm_activation=norm, apply_decoder_bias_to_pre_encoder=True))
    factor = NIN if norm == "dataset-wise" else D**0.5 / acts().norm(dim=1, keepdim=True)
    agrees(sae, acts(), *library(stored(), acts(), "jumprelu", factor, factor, shift=True))


@VERSIONS
def test_half_precision_without_decoder_bias_in_a_torch_file(tmp_path: Path, version: int) -> None:
    half = {key: one.to(torch.bfloat16) for key, one in stored().items() if key != "b_D"}
    folder = written(tmp_path / "a", version, half, where="sae_weights.pt", use_decoder_bias=False)
    wide = {key: one.float() for key, one in half.items()} | {"b_D": torch.zeros(D)}
    agrees(load_sae(folder), acts(), *library(wide, acts(), "jumprelu", NIN, NIN))


@VERSIONS
def test_a_latent_without_decoder_never_fires(tmp_path: Path, version: int) -> None:
    t = stored()
    t["W_D"][7] = 0
    for kind in ("jumprelu", "topk"):
        sae = load_sae(written(tmp_path / kind, version, t, act_fn=kind))
        assert not bool((sae.encode(acts()).to_dense()[:, 7] != 0).any()), kind


@VERSIONS
def test_a_missing_norm_is_asked_for(tmp_path: Path, version: int) -> None:
    folder = written(tmp_path / "a", version, extra={LOG[version]: LOG_THRESHOLD})
    with pytest.raises(InputError, match=r"lack that norm.*--set norm_scale"):
        load_sae(folder)
    agrees(load_sae(folder, given={"norm_scale": "0.5"}), acts(), *library(stored(), acts(), "jumprelu", 0.5, 0.5))
    one = {LOG[version]: LOG_THRESHOLD, f"{NORM}{SITE}": torch.tensor(5.5)}
    with pytest.raises(InputError, match="lack the average norm of what it writes"):
        load_sae(written(tmp_path / "b", version, extra=one, **ACROSS))
    bad = {LOG[version]: LOG_THRESHOLD, f"{NORM}{STREAM}": torch.tensor(-1.0)}
    with pytest.raises(InputError, match="positive number, found -1"):
        load_sae(written(tmp_path / "c", version, extra=bad))


def test_which_version_and_which_library(tmp_path: Path) -> None:
    """Versions 2 and 3 differ in their tensors alone; cfg.json beside the same weights is SAELens."""
    for version in (2, 3):
        folder = written(tmp_path / f"run/L{version}", version)
        about = inspect_sae(folder, hash=False)
        assert about["format"] == f"openmoss_v{version}"
        assert about["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
        assert load_sae(folder / WEIGHTS).sha256 == load_sae(folder).sha256
        trained = folder / "checkpoints"
        trained.mkdir()
        (folder / WEIGHTS).rename(trained / "final.safetensors")
        assert load_sae(folder).config.format == load_sae(trained).config.format == f"openmoss_v{version}"
        (trained / "final.safetensors").rename(folder / WEIGHTS)
        (trained / "final.safetensors").write_bytes(b"")
    assert [str(row["path"])[-2:] for row in list_saes(tmp_path / "run")] == ["L2", "L3"]
    (tmp_path / "run/L3/cfg.json").write_text(json.dumps({"d_in": D, "d_sae": S, "architecture": "standard"}))
    assert locate(tmp_path / "run/L3").format == "sae_lens"


def test_model_and_names(tmp_path: Path) -> None:
    hub = tmp_path / "models--fnlp--Llama-Scope-R1-Distill/snapshots/abc/800M-Slimpajama-0-OpenR1-Math-220k/L3R"
    c = load_sae(written(hub, 2)).config
    assert c.model_id == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    assert any("fnlp/Llama-Scope-R1-Distill" in line for line in c.assumptions)
    (hub / "lm_config.json").write_text(json.dumps({"model_name": "EleutherAI/pythia-160m"}))
    c = load_sae(hub).config
    assert (c.model_id, c.context_length) == ("EleutherAI/pythia-160m", None)
    assert load_sae(written(tmp_path / "plain", 3)).config.model_id is None


@pytest.mark.parametrize("kind", ["crosscoder", "clt", "lorsa", "molt", "mixcoder"])
def test_other_kinds_are_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    stack = {"W_E": rand(2, D, S), "b_E": rand(2, S), "W_D": rand(2, S, D), "b_D": rand(2, D)}
    folder = write(tmp_path / "a", V2 | {"sae_type": kind}, stack, WEIGHTS)
    with pytest.raises(InputError, match=rf"is a {kind} of OpenMOSS, which is not supported: "):
        load_sae(folder)
    assert kind in str(list_saes(tmp_path)[0]["refused"])


@VERSIONS
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sae_type": "hypersae"}, "hypersae"),
        ({"act_fn": "batchtopk"}, "whole batch"),
        ({"act_fn": "layertopk"}, "whole batch"),
        ({"use_glu_encoder": True}, "gated linear unit"),
        ({"norm_activation": "batch-wise"}, "batch-wise"),
        ({"norm_activation": "token-wise", **ACROSS}, "token-wise"),
        ({"d_model": D + 1}, "d_model is 13"),
        ({"expansion_factor": 7}, "84 latents"),
        ({"act_fn": "topk", "top_k": 2.5}, "'top_k'"),
        ({"hook_point_in": None, "hook_point_out": None}, "hook_point_in"),
    ],
)
def test_refusals(tmp_path: Path, version: int, settings: dict[str, Any], said: str) -> None:
    folder = written(tmp_path / "a", version, **settings)
    with pytest.raises(InputError, match=said) as caught:
        load_sae(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@VERSIONS
def test_missing_and_damaged_tensors(tmp_path: Path, version: int) -> None:
    with pytest.raises(InputError, match="lacks the tensor 'log_jumprelu_threshold'"):
        load_sae(written(tmp_path / "a", version, extra=norms()))
    with pytest.raises(InputError, match="7 entries for 40"):
        load_sae(written(tmp_path / "b", version, extra=norms() | {LOG[version]: torch.ones(7)}))
    with pytest.raises(InputError, match="one number"):
        load_sae(written(tmp_path / "c", version, extra={LOG[version]: LOG_THRESHOLD, f"{NORM}{STREAM}": torch.ones(2)}))
    t = stored()
    del t["b_E"]
    with pytest.raises(InputError, match=r"b_E|encoder\.bias"):
        load_sae(written(tmp_path / "d", version, t))
    folder = written(tmp_path / "e", version)
    (folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(InputError, match=r"sae_weights\.safetensors is not a whole safetensors file"):
        load_sae(folder)


def test_gated_encoders_are_known_by_their_tensors(tmp_path: Path) -> None:
    for version, name in ((2, "encoder_glu.weight"), (3, "W_E_glu")):
        extra = norms() | {LOG[version]: LOG_THRESHOLD, name: torch.ones(D, S)}
        with pytest.raises(InputError, match="gated linear unit"):
            load_sae(written(tmp_path / name, version, extra=extra))


def test_sharded_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run/a"
    (folder / "sae_weights.dcp").mkdir(parents=True)
    (folder / "sae_weights.dcp/__0_0.distcp").write_bytes(b"")
    (folder / "config.json").write_text(json.dumps(V2))
    with pytest.raises(InputError, match=r"sae_weights\.dcp is a checkpoint of torch\.distributed.*save_pretrained"):
        load_sae(folder)
    assert "torch.distributed" in str(list_saes(tmp_path / "run")[0]["refused"])

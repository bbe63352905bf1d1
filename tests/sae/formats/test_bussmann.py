"""Bussmann's checkpoints: the bias that is saved and never used, thresholds, settings saved as text, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae, list_saes
from tests.sae.formats.cases import D, S, acts, agrees, rand

CFG = {
    "seed": 49, "act_size": D, "dict_size": S, "top_k": 5, "input_unit_norm": True, "dtype": "torch.float32", "device": "cuda",
    "hook_point": "blocks.8.hook_resid_pre", "site": "resid_pre", "layer": 8, "model_name": "gpt2-small", "seq_len": 128,
    "num_tokens": 5e8, "bandwidth": 0.001, "group_sizes": "[10, 10, 20]",
}  # fmt: skip
THRESHOLD = 0.9


def tensors() -> dict[str, Tensor]:
    return {"W_enc": 0.5 * rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, D, seed=3), "b_dec": rand(D, seed=4)}


def more(kind: str) -> dict[str, Tensor]:
    if kind == "jumprelu":
        return {"jumprelu.log_threshold": rand(S, seed=5) * 0.3}
    return {} if kind in ("vanilla", "topk") else {"threshold": torch.tensor(THRESHOLD)}


def written(folder: Path, kind: str, extra: dict[str, Tensor] | None = None, drop: str | None = None, **settings: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors() | (more(kind) if extra is None else extra), folder / "sae.pt")
    cfg = {key: value for key, value in (CFG | {"sae_type": kind} | settings).items() if key != drop}
    (folder / "config.json").write_text(json.dumps(cfg))
    return folder


def equation(kind: str, x: Tensor, *, unit: bool = True, biased: bool = False, shifted: bool = False) -> tuple[Tensor, Tensor]:
    """As sae.py states it, latent by latent: normalise, encode, keep, decode, undo."""
    t, mean, std = tensors(), 0, 1
    if unit:
        mean = x.mean(-1, keepdim=True)
        std = (x - mean).std(-1, keepdim=True)
        x = (x - mean) / (std + 1e-5)
    if kind == "vanilla":
        latents = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    elif kind == "jumprelu":
        pre = ((x - t["b_dec"] if shifted else x) @ t["W_enc"] + t["b_enc"]).relu()
        latents = pre * (pre > more(kind)["jumprelu.log_threshold"].exp())
    else:
        pre = ((x - t["b_dec"]) @ t["W_enc"] + (t["b_enc"] if biased else 0)).relu()
        top = pre.topk(5, dim=-1)
        chosen = torch.zeros_like(pre).scatter(-1, top.indices, top.values)
        latents = chosen if kind == "topk" else torch.where(pre > THRESHOLD, pre, torch.zeros_like(pre))
    return latents, (latents @ t["W_dec"] + t["b_dec"]) * std + mean


@pytest.mark.parametrize(
    ("kind", "architecture"),
    [
        ("vanilla", "standard"),
        ("topk", "topk"),
        ("batchtopk", "batchtopk"),
        ("batch-topk", "batchtopk"),
        ("global-matryoshka-topk", "matryoshka_batchtopk"),
        ("jumprelu", "jumprelu"),
    ],
)
@pytest.mark.parametrize("unit", [True, False])
def test_equation(tmp_path: Path, kind: str, architecture: str, unit: bool) -> None:
    name = "gpt2-small_blocks.8.hook_resid_pre_12288_topk_32_0.0003_24413"
    sae = load_sae(written(tmp_path / name, kind, input_unit_norm=unit))
    agrees(sae, acts(), *equation(kind, acts(), unit=unit))
    c = sae.config
    assert (c.format, c.name, c.architecture) == ("bussmann", name, architecture)
    assert (c.site, c.model_id, c.context_length) == ("blocks.8.hook_resid_pre", "gpt2-small", 128)
    assert c.normalisation == ("layer_norm" if unit else "none")
    assert c.k == (5 if kind == "topk" else None)
    assert [line for line in c.assumptions if "center_writing_weights" in line] == list(c.assumptions)
    assert bool(c.assumptions) == (not unit)
    nowhere = load_sae(written(tmp_path / "nowhere", kind, input_unit_norm=unit, hook_point=None, site=None)).config
    assert (nowhere.site, bool(nowhere.assumptions)) == (None, not unit), "--site may name one of the stream"


def test_the_saved_encoder_bias_is_not_used(tmp_path: Path) -> None:
    """Trap 9: with it, other latents are kept."""
    for kind in ("topk", "batchtopk"):
        with_bias = equation(kind, acts(), biased=True)
        assert not torch.equal(with_bias[0] != 0, equation(kind, acts())[0] != 0)
        assert not load_sae(written(tmp_path / kind, kind)).b_enc.any()
        agrees(load_sae(written(tmp_path / f"{kind}-early", kind, use_encoder_bias=True)), acts(), *with_bias)


def test_jumprelu_takes_b_dec_off_only_with_its_flag(tmp_path: Path) -> None:
    assert load_sae(written(tmp_path / "a", "jumprelu")).weights.b_in is None
    sae = load_sae(written(tmp_path / "b", "jumprelu", use_pre_enc_bias=True))
    agrees(sae, acts(), *equation("jumprelu", acts(), shifted=True))


def test_settings_as_text(tmp_path: Path) -> None:
    """What JSON does not know is saved as text; group_sizes always."""
    text: dict[str, Any] = {"act_size": str(D), "dict_size": f"{S}.0", "top_k": "5", "input_unit_norm": "False", "seq_len": "128"}
    sae = load_sae(written(tmp_path / "a", "topk", **text))
    agrees(sae, acts(), *equation("topk", acts(), unit=False))
    assert sae.config.context_length == 128
    assert load_sae(written(tmp_path / "b", "global-matryoshka-topk", dict_size=99)).config.d_sae == S, "its groups are its size"
    for said in ("[10, 10, 21]", "[]", "ten", "[10, true]", 3):
        with pytest.raises(InputError, match="group_sizes"):
            load_sae(written(tmp_path / "c", "global-matryoshka-topk", group_sizes=said))


def test_input_unit_norm_is_on_where_nothing_is_said(tmp_path: Path) -> None:
    sae = load_sae(written(tmp_path / "a", "topk", drop="input_unit_norm"))
    agrees(sae, acts(), *equation("topk", acts()))
    assert any("input_unit_norm" in line for line in sae.config.assumptions)


def test_thresholds(tmp_path: Path) -> None:
    for kind in ("batchtopk", "global-matryoshka-topk"):
        with pytest.raises(InputError, match=r"sae\.pt has no threshold.*whole batch"):
            load_sae(written(tmp_path / f"{kind}-old", kind, {}))
        with pytest.raises(InputError, match="0 or more"):
            load_sae(written(tmp_path / f"{kind}-bad", kind, {"threshold": torch.tensor(-1.0)}))
        with pytest.raises(InputError, match="should be one number"):
            load_sae(written(tmp_path / f"{kind}-many", kind, {"threshold": torch.ones(3)}))
        never = load_sae(written(tmp_path / f"{kind}-never", kind, {"threshold": torch.tensor(0.0)}))
        assert any("never estimated" in line for line in never.config.warnings)
    with pytest.raises(InputError, match=r"jumprelu\.log_threshold"):
        load_sae(written(tmp_path / "j", "jumprelu", {}))


def test_a_missing_k_is_asked_for(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", "topk", drop="top_k")
    with pytest.raises(InputError, match=r"config\.json does not say top_k.*--set k"):
        load_sae(folder)
    assert load_sae(folder, given={"k": "5"}).config.k == 5


def test_detection(tmp_path: Path) -> None:
    folder = written(tmp_path / "checkpoints/a_10", "topk")
    written(tmp_path / "checkpoints/a_20", "topk")
    assert inspect_sae(folder)["format"] == "bussmann"
    assert load_sae(folder / "sae.pt").sha256 == load_sae(folder).sha256
    assert [str(row["path"])[-4:] for row in list_saes(tmp_path)] == ["a_10", "a_20"]
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="--format"):
        load_sae(folder / "sae.pt")
    with pytest.raises(InputError, match="one of them is missing"):
        load_sae(folder, format="bussmann")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("maxpool", {}, "maxpool"),
        ("topk", {"act_size": D + 1}, "act_size is 13"),
        ("topk", {"dict_size": S + 1}, "dict_size is 41"),
        ("topk", {"top_k": "many"}, "'top_k'"),
        ("topk", {"top_k": S + 1}, "k between 1 and"),
        ("topk", {"input_unit_norm": "maybe"}, "input_unit_norm"),
        ("topk", {"input_unit_norm": None}, "input_unit_norm"),
        ("topk", {"activation": "gelu"}, "gelu"),
        ("batchtopk", {"tied_weights": True}, "tied_weights"),
        ("topk", {"model_name": 3}, "model_name"),
    ],
)
def test_refusals(tmp_path: Path, kind: str, settings: dict[str, Any], said: str) -> None:
    folder = written(tmp_path / "a", kind, **settings)
    with pytest.raises(InputError, match=said) as caught:
        load_sae(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec"])
def test_damaged_tensors(tmp_path: Path, name: str) -> None:
    folder = written(tmp_path / "a", "topk")
    for change in (None, torch.ones(3, 4), torch.ones(2, 2, 2)):
        t = {key: one for key, one in (tensors() | {name: change}).items() if one is not None}
        torch.save(t, folder / "sae.pt")
        with pytest.raises(InputError, match=name):
            load_sae(folder)
    (folder / "sae.pt").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"sae\.pt"):
        load_sae(folder)

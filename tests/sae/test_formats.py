"""Formats from the files alone: detection and what all share. ``formats/`` has a file for each, tests/peers the libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae, save_native
from saebench.sae.inspect import inspect_sae, list_saes
from tests.metrics.conftest import random_sae

D, S = 12, 40


def tensors(**more: Tensor) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    return {
        "W_enc": torch.randn(D, S, generator=g),
        "b_enc": torch.randn(S, generator=g),
        "W_dec": torch.randn(S, D, generator=g),
        "b_dec": torch.randn(D, generator=g),
        **more,
    }


def sae_lens_folder(folder: Path, cfg: dict, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": S} | cfg))
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "sae_weights.safetensors")
    return folder


def dl_folder(folder: Path, dict_class: str, weights: dict[str, Tensor], **trainer: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": {"dict_class": dict_class, **trainer}}))
    return folder


def acts() -> Tensor:
    return torch.randn(20, D, generator=torch.Generator().manual_seed(6))


def test_native_round_trip(tmp_path: Path) -> None:
    sae = random_sae(D, S, k=3, model_id="some/model", context_length=99)
    save_native(sae, tmp_path / "x", training={"recipe": "none"})
    back = load_sae(tmp_path / "x")
    assert back.sha256 == sae.sha256
    assert back.config.model_id == "some/model"
    assert back.config.context_length == 99
    assert torch.equal(back.reconstruct(acts()), sae.reconstruct(acts()))
    config = json.loads((tmp_path / "x/config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps(config | {"nromalisation": "none"}))
    with pytest.raises(InputError, match="Did you mean 'normalisation'"):
        load_sae(tmp_path / "x")


LEGACY = {
    "model_name": "gpt2-small",
    "hook_point": "blocks.8.hook_resid_pre",
    "hook_point_layer": 8,
    "hook_point_head_index": None,
    "dtype": "torch.float32",
    "context_size": 128,
}


def sparsify_folder(folder: Path, cfg: dict, **more: Tensor) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    t = tensors()
    weights = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "W_dec": t["W_dec"], "b_dec": t["b_dec"]}
    save_file(weights | more, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": 4, "d_in": D, "num_latents": 0, "expansion_factor": 32} | cfg))
    return folder


def test_nothing_known_lists_what_was_looked_for(tmp_path: Path) -> None:
    save_file({"wte.weight": torch.zeros(3, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"Looked for: .*ae\.pt.*cfg\.json \+ sae_weights\.safetensors"):
        load_sae(tmp_path)


def test_where_there_are_no_weights_the_list_would_be_no_help(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below/config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds no file of weights \(\.safetensors, .*\), nor does a folder below it$"):
        load_sae(tmp_path)
    with pytest.raises(InputError, match="the path of the SAE is empty"):
        load_sae("")


def test_several_formats_in_one_folder_are_refused_with_the_choices(tmp_path: Path) -> None:
    sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    sparsify_folder(tmp_path / "a", {})
    with pytest.raises(InputError, match=r"sae_lens, sparsify.*--format"):
        load_sae(tmp_path / "a")


def test_a_folder_of_several_saes_names_them_and_of_one_takes_it(tmp_path: Path) -> None:
    sparsify_folder(tmp_path / "run/layers.1", {})
    assert load_sae(tmp_path / "run").config.site == "blocks.1.hook_resid_post"
    assert load_sae(tmp_path / "run/layers.1/sae.safetensors").config.site == "blocks.1.hook_resid_post"
    sparsify_folder(tmp_path / "run/layers.2", {})
    with pytest.raises(InputError, match=r"2 SAEs.*layers\.1, layers\.2"):
        load_sae(tmp_path / "run")


def test_damaged_settings_are_listed_with_what_is_wrong(tmp_path: Path) -> None:
    """Left out of the list, a run over all of them would be one short and say nothing."""
    for name in ("a", "b"):
        save_native(random_sae(D, S, k=3), tmp_path / name)
    (tmp_path / "b/config.json").write_text("{")
    rows = list_saes(tmp_path)
    assert [(row["format"], row["refused"] is None) for row in rows] == [("native", True), ("native", False)]
    assert "config.json is not readable JSON" in str(rows[1]["refused"])


def test_overrides_are_warned_of(tmp_path: Path) -> None:
    folder = sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    sae = load_sae(folder, site="blocks.5.hook_resid_pre", model_id="other/model", residual="raw")
    assert sae.config.site == "blocks.5.hook_resid_pre"
    assert len([w for w in sae.config.warnings if "overridden" in w]) == 3


def test_inspect_is_plain_data(tmp_path: Path) -> None:
    about = inspect_sae(sae_lens_folder(tmp_path / "a", LEGACY, tensors()))
    assert json.loads(json.dumps(about)) == about
    assert {"format", "architecture", "site", "model_id", "normalisation", "residual", "sha256", "tensors", "dtype"} <= set(about)


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    weights = tensors()
    del weights["b_dec"]
    with pytest.raises(InputError, match="b_dec"):
        load_sae(sae_lens_folder(tmp_path / "a", LEGACY, weights))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    sae = load_sae(sae_lens_folder(tmp_path / "a", LEGACY, {k: v.to(torch.bfloat16) for k, v in tensors().items()}))
    assert sae.dtype == torch.float32


def test_a_header_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    folder = sae_lens_folder(tmp_path / "a", LEGACY, tensors())
    (folder / "sae_weights.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    with pytest.raises(InputError, match="header claims"):
        load_sae(folder)

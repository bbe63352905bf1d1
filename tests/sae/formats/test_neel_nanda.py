"""Neel Nanda's files and those of the attention SAEs: pairs in one folder, what old configurations lack, and bare tensors."""

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

FIRST = {"seed": 49, "dict_mult": 8, "seq_len": 128, "d_mlp": D, "enc_dtype": "fp32", "remove_rare_dir": False}
"""The layout of the first runs: neither model nor site."""
LATER = {
    "act_size": D,
    "dict_size": S,
    "site": "mlp_out",
    "layer": 1,
    "model_name": "gelu-2l",
    "seq_len": 128,
    "enc_dtype": "fp32",
}
HEADS = "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.00e+00_ds49152_bs4096_dc1.00e-06_rsanthropic_rie25000_nr4_v9"


def tensors() -> dict[str, Tensor]:
    return {"W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": 0.7 * rand(S, D, seed=3), "b_dec": rand(D, seed=4)}


def written(folder: Path, name: str, cfg: dict[str, Any] | None, weights: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors() if weights is None else weights, folder / f"{name}.pt")
    if cfg is not None:
        (folder / f"{name}_cfg.json").write_text(json.dumps(cfg))
    return folder / f"{name}.pt"


def equation(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    latents = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    return latents, latents @ t["W_dec"] + t["b_dec"]


def test_the_first_runs(tmp_path: Path) -> None:
    """b_dec is taken off, decoder rows stay as they are, and what the configuration lacks is said."""
    sae = load_sae(written(tmp_path / "sparse_autoencoder", "25", FIRST))
    agrees(sae, acts(), *equation(tensors(), acts()))
    c = sae.config
    assert (c.format, c.name, c.architecture) == ("neel_nanda", "sparse_autoencoder-25", "standard")
    assert (c.site, c.model_id, c.residual, c.context_length) == ("blocks.0.mlp.hook_post", "gelu-1l", "raw", 128)
    assert c.prepend_bos is True
    assert {line.split(" taken")[0] for line in c.assumptions} == {"site", "model", "BOS"}


def test_several_pairs_in_one_folder_and_what_is_no_sae(tmp_path: Path) -> None:
    for version in ("25", "47"):
        written(tmp_path, version, FIRST)
    torch.save(rand(D), tmp_path / "rare_freq_dir.pt")
    (tmp_path / "notes.json").write_text("{}")
    rows = list_saes(tmp_path)
    assert [(Path(str(row["path"])).name, row["format"]) for row in rows] == [("25.pt", "neel_nanda"), ("47.pt", "neel_nanda")]
    with pytest.raises(InputError, match="2 SAEs"):
        load_sae(tmp_path)
    with pytest.raises(InputError, match="no SAE of a known format"):
        load_sae(tmp_path / "rare_freq_dir.pt")
    (tmp_path / "47_cfg.json").unlink()
    alone = inspect_sae(tmp_path)
    assert (alone["format"], alone["site"]) == ("neel_nanda", "blocks.0.mlp.hook_post")


@pytest.mark.parametrize(
    ("cfg", "site", "residual"),
    [
        (LATER, "blocks.1.hook_mlp_out", "centred"),
        (LATER | {"site": "post"}, "blocks.1.mlp.hook_post", "raw"),
        (LATER | {"site": "resid_pre"}, "blocks.1.hook_resid_pre", "centred"),
        (LATER | {"site": "z"}, "blocks.1.attn.hook_z", "raw"),
        (LATER | {"act_name": "blocks.3.hook_resid_mid"}, "blocks.3.hook_resid_mid", "centred"),
        ({"act_size": D}, None, "centred"),
    ],
)
def test_sites(tmp_path: Path, cfg: dict[str, Any], site: str | None, residual: str) -> None:
    """act_name says it; else site and layer, which TransformerLens makes the same name of; one that --site tells is centred."""
    c = load_sae(written(tmp_path, "7", cfg)).config
    assert (c.site, c.residual, c.model_id) == (site, residual, cfg.get("model_name"))
    assert any("centred" in line for line in c.assumptions) == (residual == "centred")


def test_attention_saes(tmp_path: Path) -> None:
    """All heads side by side; the file's name says what the configuration may not."""
    full = LATER | {"act_name": "blocks.5.attn.hook_z", "model_name": "gpt2-small", "head": "cat"}
    sae = load_sae(written(tmp_path / "a", HEADS, full))
    agrees(sae, acts(), *equation(tensors(), acts()))
    assert (sae.config.site, sae.config.model_id) == ("blocks.5.attn.hook_z", "gpt2-small")
    assert any("fold_value_biases" in line for line in sae.config.warnings), "GPT-2's z had no bias in training"
    lean = load_sae(written(tmp_path / "b", HEADS, {"act_size": D, "dict_size": S})).config
    assert (lean.site, lean.model_id) == ("blocks.5.attn.hook_z", "gpt2-small")
    assert sum("file name" in line for line in lean.assumptions) == 2
    with pytest.raises(InputError, match="single head 3"):
        load_sae(written(tmp_path / "c", HEADS, full | {"head": 3}))


def test_the_stored_dtype_counts(tmp_path: Path) -> None:
    half = {key: one.to(torch.bfloat16) for key, one in tensors().items()}
    sae = load_sae(written(tmp_path / "a", "7", LATER | {"enc_dtype": "bf16"}, half))
    agrees(sae, acts(), *equation({key: one.float() for key, one in half.items()}, acts()))
    assert not sae.config.warnings
    assert any("bf16" in line for line in load_sae(written(tmp_path / "b", "7", LATER | {"enc_dtype": "bf16"})).config.warnings)


def test_bare_tensors_only_when_asked(tmp_path: Path) -> None:
    """Four tensors without settings are also what others save, turned or with other maths; square ones do not even say that."""
    for name, d_sae in (("wide", S), ("square", D)):
        t = {"W_enc": rand(D, d_sae), "b_enc": rand(d_sae), "W_dec": rand(d_sae, D), "b_dec": rand(D)}
        file = written(tmp_path / name, "x", None, t)
        with pytest.raises(InputError, match=r"choose one with --format: .*neel_nanda"):
            load_sae(file)
        sae = load_sae(file, format="neel_nanda")
        agrees(sae, acts(), *equation(t, acts()))
        assert (sae.config.site, sae.config.model_id, sae.config.prepend_bos) == (None, None, None)
        assert any("was asked for" in line for line in sae.config.assumptions)
        assert sae.config.residual == "raw" and any("--residual centred" in line for line in sae.config.assumptions)
    turned = {key: one.T.contiguous() if one.ndim == 2 else one for key, one in tensors().items()}
    file = written(tmp_path / "turned", "x", None, turned)
    with pytest.raises(InputError, match="W_enc is"):
        load_sae(file, format="neel_nanda")
    with pytest.raises(InputError) as caught:
        load_sae(written(tmp_path / "more", "x", None, tensors() | {"k": torch.tensor(3)}))
    assert "neel_nanda" not in str(caught.value).split("Looked for")[0]


def test_crosscoders_are_refused(tmp_path: Path) -> None:
    stack = {"W_enc": rand(2, D, S), "b_enc": rand(S), "W_dec": rand(S, 2, D), "b_dec": rand(2, D)}
    file = written(tmp_path, "7", LATER, stack)
    for format in (None, "neel_nanda"):
        with pytest.raises(InputError, match="is a crosscoder"):
            load_sae(file, format=format)


@pytest.mark.parametrize(
    ("cfg", "changed", "said"),
    [
        (LATER | {"act_size": D + 1}, {}, "act_size 13"),
        (LATER | {"dict_size": S + 1}, {}, "dict_size 41"),
        (FIRST | {"d_mlp": D + 1}, {}, "d_mlp 13"),
        (LATER | {"site": "nowhere"}, {}, "nowhere"),
        (LATER | {"layer": "one"}, {}, "'layer'"),
        (LATER | {"act_name": 4}, {}, "act_name"),
        (LATER | {"seq_len": 0}, {}, "seq_len"),
        (LATER, {"b_enc": torch.ones(S + 1)}, r"b_enc \[41\]"),
        (LATER, {"W_dec": torch.ones(S, D + 1)}, r"W_dec \[40, 13\]"),
        (LATER, {"b_dec": torch.ones(D + 1)}, "b_dec"),
        (LATER, {"W_enc": torch.ones(D, S, dtype=torch.int32)}, "int32"),
    ],
)
def test_contradictions_and_damage(tmp_path: Path, cfg: dict[str, Any], changed: dict[str, Tensor], said: str) -> None:
    file = written(tmp_path, "7", cfg, tensors() | changed)
    with pytest.raises(InputError, match=said) as caught:
        load_sae(file)
    assert "7" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_files(tmp_path: Path) -> None:
    file = written(tmp_path, "7", LATER)
    file.write_bytes(b"cut")
    with pytest.raises(InputError, match=r"7\.pt"):
        load_sae(file)
    file = written(tmp_path, "8", LATER)
    (tmp_path / "8_cfg.json").write_text("{")
    with pytest.raises(InputError, match=r"8_cfg\.json is not readable JSON"):
        load_sae(file)
    written(tmp_path, "8", LATER)
    with pytest.raises(InputError, match="holds 2 SAEs; name one"):
        load_sae(tmp_path, format="neel_nanda")

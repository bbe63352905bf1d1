"""Checkpoints of sae_lens: what is folded into the weights when training ends has to be folded here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand
from tests.sae.formats.sae_lens_cases import (
    AVERAGE,
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

FACTOR = 0.37


def checkpoint(folder: Path, factor: float | None = FACTOR, **more: Any) -> Path:
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False} | more))
    return folder


@pytest.mark.parametrize("where", ["json", "store", "set"])
def test_the_factor_of_a_checkpoint_is_folded_in(tmp_path: Path, where: str) -> None:
    """Trap 7: the SAE worked on x · s in training, and its recon on x̂ · s."""
    t, x = standard(), acts()
    folder, given = folder_of(tmp_path / "a", cfg_of("standard", **AVERAGE), t), None
    untold = load_sae(folder)
    f = encoded(t, x).clamp(min=0)
    agrees(untold, x, f, decoded(t, f))
    assert any("expected_average_only_in" in line and "norm_scale" in line for line in untold.config.warnings)
    if where == "json":
        checkpoint(folder)
    elif where == "store":
        stored = {"estimated_norm_scaling_factor": torch.tensor(FACTOR), "n_dataset_processed": torch.tensor(3)}
        save_file(stored, folder / "activations_store_state.safetensors")
    else:
        given = {"norm_scale": str(FACTOR)}
    sae = load_sae(folder, given=given)
    f = encoded(t, x * FACTOR).clamp(min=0)
    agrees(sae, x, f, decoded(t, f) / FACTOR)
    assert any("0.37" in line for line in sae.config.assumptions)
    assert not sae.config.warnings
    assert load_sae(folder, given=given).sha256 == sae.sha256, "folding reaches no file"


@pytest.mark.parametrize("rescale", [True, False])
def test_the_factor_moves_the_threshold_where_it_moves_the_norms(tmp_path: Path, rescale: bool) -> None:
    t, x = standard() | {"topk_threshold": torch.tensor(0.6, dtype=torch.float64)}, acts()
    sae = load_sae(checkpoint(folder_of(tmp_path / "a", cfg_of("batchtopk", rescale_acts_by_decoder_norm=rescale, **AVERAGE), t)))
    norms = t["W_dec"].norm(dim=1) if rescale else torch.ones(S)
    f = jump(encoded(t, x * FACTOR) * norms, 0.6)
    recon = decoded(t, f / norms) / FACTOR
    agrees(sae, x, f / FACTOR if rescale else f, recon)  # latents at the scale of the decoder are in units of acts


def test_the_factor_of_a_pursuit_and_of_a_gated_sae(tmp_path: Path) -> None:
    t, x = tensors("W_dec", "b_dec"), acts(24)
    t["W_dec"] /= t["W_dec"].norm(dim=1, keepdim=True)
    own = {"residual_threshold": 0.8, **AVERAGE}
    sae = load_sae(checkpoint(folder_of(tmp_path / "a", cfg_of("matching_pursuit", **own), t)))
    f = pursue(x * FACTOR - t["b_dec"], t["W_dec"], 0.8, D, True)
    agrees(sae, x, f / FACTOR, decoded(t, f) / FACTOR)
    t = tensors("W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag")
    sae = load_sae(checkpoint(folder_of(tmp_path / "b", cfg_of("gated", **AVERAGE), t)))
    m = (x * FACTOR - t["b_dec"]) @ t["W_enc"]
    f = (m + t["b_gate"] > 0) * (m * t["r_mag"].exp() + t["b_mag"]).clamp(min=0)
    agrees(sae, x, f, decoded(t, f) / FACTOR)


def test_a_factor_that_is_folded_in_already_is_left_alone(tmp_path: Path) -> None:
    plain = load_sae(folder_of(tmp_path / "a", cfg_of("standard"), standard()))
    folded = load_sae(checkpoint(folder_of(tmp_path / "b", cfg_of("standard"), standard()), None))
    assert folded.sha256 == plain.sha256
    assert not folded.config.warnings
    told = load_sae(checkpoint(folder_of(tmp_path / "c", cfg_of("standard"), standard())))
    assert told.sha256 == plain.sha256
    assert any("not applied" in line for line in told.config.warnings)


@pytest.mark.parametrize("factor", [0.0, -1.0, "x", True])
def test_factors_that_are_refused(tmp_path: Path, factor: Any) -> None:
    folder = checkpoint(folder_of(tmp_path / "a", cfg_of("standard", **AVERAGE), standard()), factor)
    for look in (load_sae, inspect_sae):
        with pytest.raises(InputError, match=r"activation_scaler\.json.*scaling_factor"):
            look(folder)
    (folder / "activation_scaler.json").unlink()
    with pytest.raises(InputError, match="positive"):
        load_sae(folder, given={"norm_scale": "-2"})


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("architecture", ["topk", "gated", "batchtopk"])
def test_whitening_is_folded_in(tmp_path: Path, architecture: str, shift: bool) -> None:
    gated = architecture == "gated"
    t = tensors("W_enc", "W_dec", "b_dec", *(("b_gate", "b_mag", "r_mag") if gated else ("b_enc",)))
    stored = t | ({"topk_threshold": torch.tensor(1.1, dtype=torch.float64)} if architecture == "batchtopk" else {})
    cfg = cfg_of(
        architecture,
        k=4,
        rescale_acts_by_decoder_norm=True,
        normalize_activations="covariance_whitening",
        apply_b_dec_to_input=shift,
    )
    folder = folder_of(tmp_path / "a", cfg, stored)
    assert any("activation_whitening" in line for line in load_sae(folder).config.warnings)
    mean, matrix = rand(D, seed=3).double(), (torch.eye(D) + 0.2 * rand(D, D, seed=4)).double()
    inverse = matrix.inverse().contiguous()
    save_file({"mean": mean, "matrix": matrix, "inverse_matrix": inverse}, folder / "activation_whitening.safetensors")
    sae, x = load_sae(checkpoint(folder, None, has_whitening=True)), acts()
    z = ((x - mean) @ matrix).float()
    if gated:
        m = (z - shift * t["b_dec"]) @ t["W_enc"]
        f = (m + t["b_gate"] > 0) * (m * t["r_mag"].exp() + t["b_mag"]).clamp(min=0)
        recon = decoded(t, f)
    else:
        norms = t["W_dec"].norm(dim=1)
        p = encoded(t, z, float(shift)) * norms
        f = topk(p, 4) if architecture == "topk" else jump(p, 1.1)
        recon = decoded(t, f / norms)
    agrees(sae, x, f, (recon.double() @ inverse + mean).float(), tolerance=2e-5)
    assert any("whitened" in line for line in sae.config.assumptions)
    save_file({"mean": mean[:3], "matrix": matrix, "inverse_matrix": inverse}, folder / "activation_whitening.safetensors")
    with pytest.raises(InputError, match=r"activation_whitening\.safetensors.*mean"):
        inspect_sae(folder, hash=False)


def test_half_precision_is_folded_in_float32(tmp_path: Path) -> None:
    t, x = {name: one.bfloat16() for name, one in standard().items()}, acts()
    sae = load_sae(checkpoint(folder_of(tmp_path / "a", cfg_of("topk", k=4, rescale_acts_by_decoder_norm=True, **AVERAGE), t)))
    t = {name: one.float() for name, one in t.items()}
    norms = t["W_dec"].norm(dim=1)
    f = topk(encoded(t, x * FACTOR) * norms, 4)
    agrees(sae, x, f / FACTOR, decoded(t, f / norms) / FACTOR)


def test_files_of_a_whole_checkpoint_are_left_alone(tmp_path: Path) -> None:
    folder = checkpoint(folder_of(tmp_path / "a", cfg_of("standard", **AVERAGE), standard()))
    save_file({"sparsity": rand(S)}, folder / "sparsity.safetensors")
    save_file({"n_dataset_processed": torch.tensor(3)}, folder / "activations_store_state.safetensors")
    torch.save({"optimizer": {"state": {0: {"step": torch.tensor(3)}}}}, folder / "trainer_state.pt")
    (folder / "runner_cfg.json").write_text("{}")
    for path in (folder, folder / "sae_weights.safetensors"):
        assert load_sae(path).sha256 == load_sae(folder).sha256
        told = inspect_sae(path, hash=False)
        assert (told["format"], told["d_sae"]) == ("sae_lens", S)


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("rescale", [True, False])
def test_batchtopk_checkpoints_are_jumprelu_at_their_threshold(tmp_path: Path, architecture: str, rescale: bool) -> None:
    t, x = standard(), acts()
    stored = t | {"topk_threshold": torch.tensor(1.3, dtype=torch.float64)}
    cfg = cfg_of(architecture, k=4.5, rescale_acts_by_decoder_norm=rescale, matryoshka_widths=[10, S])
    sae = load_sae(folder_of(tmp_path / "a", cfg, stored))
    norms = t["W_dec"].norm(dim=1) if rescale else torch.ones(S)
    f = jump(encoded(t, x) * norms, 1.3)
    agrees(sae, x, f, decoded(t, f / norms))
    assert (sae.config.activation, sae.config.architecture, sae.config.k) == ("jumprelu", architecture, None)
    zero = folder_of(tmp_path / "b", cfg, t | {"topk_threshold": torch.tensor(0.0, dtype=torch.float64)})
    assert any("first step" in line for line in load_sae(zero).config.warnings)


def test_the_inference_save_of_batchtopk_says_how_it_was_trained(tmp_path: Path) -> None:
    cfg = cfg_of("jumprelu", metadata=META | {"training_architecture": "batchtopk"})
    c = load_sae(folder_of(tmp_path / "a", cfg, standard() | tensors("threshold"))).config
    assert (c.activation, c.architecture) == ("jumprelu", "batchtopk")

"""Runs where sae_lens is: writes files of Llama Scope, its R1 distill and the attention SAEs, and what sae_lens makes of them.

Its own loaders read them, with the download replaced by the files that lie here. Each folder under ``argv[1]`` gets
``oracle.npz`` with ``acts``, ``latents`` (dense) and ``recon``, and ``sae.txt``: what to load.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.loading.pretrained_saes_directory import get_norm_scaling_factor, get_repo_id_and_folder_name
from safetensors.torch import save_file

D, S, HEADS = 12, 48, 3
ROOT = Path(sys.argv[1])


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tensors() -> dict[str, torch.Tensor]:
    """Random, with decoder rows of norm 1: without them sae_lens and the authors differ."""
    dec = rand(S, D, seed=3)
    return {
        "W_enc": 0.5 * rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": dec / dec.norm(dim=1, keepdim=True),
        "b_dec": rand(D, seed=4),
    }  # fmt: skip


def acts() -> torch.Tensor:
    return 2 * rand(64, D, seed=7) + 0.5


def linear(t: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"],
        "decoder.weight": t["W_dec"].T.contiguous(), "decoder.bias": t["b_dec"],
    }  # fmt: skip


def opened(folder: Path, release: str, sae_id: str) -> Any:
    """Return what ``SAE.from_pretrained`` makes of the files in ``folder``, laid out as in the repository."""

    def here(repo_id: str, filename: str, subfolder: str | None = None, **_: Any) -> str:
        return str(folder / (subfolder or "") / filename)

    loaders.hf_hub_download = here
    return SAE.from_pretrained_with_cfg_and_sparsity(release, sae_id, dtype="float32")[0]


def keep(folder: Path, sae: str, x: torch.Tensor, latents: torch.Tensor, recon: torch.Tensor) -> None:
    np.savez(folder / "oracle.npz", acts=x.numpy(), latents=latents.numpy(), recon=recon.reshape(len(x), -1).numpy())
    (folder / "sae.txt").write_text(sae)


def llama_scope() -> None:
    release, sae_id = "llama_scope_lxr_8x", "l18r_8x"
    nin, inside = get_norm_scaling_factor(release, sae_id), get_repo_id_and_folder_name(release, sae_id)[1]
    folder = ROOT / "llama_scope"
    (folder / inside / "checkpoints").mkdir(parents=True)
    site, norm = "blocks.18.hook_resid_post", D**0.5 / nin
    settings = {
        "hook_point_in": site, "hook_point_out": site, "d_model": D, "d_sae": S, "act_fn": "jumprelu",
        "jump_relu_threshold": 0.6, "top_k": 50, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
        "dataset_average_activation_norm": {"in": norm, "out": norm}, "apply_decoder_bias_to_pre_encoder": False,
        "use_decoder_bias": True, "use_glu_encoder": False, "expansion_factor": S // D,
    }  # fmt: skip
    (folder / inside / "hyperparams.json").write_text(json.dumps(settings))
    save_file(linear(tensors()), folder / inside / "checkpoints/final.safetensors")
    sae, x = opened(folder, release, sae_id), acts()
    latents = sae.encode(x)
    keep(folder, inside, x, latents / nin, sae.decode(latents))  # its latents are in scaled units, the authors' are not


def r1_distill() -> None:
    release, sae_id = "llama_scope_r1_distill", "l0r_800m_slimpajama"
    nin, inside = get_norm_scaling_factor(release, sae_id), get_repo_id_and_folder_name(release, sae_id)[1]
    folder, site = ROOT / "r1_distill", "blocks.0.hook_resid_post"
    (folder / inside).mkdir(parents=True)
    settings = {
        "sae_type": "sae", "hook_point_in": site, "hook_point_out": site, "d_model": D, "expansion_factor": S // D,
        "act_fn": "jumprelu", "top_k": 50, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
        "apply_decoder_bias_to_pre_encoder": False, "use_decoder_bias": True, "use_glu_encoder": False,
    }  # fmt: skip
    (folder / inside / "config.json").write_text(json.dumps(settings))
    extra = {
        "log_jumprelu_threshold": 0.3 * rand(S, seed=5),
        f"dataset_average_activation_norm.{site}": torch.tensor(D**0.5 / nin),
    }
    save_file(linear(tensors()) | extra, folder / inside / "sae_weights.safetensors")
    sae, x = opened(folder, release, sae_id), acts() / nin
    latents = sae.encode(x)
    keep(folder, inside, x, latents, sae.decode(latents))


def attention() -> None:
    release, sae_id = "gpt2-small-hook-z-kk", "blocks.0.hook_z"
    folder, inside = ROOT / "attention", get_repo_id_and_folder_name(release, sae_id)[1]
    folder.mkdir()
    settings = {"act_size": D, "dict_size": S, "act_name": "blocks.0.attn.hook_z", "model_name": "gpt2-small", "seq_len": 128}
    (folder / f"{inside.removesuffix('.pt')}_cfg.json").write_text(json.dumps(settings))
    torch.save(tensors() | {"W_dec": 1.3 * tensors()["W_dec"]}, folder / inside)
    sae, x = opened(folder, release, sae_id), acts()
    latents = sae.encode(x.view(len(x), 1, HEADS, -1))
    keep(folder, inside, x, latents[:, 0], sae.decode(latents))


if __name__ == "__main__":
    with torch.no_grad():
        llama_scope()
        r1_distill()
        attention()

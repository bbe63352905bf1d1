"""Files of OpenMOSS' SAEs in the three layouts, and random tensors for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.sae.formats.cases import D, S, rand

SITE, OUT_SITE = "blocks.18.ln2.hook_normalized", "blocks.18.hook_mlp_out"
STREAM = "blocks.18.hook_resid_post"
V1: dict[str, Any] = {
    "hook_point_in": STREAM, "hook_point_out": STREAM, "d_model": D, "d_sae": S, "expansion_factor": S / D, "act_fn": "jumprelu",
    "jump_relu_threshold": 0.7, "top_k": 5, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
    "dataset_average_activation_norm": {"in": 5.9375, "out": 5.9375}, "apply_decoder_bias_to_pre_encoder": False,
    "use_decoder_bias": True, "use_glu_encoder": False,
}  # fmt: skip
V2: dict[str, Any] = {
    "sae_type": "sae", "hook_point_in": STREAM, "hook_point_out": STREAM, "d_model": D, "expansion_factor": S / D,
    "act_fn": "jumprelu", "top_k": 5, "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True,
    "apply_decoder_bias_to_pre_encoder": False, "use_decoder_bias": True, "use_glu_encoder": False,
}  # fmt: skip
ACROSS: dict[str, Any] = {"hook_point_in": SITE, "hook_point_out": OUT_SITE}
"""Settings of a transcoder."""


def stored() -> dict[str, Tensor]:
    """Return encoder ``[D, S]``, decoder ``[S, D]`` whose rows have norms from 0.3 to 2, and biases."""
    dec = rand(S, D, seed=3)
    return {
        "W_E": 0.5 * rand(D, S, seed=1), "b_E": rand(S, seed=2),
        "W_D": dec / dec.norm(dim=1, keepdim=True) * torch.linspace(0.3, 2, S)[:, None], "b_D": rand(D, seed=4),
    }  # fmt: skip


def linear(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as versions 1 and 2 name and turn them."""
    names = {"W_E": "encoder.weight", "b_E": "encoder.bias", "W_D": "decoder.weight", "b_D": "decoder.bias"}
    return {names.get(key, key): one.T.contiguous() if one.ndim == 2 and key in names else one for key, one in t.items()}


def write(folder: Path, settings: dict[str, Any], tensors: dict[str, Tensor], where: str) -> Path:
    """Write one SAE: ``hyperparams.json`` or ``config.json`` (those with ``sae_type``), and the weights at ``where``."""
    (folder / where).parent.mkdir(parents=True, exist_ok=True)
    (folder / ("config.json" if "sae_type" in settings else "hyperparams.json")).write_text(json.dumps(settings))
    if where.endswith(".pt"):
        torch.save({"sae": tensors, "version": "0.1"}, folder / where)
    else:
        save_file(tensors, folder / where)
    return folder

"""What the tests of sae_lens share: files as it writes them, and its equations restated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.sae.formats.cases import D, S, rand

META = {"hook_name": "blocks.1.hook_resid_pre", "model_name": "gpt2", "context_size": 128, "prepend_bos": True}
ACROSS = META | {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
LEGACY = {
    "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "hook_point_head_index": None,
    "dtype": "torch.float32", "context_size": 128, "d_in": D, "d_sae": S,
}  # fmt: skip


AVERAGE = {"normalize_activations": "expected_average_only_in"}


def folder_of(folder: Path, cfg: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / "sae_weights.safetensors")
    return folder


def cfg_of(architecture: str, **more: Any) -> dict[str, Any]:
    """Return a configuration of version 6, with keys that mean nothing here."""
    meta = ACROSS if "transcoder" in architecture else META
    extra = {"dtype": "float32", "device": "cuda", "l1_coefficient": 3.0, "noise": [1, 2]}
    own = {"architecture": architecture, "d_in": D, "d_sae": S, "apply_b_dec_to_input": "transcoder" not in architecture}
    return extra | own | {"normalize_activations": "none", "reshape_activations": "none", "metadata": meta} | more


def tensors(*names: str, out: int = D) -> dict[str, Tensor]:
    shapes = {
        "W_enc": (D, S), "W_dec": (S, out), "b_enc": (S,), "b_dec": (out,), "threshold": (S,), "b_gate": (S,), "b_mag": (S,),
        "r_mag": (S,), "W_skip": (out, D), "scaling_factor": (S,),
    }  # fmt: skip
    made = {name: rand(*shapes[name], seed=at, scale=0.5) for at, name in enumerate(shapes) if name in names}
    if "threshold" in made:
        made["threshold"] = made["threshold"].abs()
    return made


def standard(out: int = D) -> dict[str, Tensor]:
    return tensors("W_enc", "W_dec", "b_enc", "b_dec", out=out)


def topk(p: Tensor, k: int, *, signed: bool = False) -> Tensor:
    """Return ``p`` with all but k entries of each row set to 0, by sorting."""
    order = (p.abs() if signed else p).argsort(1, descending=True)[:, :k]
    kept = torch.zeros_like(p).scatter(1, order, p.gather(1, order))
    return kept if signed else kept.clamp(min=0)


def jump(p: Tensor, theta: Tensor | float) -> Tensor:
    return p.clamp(min=0) * (p > theta)


def encoded(t: dict[str, Tensor], x: Tensor, shift: float = 1) -> Tensor:
    return (x - shift * t["b_dec"]) @ t["W_enc"] + t["b_enc"]


def decoded(t: dict[str, Tensor], f: Tensor) -> Tensor:
    return f @ t["W_dec"] + t["b_dec"]


def pursue(x: Tensor, w: Tensor, threshold: float, steps: int, stop: bool) -> Tensor:
    """Return the pursuit of each token on its own, a latent a step."""
    f = torch.zeros(len(x), len(w))
    for i, token in enumerate(x):
        r = token.clone()
        for _ in range(steps):
            scores = [float(r @ row) for row in w]
            best = max(range(len(w)), key=lambda j: scores[j])
            value, new = max(scores[best], 0.0), float(f[i, best]) == 0
            f[i, best] += value
            r = r - value * w[best]
            if (stop and (value == 0 or not new)) or (threshold > 0 and float(r.norm()) < threshold):
                break
    return f

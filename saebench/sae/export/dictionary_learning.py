"""For dictionary_learning: ``ae.pt`` + ``config.json``, read by ``dictionary_learning.utils.load_dictionary``."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.sae.export.fold import about, folded, hf_refusal, place, with_shift
from saebench.sae.sae import SAE, SAEConfig, SAEWeights
from saebench.store import write_atomic

FORMAT = "dictionary_learning"
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
}
_MODULES = {"hook_resid_post": "resid_post", "hook_resid_pre": "resid_pre", "hook_attn_out": "attn", "hook_mlp_out": "mlp"}
_UNIT = 5e-6  # load_dictionary rescales an AutoEncoder whose rows are further than 1e-5 from length 1


def refusal(c: SAEConfig, skip: bool) -> str | None:
    """Return why dictionary_learning cannot hold it, or ``None``."""
    if c.activation not in ("relu", "topk", "jumprelu", "gated"):
        return f"dictionary_learning has no {c.activation} SAE"
    if skip or c.site_out not in (None, c.site) or c.d_in != c.d_out:
        return "dictionary_learning has no transcoders and no skip connections"
    return hf_refusal(c, "dictionary_learning")


def notes(sae: SAE) -> list[str]:
    """Return what dictionary_learning has no place for or names otherwise."""
    c, told = sae.config, []
    if c.site is not None and "submodule_name" not in _where(c.site):
        told.append(f"dictionary_learning has no name for {c.site}, so its config.json names no module")
    if c.prepend_bos is not None:
        told.append(f"dictionary_learning has no place for prepend_bos, which is {str(c.prepend_bos).lower()}")
    if c.activation == "jumprelu" and c.k is None and _kind(c, sae.weights) == "BatchTopKSAE":
        told.append("the k of training is not known and is written as 1; only encode(use_threshold=False) would use it")
    return told


def write(sae: SAE, folder: Path, told: list[str]) -> Path:
    """Write the two files and return ``folder``."""
    c, w = sae.config, folded(sae)
    kind = _kind(c, w)
    w = with_shift(w, None if kind in ("AutoEncoderNew", "JumpReluAutoEncoder") else w.b_dec)
    trainer: dict[str, Any] = {
        "trainer_class": _TRAINERS[kind], "dict_class": kind, "activation_dim": c.d_in, "dict_size": c.d_sae,
        "lm_name": c.model_id,
    }  # fmt: skip
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        trainer["k"] = c.k or 1
    where = _where(c.site)
    buffer = {"d_submodule": c.d_in, "io": where.pop("io", "out"), "ctx_len": c.context_length}
    config = {"trainer": trainer | where, "buffer": buffer, "saebench": about(sae, told)}
    packed = io.BytesIO()
    torch.save(_tensors(kind, w, trainer.get("k")), packed)
    write_atomic(folder / "ae.pt", packed.getvalue())
    write_atomic(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())
    return folder


def _kind(c: SAEConfig, w: SAEWeights) -> str:
    """Return the library's class for folded weights (a jumprelu's threshold alone is the same before folding)."""
    if c.activation == "relu":  # the library rescales an AutoEncoder as it loads it, but not an AutoEncoderNew
        unit = (w.W_dec.norm(dim=1) - 1).abs() < _UNIT
        return "AutoEncoder" if bool(unit.all()) else "AutoEncoderNew"
    if c.activation == "jumprelu":
        # relu(p)·[p > θ] with θ < 0 is relu(p), which readers of BatchTopKSAE take for a threshold never estimated
        scalar = w.threshold is not None and w.threshold.numel() == 1 and bool(w.threshold >= 0)
        return "BatchTopKSAE" if scalar else "JumpReluAutoEncoder"
    return {"topk": "AutoEncoderTopK", "gated": "GatedAutoEncoder"}[c.activation]


def _where(site: str | None) -> dict[str, Any]:
    """Return the keys that name the module; ``layer`` is the block whose output is read, which is what its users go by."""
    found = place(site)
    if found is None or found[1] not in _MODULES:
        return {}
    block, tail = found
    where: dict[str, Any] = {"layer": block, "submodule_name": f"{_MODULES[tail]}_layer_{block}"}
    if tail == "hook_resid_pre":
        where |= {"layer": block - 1} if block else {"io": "in"}
    return where


def _tensors(kind: str, w: SAEWeights, k: int | None) -> dict[str, Tensor]:
    if kind == "JumpReluAutoEncoder":
        assert w.threshold is not None
        threshold = w.threshold.expand(len(w.b_enc)).clone()
        return {"W_enc": w.W_enc, "b_enc": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec, "threshold": threshold}
    linear = {"encoder.weight": w.W_enc.T.contiguous(), "decoder.weight": w.W_dec.T.contiguous()}
    if kind == "GatedAutoEncoder":
        assert w.b_gate is not None and w.b_mag is not None and w.r_mag is not None
        return linear | {"decoder_bias": w.b_dec, "gate_bias": w.b_gate, "mag_bias": w.b_mag, "r_mag": w.r_mag}
    linear["encoder.bias"] = w.b_enc
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return linear | {"bias" if kind == "AutoEncoder" else "decoder.bias": w.b_dec}
    threshold = torch.tensor(-1.0) if w.threshold is None else w.threshold.reshape(()).clone()
    return linear | {"b_dec": w.b_dec, "k": torch.tensor(k, dtype=torch.int), "threshold": threshold}

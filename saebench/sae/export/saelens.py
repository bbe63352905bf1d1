"""For sae_lens (version 6): ``cfg.json`` + ``sae_weights.safetensors``, read by ``sae_lens.SAE.load_from_disk``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from saebench.sae.export.fold import PER_TOKEN, folded, near_output_bias, with_shift
from saebench.sae.sae import SAE, SAEConfig, SAEWeights
from saebench.store import write_atomic

FORMAT = "sae_lens"
_LAYOUT = "6.0.0"  # anything below makes sae_lens read the file as one of its early configurations
_ARCHITECTURES = {"relu": "standard", "topk": "topk", "abstopk": "abstopk", "jumprelu": "jumprelu", "gated": "gated"}
_NORMALISATIONS = {"unit_norm": "constant_norm_rescale", "layer_norm": "layer_norm"}


def refusal(c: SAEConfig, skip: bool) -> str | None:
    """Return why sae_lens cannot hold it, or ``None``."""
    if c.activation == "matching_pursuit":
        return "its matching_pursuit is not among what is written for sae_lens"
    if c.activation not in _ARCHITECTURES:
        return f"sae_lens has no {c.activation} SAE"
    if not _transcodes(c, skip):
        return None
    if c.activation not in ("relu", "jumprelu"):
        return f"the transcoders of sae_lens are relu or jumprelu, this one is {c.activation}"
    if skip and c.normalisation in PER_TOKEN:
        return f"sae_lens leaves the input of the skip connection without {c.normalisation}, which this SAE applies to it"
    return None


def notes(sae: SAE) -> list[str]:
    """Return what sae_lens has no place for: nothing."""
    del sae
    return []


def write(sae: SAE, folder: Path, told: list[str]) -> Path:
    """Write the two files and return ``folder``."""
    from safetensors.torch import save

    del told
    c, w = sae.config, folded(sae)
    transcodes = _transcodes(c, w.W_skip is not None)
    subtract = not transcodes and near_output_bias(w)
    w = with_shift(w, w.b_dec if subtract else None)
    architecture = _ARCHITECTURES[c.activation]
    if transcodes:
        jump = "jumprelu_" if c.activation == "jumprelu" else ""
        architecture = f"{jump}{'skip_' if w.W_skip is not None else ''}transcoder"
    cfg: dict[str, Any] = {
        "d_in": c.d_in, "d_sae": c.d_sae, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": subtract,
        "normalize_activations": _NORMALISATIONS.get(c.normalisation, "none"),
        "reshape_activations": "hook_z" if (c.site or "").endswith(".hook_z") and not transcodes else "none",
        "metadata": _metadata(c, transcodes), "architecture": architecture,
    }  # fmt: skip
    if c.activation in ("topk", "abstopk"):
        cfg |= {"k": c.k, "rescale_acts_by_decoder_norm": False}
    if transcodes:
        cfg["d_out"] = c.d_out
    write_atomic(folder / "sae_weights.safetensors", save(_tensors(c, w)))
    write_atomic(folder / "cfg.json", (json.dumps(cfg, indent=1) + "\n").encode())
    return folder


def _transcodes(c: SAEConfig, skip: bool) -> bool:
    return skip or c.site_out not in (None, c.site) or c.d_in != c.d_out


def _metadata(c: SAEConfig, transcodes: bool) -> dict[str, Any]:
    site_out = c.site_out or (c.site if transcodes else None)  # an SAE that skips past its latents writes where it reads
    told = {
        "sae_lens_version": _LAYOUT, "hook_name": c.site, "hook_name_out": site_out, "model_name": c.model_id,
        "context_size": c.context_length, "prepend_bos": c.prepend_bos, "training_architecture": c.architecture,
        "model_from_pretrained_kwargs": {"center_writing_weights": c.residual == "centred"},
    }  # fmt: skip
    return {key: value for key, value in told.items() if value is not None}


def _tensors(c: SAEConfig, w: SAEWeights) -> dict[str, Tensor]:
    tensors = {"W_enc": w.W_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
    if w.b_gate is not None and w.b_mag is not None and w.r_mag is not None:
        return tensors | {"b_gate": w.b_gate, "b_mag": w.b_mag, "r_mag": w.r_mag}
    tensors["b_enc"] = w.b_enc
    if w.threshold is not None and c.activation == "jumprelu":
        tensors["threshold"] = w.threshold.expand(c.d_sae).clone()
    if w.W_skip is not None:
        tensors["W_skip"] = w.W_skip.T.contiguous()
    return tensors

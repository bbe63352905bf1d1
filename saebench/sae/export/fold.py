"""What all exports share: float32 copies of the weights, with a constant scale and a changed ``b_in`` folded into them."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.sae.sae import SAE, SAEConfig, SAEWeights

_COLUMNS = 8192
PER_TOKEN = ("unit_norm", "layer_norm")


def folded(sae: SAE) -> SAEWeights:
    """Return float32 weights on the CPU that need no ``constant_scale``: (s·x − b_in) W = (x − b_in/s) (s·W).

    Where the scale is undone at the end (not in transcoders), W_dec and b_dec are divided by it.
    """
    w = SAEWeights(**{name: t.detach().to("cpu", torch.float32, copy=True).contiguous() for name, t in sae.weights.items()})
    c = sae.config
    if c.normalisation != "constant_scale" or not c.norm_scale or c.norm_scale == 1:
        return w
    s = float(c.norm_scale)
    w = replace(w, W_enc=w.W_enc * s, b_in=None if w.b_in is None else w.b_in / s)
    if sae.is_transcoder:
        return replace(w, W_skip=None if w.W_skip is None else w.W_skip * s)
    return replace(w, W_dec=w.W_dec / s, b_dec=w.b_dec / s)


def near_output_bias(w: SAEWeights) -> bool:
    """Return whether ``b_in`` is nearer to ``b_dec`` than to nothing, so that less of it must be folded into ``b_enc``.

    What is folded costs digits: with acts of mean norm 2000, folding all of ``b_in`` changed latents by 6e-6.
    """
    return w.b_in is not None and bool((w.b_in - w.b_dec).norm() < w.b_in.norm())


def with_shift(w: SAEWeights, shift: Float[Tensor, " D"] | None) -> SAEWeights:
    """Return the same SAE with ``b_in`` = ``shift``: (x − b) W + b_enc = (x − shift) W + b_enc + (shift − b) W.

    Args:
        w: Weights.
        shift: What the encoder shall take off its input; nothing if ``None``.
    """
    before, after = (torch.zeros(len(w.W_enc)) if b is None else b for b in (w.b_in, shift))
    if torch.equal(before, after):
        return replace(w, b_in=shift)
    moved = after.double() - before.double()
    change = torch.cat([moved @ part.double() for part in w.W_enc.split(_COLUMNS, dim=1)])
    if w.b_gate is None or w.b_mag is None or w.r_mag is None:
        return replace(w, b_in=shift, b_enc=(w.b_enc + change).float())
    return replace(w, b_in=shift, b_gate=(w.b_gate + change).float(), b_mag=(w.b_mag + change * w.r_mag.double().exp()).float())


def hf_refusal(c: SAEConfig, library: str) -> str | None:
    """Return why a library without input normalisation, which reads Hugging Face's own activations, cannot hold it."""
    if c.normalisation in PER_TOKEN:
        return f"{c.normalisation} depends on each token, so it cannot be folded into weights, and {library} has none at run time"
    if c.residual == "centred":
        return f"it expects the residual stream less its mean over dimensions, and {library} reads the stream as the model has it"
    return None


def place(site: str | None) -> tuple[int, str] | None:
    """Return (block, rest of the hook name) of a site in a block."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)", site or "")
    return (int(found[1]), found[2]) if found else None


def about(sae: SAE, notes: list[str]) -> dict[str, object]:
    """Return what the library's own keys cannot say, for people; loaders ignore it."""
    c = sae.config
    told = {"site": c.site, "site_out": c.site_out, "model_id": c.model_id, "context_length": c.context_length}
    return told | {"prepend_bos": c.prepend_bos, "architecture": c.architecture, "sha256": sae.sha256, "notes": notes}

"""Arithmetic that several recipes share: geometric median, unit rows, and which latents fired.

Letters: ``D`` width of the site, ``S`` d_sae, ``B`` acts of a batch, ``Z`` active latents of the batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .sparse import Active


@torch.no_grad()
def geometric_median(x: Float[Tensor, "n D"], *, iterations: int = 100, tolerance: float = 1e-6) -> Float[Tensor, " D"]:
    """Return the point with the least summed distance to the rows (Weiszfeld's iteration), in float64 inside.

    Args:
        x: Sample of acts.
        iterations: Steps at most.
        tolerance: Relative move at which to stop.
    """
    rows = x.double()
    median = rows.mean(0)
    for _ in range(iterations):
        weight = 1 / (rows - median).norm(dim=1).clamp_min(1e-12)
        moved = (weight[:, None] * rows).sum(0) / weight.sum()
        if (moved - median).norm() <= tolerance * median.norm().clamp_min(1e-12):
            median = moved
            break
        median = moved
    return median.to(x.dtype)


@torch.no_grad()
def unit_rows_(w: Float[Tensor, "S D"]) -> None:
    """Give every row norm 1, in place."""
    w.div_(w.norm(dim=1, keepdim=True).clamp_min(1e-12))


@torch.no_grad()
def drop_parallel_(w: nn.Parameter) -> None:
    """Take from the gradient of unit rows the part along the rows, in place."""
    if w.grad is not None:
        along = torch.linalg.vecdot(w.grad, w)[:, None]
        torch.addcmul(w.grad, along, w, value=-1, out=w.grad)


def random_unit_rows(s: int, d: int, generator: torch.Generator) -> Float[Tensor, "S D"]:
    """Return ``s`` random directions."""
    w = torch.randn(s, d, generator=generator)
    unit_rows_(w)
    return w


def near_identity(w_dec: Float[Tensor, "S D"]) -> Float[Tensor, "S D"]:
    """Return an encoder for unit decoder rows with which a ReLU SAE begins near the identity: the rows, times 2D/S, at most 1.

    For S random directions Σ ReLU(c d·x) d is about c S/(2D) x; without the factor a wide SAE overshoots S/(2D) times at first.
    """
    s, d = w_dec.shape
    return w_dec * min(1.0, 2 * d / s)


@torch.no_grad()
def with_unit_decoder(
    w_enc: Float[Tensor, "S D"], b_enc: Float[Tensor, " S"], w_dec: Float[Tensor, "S D"], b_dec: Float[Tensor, " D"]
) -> tuple[dict[str, Tensor], Float[Tensor, " S"]]:
    """Return (fields of :class:`saebench.sae.SAEWeights` for the same function with unit decoder rows, the norms of the rows)."""
    norm = w_dec.norm(dim=1).clamp_min(1e-12)
    fields = {
        "W_enc": (w_enc * norm[:, None]).T.contiguous(), "b_enc": b_enc * norm, "W_dec": w_dec / norm[:, None],
        "b_dec": b_dec.clone(),
    }  # fmt: skip
    return fields, norm


@torch.no_grad()
def fired_in(active: Active, d_sae: int) -> Bool[Tensor, " S"]:
    """Return which latents are ≠ 0 in any row, without waiting for the device."""
    flags = torch.zeros(d_sae, dtype=active.values.dtype, device=active.values.device)
    return flags.scatter_reduce_(0, active.indices, (active.values != 0).to(flags.dtype), "amax").bool()

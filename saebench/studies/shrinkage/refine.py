"""Refinement: each token keeps its active latents, and their activations become those that reconstruct it best.

Letters: ``N`` tokens, ``n`` tokens of one chunk, ``D`` width read, ``O`` width written, ``S`` d_sae, ``Z`` entries ≠ 0, ``K``
most entries of a token in a chunk.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.sae import SAE, Latents
from saebench.studies.shrinkage.solve import solve

_CHUNK_BYTES = 96 << 20
_SIGNED = ("signed_topk", "abstopk")


class Refined(NamedTuple):
    """The latents again, entry by entry those that were given, with other values; some may be 0."""

    latents: Latents
    settled: Bool[Tensor, " N"]
    """Whether the token's minimum was found; if not, its values are the best that were, or unchanged."""
    left: Bool[Tensor, " N"]
    """Tokens that were left as they are because they have more than ``max_active`` latents."""


def is_signed(sae: SAE) -> bool:
    """Return whether the SAE's activations can be negative."""
    return sae.config.activation in _SIGNED


def refine(
    sae: SAE,
    acts: Float[Tensor, "N D"],
    target: Float[Tensor, "N O"],
    latents: Latents,
    recon: Float[Tensor, "N O"],
    *,
    max_active: int,
) -> Refined:
    """Return the latents with values z that minimise ‖target − recon‖², no latent added; z ≥ 0 unless activations have signs.

    recon = s · (z W_dec) + r, where the scale s and the rest r (bias, skip, what normalisation took off) do not depend on z.
    With e = (target − recon)/s at the given values, a token's problem knows its own active rows of W_dec only; tokens of
    similar L0 are solved together, a bounded number at a time, in float64.

    Args:
        sae: Whose latents they are.
        acts: What was encoded.
        target: What recons should be.
        latents: As ``encode`` gives them.
        recon: Their recon.
        max_active: Tokens with more active latents are left as they are: time grows with the cube, memory with the square.

    Source: Gao et al. 2024, arXiv 2406.04093, §5.1.
    """
    scale = sae.output_scale(acts).double()
    error = torch.where(scale > 0, (target.double() - recon.double()) / scale, 0.0)
    l0 = latents.l0()
    left = l0 > max_active
    settled = l0 == 0
    values = latents.values.double()
    order = torch.argsort(l0, stable=True)
    order = order[((l0 > 0) & ~left)[order]]
    start = 0
    while start < len(order):
        tokens = order[start : start + _tokens_of_chunk(l0[order[start:]], sae.config.d_out)]
        entries, there = _entries(latents, tokens)
        z = torch.where(there, values[entries], 0.0)
        solved, good = _solve_chunk(sae, latents.indices[entries].long(), there, z, error[tokens])
        values[entries[there]] = solved[there]
        settled[tokens] = good
        start += len(tokens)
    new = Latents(values=values.to(latents.values.dtype), indices=latents.indices, offsets=latents.offsets, d_sae=latents.d_sae)
    return Refined(new, settled, left)


def without_zeros(latents: Latents) -> Latents:
    """Return the entries ≠ 0, as latents are held elsewhere."""
    kept = latents.values != 0
    counts = torch.bincount(latents.rows()[kept], minlength=len(latents))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Latents(values=latents.values[kept], indices=latents.indices[kept], offsets=offsets, d_sae=latents.d_sae)


def _solve_chunk(
    sae: SAE, indices: Int[Tensor, "n K"], there: Bool[Tensor, "n K"], z: Float[Tensor, "n K"], error: Float[Tensor, "n O"]
) -> tuple[Float[Tensor, "n K"], Bool[Tensor, " n"]]:
    rows = sae.W_dec[indices].double() * there[..., None]
    length = rows.norm(dim=2)
    length = torch.where(length > 0, length, 1.0)  # a row of zeros: its value moves nothing and stays
    rows /= length[..., None]
    gram = rows @ rows.transpose(1, 2)
    slope = (rows @ error[..., None])[..., 0]
    del rows
    found = solve(gram, slope, z * length, nonnegative=not is_signed(sae))
    return found.z / length, found.settled


def _tokens_of_chunk(l0: Int[Tensor, " n"], width: int) -> int:
    """Return how many tokens from the first, in the order of their L0, one chunk holds."""
    size = 8 * l0 * (2 * width + 5 * l0)
    total = size * torch.arange(1, len(l0) + 1, device=l0.device)
    return max(1, int((total <= _CHUNK_BYTES).sum()))


def _entries(latents: Latents, tokens: Int[Tensor, " n"]) -> tuple[Int[Tensor, "n K"], Bool[Tensor, "n K"]]:
    """Return the places of the tokens' entries, rows of one length, and which of them are theirs."""
    first, l0 = latents.offsets[:-1][tokens], latents.l0()[tokens]
    place = torch.arange(int(l0.max()), device=tokens.device)
    there = place < l0[:, None]
    return torch.where(there, first[:, None] + place, 0), there

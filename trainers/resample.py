"""Resampling: dead latents start again towards the acts that are reconstructed worst.

Source: Bricken et al. 2023, "Towards Monosemanticity", appendix on training. Letters: ``B`` acts of a batch, ``D`` width.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .ranks import Ranks
from .rows import unit_rows_

_SIZE = 0.2
"""Norm of a new encoder row, over the mean norm of the living ones."""


@runtime_checkable
class ReluParameters(Protocol):
    """What is resampled."""

    w_enc: nn.Parameter
    w_dec: nn.Parameter
    b_enc: nn.Parameter
    b_dec: nn.Parameter


@torch.no_grad()
def resample(
    sae: ReluParameters, x: Float[Tensor, "B D"], error: Float[Tensor, " B"], dead: Int[Tensor, " n"],
    generator: torch.Generator, ranks: Ranks,
) -> None:  # fmt: skip
    """Point the ``dead`` latents at acts drawn with chance ∝ (squared error)², in place.

    Args:
        sae: The parameters.
        x: Acts of the last batch.
        error: Their squared errors.
        dead: The latents; at least one.
        generator: Draws the acts, alike on all ranks.
        ranks: Slices of the batch are put together first.
    """
    if ranks.split_data:
        x, error = ranks.gather(x).flatten(0, 1), ranks.gather(error).flatten()
    chance = (error.double().square() / error.double().square().sum()).cpu()
    chosen = torch.multinomial(chance, len(dead), replacement=len(dead) > len(x), generator=generator).to(x.device)
    directions = x[chosen] - sae.b_dec
    unit_rows_(directions)
    alive = torch.ones(len(sae.w_enc), dtype=torch.bool, device=x.device)
    alive[dead] = False
    norms = sae.w_enc.norm(dim=1)
    size = norms[alive].mean() if bool(alive.any()) else norms.mean()
    sae.w_dec.data[dead] = directions
    sae.w_enc.data[dead] = _SIZE * size * directions
    sae.b_enc.data[dead] = 0

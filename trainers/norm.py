"""How a recipe's acts are normalised; the saved SAE does the same and undoes it.

Letters: ``B`` acts of a batch, ``D`` width of the site.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.sae.sae import Normalisation


class Norm(NamedTuple):
    """A normalisation as :class:`saebench.sae.SAEConfig` has it: ``normalisation`` and ``norm_scale``."""

    kind: Normalisation = "none"
    scale: float | None = None
    centred: bool = False
    """Whether the mean over D is taken out first, as ``center_writing_weights`` does to a residual stream."""

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return acts as the SAE will see them."""
        if self.centred:
            x = x - x.mean(1, keepdim=True)
        if self.kind == "layer_norm":
            centred = x - x.mean(1, keepdim=True)
            return centred / (centred.std(1, keepdim=True) + 1e-5)
        if self.kind == "unit_norm":
            return x * (x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True))
        return x if self.scale is None else x * self.scale


def fit(kind: str, sample: Float[Tensor, "n D"], *, centred: bool = False) -> Norm:
    """Return the normalisation called ``kind`` for acts like ``sample``.

    ``none``; ``layer_norm``; ``root_width``: one factor for all acts so that the mean norm is √D (Anthropic, "Circuits
    Updates", April 2024); ``unit``: so that the mean squared norm is 1 (Rajamanoharan et al. 2024, arXiv 2407.14435).
    """
    x = Norm(centred=centred)(sample).double()
    if kind == "root_width":
        return Norm("constant_scale", float(x.shape[1] ** 0.5 / x.norm(dim=1).mean()), centred)
    if kind == "unit":
        return Norm("constant_scale", float(x.square().sum(1).mean().rsqrt()), centred)
    if kind == "layer_norm":
        return Norm("layer_norm", centred=centred)
    return Norm(centred=centred)

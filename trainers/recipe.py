"""What a recipe is: parameters, a loss, constraints, and the SAE it ends in.

Letters: ``B`` acts of a batch, ``D`` width of the site, ``S`` d_sae.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.sae import SAEWeights
from saebench.sae.sae import Normalisation

from .config import RecipeSettings


class Losses(NamedTuple):
    """What one batch gives."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]
    """Scalars for the log."""
    recon: Float[Tensor, "B D"]
    """Of the normalised acts, detached."""
    fired: Bool[Tensor, " S"]
    """Latents ≠ 0 anywhere in the batch."""
    l0: Float[Tensor, ""]
    """Mean number of latents ≠ 0."""


class Recipe(nn.Module, ABC):
    """One way to train an SAE.

    Args:
        settings: The recipe's settings.
        sample: Normalised acts ``[n, D]``, for what starts from data.
        generator: Source of all randomness, on the CPU.
    """

    Settings: ClassVar[type[RecipeSettings]]
    architecture: ClassVar[str]
    normalisation: ClassVar[Normalisation] = "none"
    """How acts are normalised before the SAE sees them, as in :class:`saebench.sae.SAEConfig`."""

    def __init__(self, settings: Any, sample: Float[Tensor, "n D"], generator: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.d_in, self.d_sae = sample.shape[1], settings.d_sae

    @abstractmethod
    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return the losses of one batch.

        Args:
            x: Normalised acts.
            since_fired: Acts seen since each latent last fired.
            step: Number of the step, from 0.
        """

    @abstractmethod
    def weights(self) -> SAEWeights:
        """Return the trained tensors for inference, detached."""

    @abstractmethod
    def sae_fields(self) -> dict[str, Any]:
        """Return the fields of :class:`saebench.sae.SAEConfig` that change the arithmetic, such as activation and k."""

    def after_backward(self) -> None:
        """Change gradients, before they are clipped."""

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Restore constraints, after the optimiser's step."""
        del optimizer, step, since_fired


@torch.no_grad()
def normalise(x: Float[Tensor, "B D"], kind: str) -> Float[Tensor, "B D"]:
    """Return acts as the SAE's own ``normalisation`` will see them at inference."""
    if kind == "layer_norm":
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.std(1, keepdim=True) + 1e-5)
    return x


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
        w.grad.sub_((w.grad * w).sum(1, keepdim=True) * w)

"""The recipe: a ReLU SAE whose penalty is Σ√f, which leaves large latents nearly alone."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.trainers.config import Positive, Weight
from saebench.trainers.recipe import Losses
from saebench.trainers.recipes.relu_april import ReluApril, ReluAprilSettings


class ReluHalfSettings(ReluAprilSettings):
    """Settings of ``relu-half``; the others are those of ``relu-april``."""

    l1: Weight = 1.0
    """Coefficient of the penalty."""
    rounding: Positive = 1e-3
    """c of √(f + c) − √c, which has a slope at 0."""


class ReluHalf(ReluApril):
    """relu-april with Σ √(f ‖d‖) in the place of Σ f ‖d‖."""

    Settings = ReluHalfSettings

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return squared error + penalty."""
        c = self.settings
        f = torch.addmm(self.b_enc, x, self.w_enc.T).relu()
        recon = f @ self.w_dec + self.b_dec
        error = (recon - x).square().sum(1).mean()
        penalty = ((f * self.w_dec.norm(dim=1) + c.rounding).sqrt() - c.rounding**0.5).sum(1).mean()
        total = error + c.l1 * self.risen(c.l1_warmup_share, step) * penalty
        active = f.detach() != 0
        parts = {"mse": error.detach() / self.d_in, "penalty": penalty.detach()}
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

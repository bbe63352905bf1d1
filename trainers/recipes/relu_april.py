"""``relu-april``: Anthropic, "Circuits Updates, April 2024: Update on how we train SAEs".

f = ReLU(x W_enc + b_enc), x̂ = f W_dec + b_dec, loss = ‖x − x̂‖² + l1 · Σ f_i ‖d_i‖ with d_i the decoder rows, which are free.
Acts are scaled to mean norm √D; l1 rises linearly over the first 5% of the run; the learning rate falls over the last 20%.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Natural, Positive, RecipeSettings, Share, Weight
from ..recipe import Losses, Recipe, Start
from ..rows import random_unit_rows, with_unit_decoder

_FIRST_NORM = 0.1


class ReluAprilSettings(RecipeSettings):
    """Settings of ``relu-april``, with the source's values."""

    d_sae: Natural = 24_576
    lr: Positive = 5e-5
    lr_decay_share: Share = 0.2
    grad_clip: Positive | None = 1.0
    l1: Weight = 5.0
    l1_warmup_share: Share = 0.05
    """Share of the run over which l1 rises from 0."""


@RECIPES.register("relu-april")
class ReluApril(Recipe):
    """ReLU SAE with a free decoder and an L1 penalty weighted by its norms; saved with unit rows, as the same function."""

    Settings = ReluAprilSettings
    architecture = "standard"

    def __init__(self, settings: ReluAprilSettings, start: Start) -> None:
        super().__init__(settings, start)
        w = _FIRST_NORM * random_unit_rows(self.d_sae, self.d_in, start.generator)
        self.w_dec = nn.Parameter(w)
        self.w_enc = nn.Parameter(w.clone())
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @classmethod
    def norm_kind(cls, settings: Any) -> str:
        """Return root_width."""
        del settings
        return "root_width"

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return squared error + weighted L1."""
        f = torch.addmm(self.b_enc, x, self.w_enc.T).relu()
        recon = f @ self.w_dec + self.b_dec
        error = (recon - x).square().sum(1).mean()
        l1 = (f @ self.w_dec.norm(dim=1)).mean()
        total = error + self.settings.l1 * self.risen(self.settings.l1_warmup_share, step) * l1
        active = f.detach() != 0
        parts = {"mse": error.detach() / self.d_in, "l1": l1.detach()}
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "relu"}

    def weights(self) -> SAEWeights:
        """Return the same function with unit decoder rows."""
        fields, _ = with_unit_decoder(*(p.detach() for p in (self.w_enc, self.b_enc, self.w_dec, self.b_dec)))
        return SAEWeights(**fields)

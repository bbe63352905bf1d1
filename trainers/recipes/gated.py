"""``gated``: Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders" (arXiv 2404.16014).

π = (x − b_dec) W + b_gate; f = 1[π > 0] · ReLU(exp(r_mag) · (x − b_dec) W + b_mag); x̂ = f W_dec + b_dec;
loss = ‖x − x̂‖² + l1 · Σ ReLU(π) + ‖x − x̂_frozen(ReLU(π))‖² (eq. 8 there); unit-norm decoder rows.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Decay, Natural, Positive, RecipeSettings, Share, Weight
from ..recipe import Losses, Recipe, Start
from ..rows import drop_parallel_, geometric_median, near_identity, random_unit_rows, unit_rows_


class GatedSettings(RecipeSettings):
    """Settings of ``gated``; Adam and learning rate as in the source's appendix on training."""

    d_sae: Natural = 24_576
    lr: Positive = 3e-4
    lr_warmup_steps: Natural = 1_000
    adam_beta1: Decay = 0.0
    l1: Weight = 0.1
    """Coefficient at acts of mean squared norm 1; tune it for the L0 wanted."""
    l1_warmup_share: Share = 0.05
    """Share of the run over which l1 rises from 0."""


@RECIPES.register("gated")
class Gated(Recipe):
    """Gated SAE on acts scaled to mean squared norm 1."""

    Settings = GatedSettings
    architecture = "gated"

    def __init__(self, settings: GatedSettings, start: Start) -> None:
        super().__init__(settings, start)
        w = random_unit_rows(self.d_sae, self.d_in, start.generator)
        self.w_dec = nn.Parameter(w)
        self.w_enc = nn.Parameter(near_identity(w))
        self.b_gate, self.b_mag, self.r_mag = (nn.Parameter(torch.zeros(self.d_sae)) for _ in range(3))
        self.b_dec = nn.Parameter(geometric_median(start.sample).cpu())

    @classmethod
    def norm_kind(cls, settings: Any) -> str:
        """Return unit."""
        del settings
        return "unit"

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return squared error + L1 of the gate + squared error of the gate alone through the frozen decoder."""
        pre = (x - self.b_dec) @ self.w_enc.T
        gate = (pre + self.b_gate).relu()
        f = (gate > 0) * (pre * self.r_mag.exp() + self.b_mag).relu()
        recon = f @ self.w_dec + self.b_dec
        error = (recon - x).square().sum(1).mean()
        l1 = gate.sum(1).mean()
        aux = (gate @ self.w_dec.detach() + self.b_dec.detach() - x).square().sum(1).mean()
        total = error + self.settings.l1 * self.risen(self.settings.l1_warmup_share, step) * l1 + aux
        active = f.detach() != 0
        parts = {"mse": error.detach() / self.d_in, "l1": l1.detach(), "aux": aux.detach()}
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

    def after_backward(self) -> None:
        """Drop the gradient's part along the decoder rows."""
        drop_parallel_(self.w_dec)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Keep decoder rows at unit norm."""
        unit_rows_(self.w_dec.data)

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "gated"}

    def weights(self) -> SAEWeights:
        """Return encoder, decoder, gate and magnitude."""
        b, s = self.b_dec.detach().clone(), self.d_sae
        gate, mag, r = (p.detach().clone() for p in (self.b_gate, self.b_mag, self.r_mag))
        w_enc = self.w_enc.detach().T.contiguous()
        return SAEWeights(
            W_enc=w_enc, b_enc=torch.zeros(s, device=b.device), W_dec=self.w_dec.detach().clone(), b_dec=b, b_in=b,
            b_gate=gate, b_mag=mag, r_mag=r,
        )  # fmt: skip

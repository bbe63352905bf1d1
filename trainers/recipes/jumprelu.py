"""``jumprelu``: Rajamanoharan et al. 2024, "Jumping ahead" (arXiv 2407.14435), and Anthropic, "Circuits Updates, January 2025".

π = x W_enc + b_enc, f = π · 1[π > θ], x̂ = f W_dec + b_dec; loss = ‖x − x̂‖² + sparsity(f). θ = exp(log θ) learns through
straight-through estimators with a rectangular kernel K of width ε: ∂f/∂θ = −(θ/ε) K((π − θ)/ε),
∂1[π > θ]/∂θ = −(1/ε) K((π − θ)/ε).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Decay, Natural, Positive, RecipeSettings, Share, Weight
from ..recipe import Losses, Recipe, Start
from ..rows import drop_parallel_, random_unit_rows, unit_rows_, with_unit_decoder


class JumpReluSettings(RecipeSettings):
    """Settings of ``jumprelu``. Where a value is ``None`` it is the chosen penalty's own."""

    d_sae: Natural = 24_576
    lr: Positive = 7e-5
    lr_warmup_steps: Natural = 1_000
    lr_decay_share: Share = 0.2
    adam_beta1: Decay = 0.0
    penalty: Literal["l0", "tanh"] = "l0"
    """``l0``: λ ‖f‖₀ on acts of mean squared norm 1, unit decoder rows. ``tanh``: λ Σ tanh(4 f_i ‖d_i‖) on acts of mean norm √D,
    free decoder, and straight-through gradients reach the encoder as well."""
    coefficient: Weight | None = None
    """λ: 1e-3 for l0, 20 for tanh; tune it for the L0 wanted."""
    warmup_share: Share | None = None
    """Share of the run over which λ rises from 0: 0.1 for l0, all of it for tanh."""
    bandwidth: Positive | None = None
    """ε: 1e-3 for l0, 2 for tanh."""
    threshold: Positive | None = None
    """θ at the start: 1e-3 for l0, 0.1 for tanh."""
    pre_act_coefficient: Weight | None = None
    """Of Σ ReLU(θ − π_i) ‖d_i‖, which pulls silent latents up: 0 for l0, 3e-6 for tanh."""


_OWN = {
    "l0": {"coefficient": 1e-3, "warmup_share": 0.1, "bandwidth": 1e-3, "threshold": 1e-3, "pre_act_coefficient": 0.0},
    "tanh": {"coefficient": 20.0, "warmup_share": 1.0, "bandwidth": 2.0, "threshold": 0.1, "pre_act_coefficient": 3e-6},
}
_TANH_SCALE = 4.0


@RECIPES.register("jumprelu")
class JumpRelu(Recipe):
    """JumpReLU SAE with a learned threshold a latent."""

    Settings = JumpReluSettings
    architecture = "jumprelu"

    def __init__(self, settings: JumpReluSettings, start: Start) -> None:
        super().__init__(settings, start)
        self.tanh = settings.penalty == "tanh"
        given = {name: getattr(settings, name) for name in _OWN[settings.penalty]}
        self.own = {name: value if given[name] is None else given[name] for name, value in _OWN[settings.penalty].items()}
        if self.own["threshold"] <= 0 or self.own["bandwidth"] <= 0:
            raise InputError(f"threshold={self.own['threshold']} and bandwidth={self.own['bandwidth']} must be above 0")
        w = random_unit_rows(self.d_sae, self.d_in, start.generator)
        self.w_dec = nn.Parameter(w)
        self.w_enc = nn.Parameter(w * (self.d_in / self.d_sae if self.tanh else 1.0))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(start.sample.mean(0).cpu())
        self.log_threshold = nn.Parameter(torch.full((self.d_sae,), math.log(self.own["threshold"])))

    @classmethod
    def norm_kind(cls, settings: JumpReluSettings) -> str:
        """Return root_width for tanh, unit for l0."""
        return "root_width" if settings.penalty == "tanh" else "unit"

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return squared error + sparsity (+ pre-activation loss)."""
        own = self.own
        pre = torch.addmm(self.b_enc, x, self.w_enc.T)
        if not self.tanh:
            pre = pre.relu()
        threshold = self.log_threshold.exp()
        f = _Jump.apply(pre, threshold, own["bandwidth"], self.tanh)
        recon = f @ self.w_dec + self.b_dec
        error = (recon - x).square().sum(1).mean()
        norms = self.w_dec.norm(dim=1)
        if self.tanh:
            sparsity = torch.tanh(_TANH_SCALE * f * norms).sum(1).mean()
        else:
            sparsity = _Step.apply(pre, threshold, own["bandwidth"]).sum(1).mean()
        total = error + own["coefficient"] * self.risen(own["warmup_share"], step) * sparsity
        if own["pre_act_coefficient"]:
            total = total + own["pre_act_coefficient"] * ((threshold - pre).relu() @ norms).mean()
        active = f.detach() != 0
        parts = {"mse": error.detach() / self.d_in, "sparsity": sparsity.detach()}
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

    def after_backward(self) -> None:
        """Drop the gradient's part along the decoder rows, where they are kept at unit norm."""
        if not self.tanh:
            drop_parallel_(self.w_dec)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Keep decoder rows at unit norm, under the l0 penalty."""
        if not self.tanh:
            unit_rows_(self.w_dec.data)

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "jumprelu"}

    def weights(self) -> SAEWeights:
        """Return the same function with unit decoder rows, and the thresholds."""
        fields, norm = with_unit_decoder(*(p.detach() for p in (self.w_enc, self.b_enc, self.w_dec, self.b_dec)))
        return SAEWeights(**fields, threshold=self.log_threshold.detach().exp() * norm)


class _Jump(torch.autograd.Function):
    """π · 1[π > θ]; with ``through`` the kernel's gradient reaches π as well (January 2025)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float, through: bool) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width, ctx.through = width, through
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.width / 2) * (threshold / ctx.width)
        own = (pre > threshold).to(pre.dtype)
        return grads[0] * (own + near if ctx.through else own), -(near * grads[0]).sum(0), None, None


class _Step(torch.autograd.Function):
    """1[π > θ]."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.width / 2) / ctx.width
        return None, -(near * grads[0]).sum(0), None

"""``relu-l1``: Bloom 2024, "Open Source Sparse Autoencoders for all Residual Stream Layers of GPT2-Small".

f = ReLU((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, loss = ‖x − x̂‖²/D + l1 · Σ|f|; unit-norm decoder rows.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from .config import RecipeSettings
from .recipe import Losses, Recipe, drop_parallel_, geometric_median, unit_rows_


class ReluL1Settings(RecipeSettings):
    """Settings of ``relu-l1``, with the source's values."""

    d_sae: int = 24_576
    lr: float = 4e-4
    lr_warmup_steps: int = 1_000
    l1: float = 8e-5
    """Coefficient of Σ|f| beside the error's mean over dimensions; grows with the variance of the acts."""
    dead: Literal["ghost", "resample", "none"] = "ghost"
    """What is done for dead latents."""
    dead_after_steps: int = 5_000
    """Steps without firing after which a latent is dead."""
    resample_every: int = 10_000
    """Steps between resamplings."""


@RECIPES.register("relu-l1")
class ReluL1(Recipe):
    """ReLU SAE with an L1 penalty; the encoder is shifted by the decoder's bias, which starts at the geometric median.

    ``ghost``: exp of the pre-activations of dead latents, decoded and scaled to half the norm of the error, is fitted to the
    error; the term is rescaled to the size of the main one and is 0 until a latent is dead. ``resample``: every so many steps
    dead latents start again towards the inputs that are reconstructed worst (Bricken et al. 2023, "Towards Monosemanticity",
    appendix on resampling).
    """

    Settings = ReluL1Settings
    architecture = "standard"

    def __init__(self, settings: ReluL1Settings, sample: Float[Tensor, "n D"], generator: torch.Generator) -> None:
        super().__init__(settings, sample, generator)
        d, s = self.d_in, self.d_sae
        if s < 1:
            raise InputError(f"d_sae={s} must be 1 or more")
        w = torch.randn(s, d, generator=generator)
        unit_rows_(w)
        self.w_dec = nn.Parameter(w)
        self.w_enc = nn.Parameter(w.clone())
        self.b_enc = nn.Parameter(torch.zeros(s))
        self.b_dec = nn.Parameter(geometric_median(sample).cpu())
        self.batch_size = 0
        self._generator = generator
        self._worst: tuple[Tensor, Tensor] | None = None

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return MSE + L1 (+ ghost term)."""
        c = self.settings
        self.batch_size = len(x)
        pre = torch.addmm(self.b_enc, x - self.b_dec, self.w_enc.T)
        f = pre.relu()
        recon = f @ self.w_dec + self.b_dec
        mse = (recon - x).square().mean()
        l1 = f.sum(1).mean()
        parts = {"mse": mse.detach(), "l1": l1.detach()}
        total = mse + c.l1 * l1
        dead = since_fired >= c.dead_after_steps * len(x)
        if c.dead == "ghost" and bool(dead.any()):
            ghost = self._ghost(pre, (x - recon).detach(), dead, mse.detach())
            parts["ghost"] = ghost.detach()
            total = total + ghost
        active = f.detach() != 0
        if c.dead == "resample":
            self._worst = (x.detach(), (recon.detach() - x).square().sum(1))
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

    def _ghost(self, pre: Tensor, error: Tensor, dead: Tensor, mse: Tensor) -> Tensor:
        out = pre[:, dead].exp() @ self.w_dec[dead]
        scale = error.norm(dim=1, keepdim=True) / (2 * out.detach().norm(dim=1, keepdim=True)).clamp_min(1e-12)
        gap = (out * scale - error).square().mean()
        return gap * (mse / gap.detach().clamp_min(1e-12))

    def after_backward(self) -> None:
        """Drop the gradient's part along the decoder rows."""
        drop_parallel_(self.w_dec)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Decoder rows to unit norm; resample when it is time."""
        unit_rows_(self.w_dec.data)
        c = self.settings
        if c.dead == "resample" and (step + 1) % c.resample_every == 0:
            self._resample(optimizer, since_fired)

    def _resample(self, optimizer: torch.optim.Optimizer, since_fired: Tensor) -> None:
        dead = (since_fired >= min(self.settings.dead_after_steps, self.settings.resample_every) * self.batch_size).nonzero()[
            :, 0
        ]
        if not len(dead) or self._worst is None:
            return
        x, error = self._worst
        chance = error.square() / error.square().sum()
        chosen = torch.multinomial(chance.cpu(), len(dead), replacement=len(dead) > len(x), generator=self._generator).to(
            x.device
        )
        directions = x[chosen] - self.b_dec
        unit_rows_(directions)
        alive = torch.ones(self.d_sae, dtype=torch.bool, device=x.device)
        alive[dead] = False
        size = self.w_enc[alive].norm(dim=1).mean() if bool(alive.any()) else self.w_enc.norm(dim=1).mean()
        self.w_dec.data[dead] = directions
        self.w_enc.data[dead] = 0.2 * size * directions
        self.b_enc.data[dead] = 0
        for parameter in (self.w_dec, self.w_enc, self.b_enc):
            state = optimizer.state.get(parameter, {})
            for moment in ("exp_avg", "exp_avg_sq"):
                if moment in state:
                    state[moment][dead] = 0
        since_fired[dead] = 0

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "relu"}

    def weights(self) -> SAEWeights:
        """Return encoder, decoder and biases."""
        b = self.b_dec.detach().clone()
        w_enc = self.w_enc.detach().T.contiguous()
        return SAEWeights(W_enc=w_enc, b_enc=self.b_enc.detach().clone(), W_dec=self.w_dec.detach().clone(), b_dec=b, b_in=b)

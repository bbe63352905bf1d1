"""``relu-l1``: Bloom 2024, "Open Source Sparse Autoencoders for all Residual Stream Layers of GPT2-Small".

f = ReLU((x − b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec, loss = ‖x − x̂‖²/D + l1 · Σ|f|; unit-norm decoder rows.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Count, Natural, Positive, RecipeSettings, Share, Weight
from ..recipe import Losses, Recipe, Start
from ..resample import resample
from ..rows import drop_parallel_, geometric_median, near_identity, random_unit_rows, unit_rows_

_LARGEST = 30.0
"""Pre-activation of a dead latent above which its exp grows no further."""


class ReluL1Settings(RecipeSettings):
    """Settings of ``relu-l1``, with the source's values."""

    d_sae: Natural = 24_576
    lr: Positive = 4e-4
    lr_warmup_steps: Natural = 1_000
    l1: Weight = 8e-5
    """Coefficient of Σ|f| beside the error's mean over dimensions; grows with the variance of the acts."""
    l1_warmup_share: Share = 0.0
    """Share of the run over which l1 rises from 0 (ours; 0.2 helps short runs at a high learning rate)."""
    encoder_lr_scale: Positive = 1.0
    """What the learning rate of the encoder's weights is multiplied by."""
    bias_lr_scale: Positive = 1.0
    """What the learning rate of the encoder's biases is multiplied by (both ours: at a rate at which decoder rows of norm 1 turn
    far in a step the encoder still moves slowly, and a bias has a single number to move; 3 and 10 help short runs)."""
    dead: Literal["ghost", "resample", "none"] = "ghost"
    """What is done for dead latents."""
    dead_refresh_steps: Count = 10
    """Steps between new lists of the dead latents."""
    resample_every: Count | None = None
    """Steps between resamplings; 10,000, in short runs a sixth of the run, if ``None``. None falls in the last such stretch of
    the run: what is resampled has as long to learn."""


@RECIPES.register("relu-l1")
class ReluL1(Recipe):
    """ReLU SAE with an L1 penalty; the encoder is shifted by the decoder's bias, which starts at the geometric median.

    ``ghost``: exp of the pre-activations of dead latents, decoded and scaled to half the norm of the error, is fitted to the
    error; the term is rescaled to the size of the main one and is 0 until a latent is dead. ``resample``: every so many steps
    dead latents start again towards the acts that are reconstructed worst. The encoder begins as the decoder's transpose,
    scaled so that the whole is near the identity (ours; the source draws it at random).
    """

    Settings = ReluL1Settings
    architecture = "standard"

    def __init__(self, settings: Any, start: Start) -> None:
        super().__init__(settings, start)
        w = random_unit_rows(self.d_sae, self.d_in, start.generator)
        self.w_dec = nn.Parameter(w)
        self.w_enc = nn.Parameter(near_identity(w))
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(geometric_median(start.sample).cpu())
        self._generator = start.generator
        self._last: tuple[Tensor, Tensor] | None = None
        self._dead = torch.zeros(0, dtype=torch.long)
        self.resample_every = settings.resample_every or min(10_000, max(1, start.steps // 6))

    def dead_after_default(self) -> int:
        """Return 5,000 steps, in acts."""
        return 5_000 * self.batch_size

    def get_extra_state(self) -> Tensor:
        """Return the list of dead latents, for a checkpoint."""
        return self._dead

    def set_extra_state(self, state: Tensor) -> None:
        """Take the list of a checkpoint."""
        self._dead = state

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return MSE + sparsity penalty (+ ghost term)."""
        c = self.settings
        pre = torch.addmm(self.b_enc, x - self.b_dec, self.w_enc.T)
        f = pre.relu()
        recon = f @ self.w_dec + self.b_dec
        mse = (recon - x).square().mean()
        penalty, parts = self.penalty(f, step)
        parts["mse"] = mse.detach()
        total = mse + penalty
        if step % c.dead_refresh_steps == 0:
            self._dead = (since_fired >= self.dead_after).nonzero()[:, 0]
        if c.dead == "ghost" and len(self._dead):
            ghost = self._ghost(pre, (x - recon).detach(), self._dead.to(x.device), mse.detach())
            parts["ghost"] = ghost.detach()
            total = total + ghost
        active = f.detach() != 0
        if c.dead == "resample":
            self._last = (x.detach(), (recon.detach() - x).square().sum(1))
        return Losses(total, parts, recon.detach(), active.any(0), active.sum(1).float().mean())

    def penalty(self, f: Float[Tensor, "B S"], step: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return the sparsity term and what to log of it."""
        l1 = f.sum(1).mean()
        return self.settings.l1 * self.risen(self.settings.l1_warmup_share, step) * l1, {"l1": l1.detach()}

    def _ghost(self, pre: Tensor, error: Tensor, dead: Tensor, mse: Tensor) -> Tensor:
        # one that woke since the list was made may be large; exp of it must not be infinite
        out = pre[:, dead].clamp(max=_LARGEST).exp() @ self.w_dec[dead]
        scale = error.norm(dim=1, keepdim=True) / (2 * out.detach().norm(dim=1, keepdim=True)).clamp_min(1e-12)
        gap = (out * scale - error).square().mean()
        return gap * (self.ranks.mean(mse) / self.ranks.mean(gap.detach()).clamp_min(1e-12))

    def lr_scale(self, name: str) -> float:
        """Return the scales of the encoder's weights and biases; 1 for the decoder's."""
        return {"w_enc": self.settings.encoder_lr_scale, "b_enc": self.settings.bias_lr_scale}.get(name, 1.0)

    def after_backward(self) -> None:
        """Drop the gradient's part along the decoder rows."""
        drop_parallel_(self.w_dec)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Decoder rows to unit norm; resample when it is time."""
        unit_rows_(self.w_dec.data)
        c = self.settings
        due = (step + 1) % self.resample_every == 0 and step + 1 + self.resample_every <= self.steps
        if c.dead != "resample" or not due or self._last is None:
            return
        dead = (since_fired >= min(self.dead_after, self.resample_every * self.batch_size)).nonzero()[:, 0]
        if len(dead):
            resample(self, *self._last, dead, self._generator, self.ranks)
            self.forget(optimizer, dead)
            since_fired[dead] = 0

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "relu"}

    def weights(self) -> SAEWeights:
        """Return encoder, decoder and biases."""
        b = self.b_dec.detach().clone()
        w_enc = self.w_enc.detach().T.contiguous()
        return SAEWeights(W_enc=w_enc, b_enc=self.b_enc.detach().clone(), W_dec=self.w_dec.detach().clone(), b_dec=b, b_in=b)

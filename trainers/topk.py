"""``topk``: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), §2.3, §2.4 and appendix A.

latents = ReLU(TopK((x − b) W_enc + b_enc)), recon = latents W_dec + b; loss = ‖x − x̂‖² over the batch's variance + AuxK.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from .config import RecipeSettings
from .recipe import Losses, Recipe, drop_parallel_, geometric_median, unit_rows_
from .sparse import sparse_decode, topk_encode


class TopKSettings(RecipeSettings):
    """Settings of ``topk``, with the source's values where it gives one."""

    d_sae: int = 32_768
    k: int = 32
    lr: float = 1e-4
    """Appendix A.2: falls with 1/√d_sae; tune it for small SAEs."""
    adam_eps: float = 6.25e-10
    k_aux: int | None = None
    """Dead latents that model the error; half the width, at most 512 (appendix A.2), if ``None``."""
    aux_coefficient: float = 1 / 32
    dead_after_tokens: int = 10_000_000
    """Acts without firing after which a latent is dead."""
    multi_k: int | None = None
    """Multi-TopK (appendix on progressive recovery): adds loss(multi_k)/8; the paper has 4k."""


@RECIPES.register("topk")
class TopK(Recipe):
    """TopK SAE. Inputs are centred over D and scaled to unit variance (as in the source's model code), undone after decoding."""

    Settings = TopKSettings
    architecture = "topk"
    normalisation = "layer_norm"

    def __init__(self, settings: TopKSettings, sample: Float[Tensor, "n D"], generator: torch.Generator) -> None:
        super().__init__(settings, sample, generator)
        d, s = self.d_in, self.d_sae
        largest = max(settings.k, settings.multi_k or 0)
        if not 0 < settings.k <= largest <= s or (settings.multi_k is not None and settings.multi_k <= settings.k):
            raise InputError(f"k={settings.k} and multi_k={settings.multi_k} must rise from 1 to at most d_sae={s}")
        self.k_aux = min(settings.k_aux or min(512, max(1, d // 2)), s)
        bound = d**-0.5  # torch's default for a linear layer
        w = (torch.rand(s, d, generator=generator) * 2 - 1) * bound
        self.w_enc = nn.Parameter(w)
        self.w_dec = nn.Parameter(w.clone())
        unit_rows_(self.w_dec.data)
        self.b_enc = nn.Parameter(torch.zeros(s))
        self.b_dec = nn.Parameter(geometric_median(sample).cpu())
        self.register_buffer("scale", 1 / (sample - sample.mean(0)).square().mean().cpu())
        self.scale: Tensor

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return normalised MSE + AuxK (+ Multi-TopK)."""
        c = self.settings
        values, indices = topk_encode(x - self.b_dec, self.w_enc, self.b_enc, max(c.k, c.multi_k or 0))
        own, at = values, indices
        if c.multi_k:
            best = values.detach().topk(c.k, dim=1).indices
            own, at = values.gather(1, best), indices.gather(1, best)
        own = own.relu()
        recon = sparse_decode(own, at, self.w_dec) + self.b_dec
        mse = (recon - x).square().mean() * self.scale
        parts = {"mse": mse.detach()}
        total = mse
        if c.multi_k:
            wide = sparse_decode(values.relu(), indices, self.w_dec) + self.b_dec
            total = total + (wide - x).square().mean() * self.scale / 8
        dead = since_fired >= c.dead_after_tokens
        if c.aux_coefficient and bool(dead.any()):
            aux = self._aux(x, (x - recon).detach(), dead)
            parts["aux"] = aux.detach()
            total = total + c.aux_coefficient * aux
        active = own.detach() != 0
        fired = torch.zeros(self.d_sae, dtype=torch.bool, device=x.device)
        fired[at[active]] = True
        return Losses(total, parts, recon.detach(), fired, active.sum(1).float().mean())

    def _aux(self, x: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Return the error's MSE when only dead latents model it, over the variance of the error."""
        rows = dead.nonzero()[:, 0]
        k = min(self.k_aux, len(rows))
        values, inner = topk_encode((x - self.b_dec).detach(), self.w_enc[rows], self.b_enc[rows], k)
        recon = sparse_decode(values.relu(), inner, self.w_dec[rows])
        spread = (error - error.mean(0)).square().mean()
        return ((recon - error).square().mean() / spread.clamp_min(1e-12)).nan_to_num(0.0)

    def after_backward(self) -> None:
        """Decoder rows to unit norm, then the gradient's part along them dropped (appendix A.2)."""
        unit_rows_(self.w_dec.data)
        drop_parallel_(self.w_dec)

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Keep decoder rows at unit norm."""
        unit_rows_(self.w_dec.data)

    def sae_fields(self) -> dict[str, Any]:
        """Return activation and k."""
        return {"activation": "topk", "k": self.settings.k}

    def weights(self) -> SAEWeights:
        """Return encoder, decoder and biases."""
        b = self.b_dec.detach().clone()
        w_enc = self.w_enc.detach().T.contiguous()
        return SAEWeights(W_enc=w_enc, b_enc=self.b_enc.detach().clone(), W_dec=self.w_dec.detach().clone(), b_dec=b, b_in=b)

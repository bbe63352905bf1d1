"""``batchtopk``: Bussmann et al. 2024, "BatchTopK sparse autoencoders" (arXiv 2412.06410).

The k·B largest latents of a batch of B acts are kept, so that an act may have more or fewer than k. At inference a latent is
kept where it exceeds one threshold θ, the mean over training batches of the smallest latent kept (eq. 6 there).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Decay, Positive
from ..recipe import Start
from ..sparse import Active, batch_topk_encode
from .topk import TopK, TopKSettings


class BatchTopKSettings(TopKSettings):
    """Settings of ``batchtopk``."""

    lr: Positive = 3e-4
    adam_eps: Positive = 1e-8
    threshold_decay: Decay | None = None
    """Of the running mean that becomes the threshold at inference; 0.999, in short runs that of a twentieth of the run, if
    ``None``: what batches kept long ago is not what the trained SAE keeps."""


@RECIPES.register("batchtopk")
class BatchTopK(TopK):
    """BatchTopK SAE on acts scaled to mean norm √D. Saved as a JumpReLU with one threshold for all latents."""

    Settings = BatchTopKSettings
    architecture = "batchtopk"
    can_split_latents = False

    def __init__(self, settings: BatchTopKSettings, start: Start) -> None:
        super().__init__(settings, start)
        given = settings.threshold_decay
        self.decay = min(0.999, max(0.0, 1 - 20 / self.steps)) if given is None else given
        self.register_buffer("smallest", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))
        self.smallest: Tensor
        self.weight: Tensor

    @classmethod
    def norm_kind(cls, settings: Any) -> str:
        """Return root_width."""
        del settings
        return "root_width"

    def _check_k(self) -> None:
        super()._check_k()
        if self.settings.multi_k is not None:
            raise InputError(f"multi_k={self.settings.multi_k} is for topk only; leave it out")

    def _reconstruct(self, x: Tensor, inner: Tensor) -> tuple[Active, Tensor, Tensor]:
        active = self._best(inner, self.settings.k)
        recon = self._decode(active)
        return active, self._error(recon, x), recon

    def _best(self, inner: Tensor, k: int) -> Active:
        n = k * len(inner) * (self.ranks.world if self.ranks.split_data else 1)
        active = batch_topk_encode(inner, self.w_enc, self.b_enc, n, kept=self.ranks.kept if self.ranks.split_data else None)
        self._follow(active.values.detach())
        return active

    @torch.no_grad()
    def _follow(self, values: Tensor) -> None:
        """Update the running mean of the smallest latent kept."""
        if not self.training:
            return
        least = values.min() if len(values) else values.new_tensor(torch.inf)
        if self.ranks.split_data:
            least = self.ranks.gather(least).min()
        decay, seen = self.decay, torch.isfinite(least)
        self.smallest = torch.where(seen, decay * self.smallest + (1 - decay) * least, self.smallest)
        self.weight = torch.where(seen, decay * self.weight + (1 - decay), self.weight)

    def threshold(self) -> Tensor:
        """Return θ."""
        return self.smallest / self.weight.clamp_min(1e-12)

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "jumprelu", "k": self.settings.k}

    def weights(self) -> SAEWeights:
        """Return encoder, decoder, biases and threshold."""
        return SAEWeights(**dict(super().weights().items()), threshold=self.threshold().detach().clone())

"""``topk``: Gao et al. 2024, "Scaling and evaluating sparse autoencoders" (arXiv 2406.04093), §2.3, §2.4 and appendix A.

latents = ReLU(TopK((x − b) W_enc + b_enc)), recon = latents W_dec + b; loss = ‖x − x̂‖² over the acts' variance + AuxK.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..auxk import AuxK
from ..config import Count, Natural, Positive, RecipeSettings, Weight
from ..recipe import Losses, Recipe, Start
from ..rows import drop_parallel_, fired_in, geometric_median, unit_rows_
from ..sparse import Active, from_rows, sparse_decode, topk_encode


class TopKSettings(RecipeSettings):
    """Settings of ``topk``, with the source's values where it gives one."""

    d_sae: Natural = 32_768
    k: int = 32
    lr: Positive = 1e-4
    """Appendix A.2: falls with 1/√d_sae; tune it for small SAEs."""
    adam_eps: Positive = 6.25e-10
    k_aux: Count | None = None
    """Dead latents that model the error; half the width, at most 512 (appendix A.2), if ``None``."""
    aux_coefficient: Weight = 1 / 32
    dead_refresh_steps: Count = 10
    """Steps between new lists of the dead latents."""
    multi_k: int | None = None
    """Multi-TopK (appendix on progressive recovery): adds loss(multi_k)/8; the paper has 4k."""


@RECIPES.register("topk")
class TopK(Recipe):
    """TopK SAE. Inputs are centred over D and scaled to unit variance (as in the source's model code), undone after decoding."""

    Settings = TopKSettings
    architecture = "topk"
    can_split_latents = True

    def __init__(self, settings: TopKSettings, start: Start) -> None:
        super().__init__(settings, start)
        d, sample = self.d_in, start.sample
        self._check_k()
        own = self.ranks.slice_of(self.d_sae, "d_sae") if self.ranks.split_latents else slice(None)
        bound = d**-0.5  # torch's default for a linear layer
        w = ((torch.rand(self.d_sae, d, generator=start.generator) * 2 - 1) * bound)[own]
        self.w_enc = nn.Parameter(w.clone())
        self.w_dec = nn.Parameter(w.clone())
        unit_rows_(self.w_dec.data)
        self.b_enc = nn.Parameter(torch.zeros(len(w)))
        self.b_dec = nn.Parameter(geometric_median(sample).cpu())
        self.register_buffer("scale", 1 / (sample - sample.mean(0)).square().mean().cpu())
        self.scale: Tensor
        k_aux = min(settings.k_aux or min(512, max(1, d // 2)), self.d_sae)
        self.aux = AuxK(k=k_aux, dead_after=self.dead_after, refresh=settings.dead_refresh_steps, ranks=self.ranks)

    @classmethod
    def norm_kind(cls, settings: TopKSettings) -> str:
        """Return layer_norm."""
        del settings
        return "layer_norm"

    def _check_k(self) -> None:
        c, s = self.settings, self.d_sae
        largest = max(c.k, c.multi_k or 0)
        if not 0 < c.k <= largest <= s or (c.multi_k is not None and c.multi_k <= c.k):
            told = (
                f"k={c.k} must lie between 1 and" if c.multi_k is None else f"k={c.k} and multi_k={c.multi_k} must rise from 1 to"
            )
            raise InputError(f"{told} d_sae={s}")

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return normalised MSE (+ Multi-TopK) + AuxK."""
        c = self.settings
        inner = x - self.ranks.share(self.b_dec)
        active, mse, recon = self._reconstruct(x, inner)
        total, parts = mse, {"mse": mse.detach()}
        recon = recon.detach()
        if c.aux_coefficient and self.aux.any_dead(since_fired, step):
            aux = self.aux.loss(inner, x - recon, self.w_enc, self.b_enc, self.w_dec)
            parts["aux"] = aux.detach()
            total = total + c.aux_coefficient * aux
        l0 = self.ranks.total((active.values.detach() != 0).sum()) / len(x)
        return Losses(total, parts, recon, fired_in(active, len(self.b_enc)), l0)

    def _reconstruct(self, x: Tensor, inner: Tensor) -> tuple[Active, Tensor, Tensor]:
        """Return (latents, loss, recon)."""
        c = self.settings
        own = wide = self._best(inner, max(c.k, c.multi_k or 0))
        if c.multi_k:
            values, indices = (t.view(len(x), -1) for t in (own.values, own.indices))
            best = values.detach().topk(min(c.k, values.shape[1]), dim=1).indices
            own = from_rows(values.gather(1, best), indices.gather(1, best))
            own = own.with_values(own.values * self.ranks.among_best(own.values.view(len(x), -1), c.k).reshape(-1))
        recon = self._decode(own)
        loss = self._error(recon, x)
        if c.multi_k:
            loss = loss + self._error(self._decode(wide), x) / 8
        return own, loss, recon

    def _best(self, inner: Tensor, k: int) -> Active:
        """Return the k largest latents of each act, over all ranks; those of other ranks stand as zeros."""
        most = min(k, len(self.b_enc))
        active = topk_encode(inner, self.w_enc, self.b_enc, most)
        values = active.values.relu()
        if self.ranks.split_latents:
            kept = self.ranks.among_best(values.view(-1, most), k)
            values = values * kept.reshape(-1)
        return active.with_values(values)

    def _decode(self, active: Active) -> Tensor:
        return self.ranks.sum_latents(sparse_decode(active, self.w_dec)) + self.b_dec

    def _error(self, recon: Tensor, x: Tensor) -> Tensor:
        return (recon - x).square().mean() * self.scale

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
        """Return encoder, decoder and biases, gathered from all ranks."""
        gather = self.ranks.gather_rows if self.ranks.split_latents else torch.clone
        w_enc, b_enc, w_dec = (gather(p.detach()) for p in (self.w_enc, self.b_enc, self.w_dec))
        b = self.b_dec.detach().clone()
        return SAEWeights(W_enc=w_enc.T.contiguous(), b_enc=b_enc, W_dec=w_dec, b_dec=b, b_in=b)

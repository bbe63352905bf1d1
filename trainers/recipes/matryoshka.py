"""``matryoshka``: Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders" (arXiv 2503.17547).

A BatchTopK SAE whose first m latents must reconstruct alone, for every m of a growing list: loss = mean over the list of the
normalised MSE of the first m latents + AuxK (eq. 4 there).
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import RECIPES

from ..config import Count
from ..recipe import Start
from ..sparse import Active, sparse_decode
from .batchtopk import BatchTopK, BatchTopKSettings


class MatryoshkaSettings(BatchTopKSettings):
    """Settings of ``matryoshka``."""

    widths: tuple[Count, ...] = ()
    """The growing list, ending in d_sae; 1/16, 1/8, 1/4, 1/2 and all of d_sae if empty."""


@RECIPES.register("matryoshka")
class Matryoshka(BatchTopK):
    """Matryoshka BatchTopK SAE; what is saved is a BatchTopK SAE whose latents are in order of generality."""

    Settings = MatryoshkaSettings
    architecture = "matryoshka_batchtopk"

    def __init__(self, settings: MatryoshkaSettings, start: Start) -> None:
        super().__init__(settings, start)
        s = self.d_sae
        self.widths = list(settings.widths or (w for w in (s // 16, s // 8, s // 4, s // 2, s) if w))
        if self.widths[-1] != s or self.widths != sorted(set(self.widths)) or self.widths[0] < 1:
            raise InputError(f"widths={self.widths} must grow from 1 or more to d_sae={s}")

    def _reconstruct(self, x: Tensor, inner: Tensor) -> tuple[Active, Tensor, Tensor]:
        active = self._best(inner, self.settings.k)
        loss, recon, below = torch.zeros_like(self.scale), self.b_dec.expand_as(x), 0
        for width in self.widths:
            ours = (active.indices >= below) & (active.indices < width)
            recon = recon + sparse_decode(active.with_values(active.values * ours), self.w_dec)
            loss = loss + self._error(recon, x) / len(self.widths)
            below = width
        return active, loss, recon

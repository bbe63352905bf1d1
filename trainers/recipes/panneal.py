"""``panneal``: p-annealing, Karvonen et al. 2024, "Measuring progress in dictionary learning" (arXiv 2408.00113), §5.

As ``relu-l1`` with the penalty λ Σ|f|^p: p falls from 1 to ``p_end`` in steps, and λ is set anew at each so that the penalty of
the acts just seen stays what it was.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import RECIPES

from ..config import Count
from ..recipe import Start
from .relu_l1 import ReluL1, ReluL1Settings

_EPS = 1e-10


class PAnnealSettings(ReluL1Settings):
    """Settings of ``panneal``."""

    dead: Literal["ghost", "resample", "none"] = "resample"
    p_end: float = 0.2
    anneal_start_share: float = 0.2
    """Share of the run before p begins to fall; it reaches ``p_end`` at the end."""
    anneal_steps: Count = 10
    """How many times p falls."""
    queue: Count = 10
    """Batches over which the penalty is compared when p falls."""


@RECIPES.register("panneal")
class PAnneal(ReluL1):
    """ReLU SAE with an annealed Lp penalty."""

    Settings = PAnnealSettings
    architecture = "standard"

    def __init__(self, settings: PAnnealSettings, start: Start) -> None:
        super().__init__(settings, start)
        if not 0 < settings.p_end <= 1 or not 0 <= settings.anneal_start_share < 1:
            raise InputError(
                f"p_end={settings.p_end} must lie in (0, 1] and anneal_start_share={settings.anneal_start_share} in [0, 1)"
            )
        self.register_buffer("factor", torch.tensor(settings.l1))
        self.register_buffer("sums", torch.zeros(2, settings.queue))
        self.factor: Tensor
        self.sums: Tensor
        self._within = False
        """Whether a part of this step's batch has been seen already."""

    def level(self, step: int) -> int:
        """Return how many times p has fallen by ``step``."""
        begin = self.settings.anneal_start_share * self.steps
        if step < begin:
            return 0
        n = self.settings.anneal_steps
        return min(n, 1 + int((step - begin) / max(1.0, self.steps - begin) * n))

    def p_at(self, level: int) -> float:
        """Return p after so many falls."""
        return 1 - (1 - self.settings.p_end) * level / self.settings.anneal_steps

    def penalty(self, f: Float[Tensor, "B S"], step: int) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Return λ Σ f^p, after λ was set anew if p has just fallen."""
        level, at = self.level(step), step % self.settings.queue
        if not self._within:
            if level and self.level(step - 1) < level:
                now, next_ = self.sums.sum(1)
                self.factor = self.factor * torch.where(next_ > 0, now / next_.clamp_min(_EPS), 1.0)
            self.sums[:, at] = 0
        self._within = True
        value = self._lp(f, level)
        with torch.no_grad():
            follows = self._lp(f, min(level + 1, self.settings.anneal_steps))
            self.sums[0, at] += self.ranks.mean(value.detach())
            self.sums[1, at] += self.ranks.mean(follows)
        return self.factor * self.risen(self.settings.l1_warmup_share, step) * value, {
            "lp": value.detach(),
            "l1": f.detach().sum(1).mean(),
        }

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """As ``relu-l1``; the next batch begins."""
        super().after_step(optimizer, step, since_fired)
        self._within = False

    def _lp(self, f: Tensor, level: int) -> Tensor:
        p = self.p_at(level)
        if p == 1:
            return f.sum(1).mean()
        live = f > 0
        return torch.where(live, torch.where(live, f, 1.0) ** p, 0.0).sum(1).mean()

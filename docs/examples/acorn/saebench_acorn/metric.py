"""The metric: how many latents carry a token, counted by their weight."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from saebench.metrics.base import ActRows, After, Metric, MetricResult, Need, ScoreSpec, Setting
from saebench.stats import add_at, ratio


class EffectiveL0(Metric):
    """Participation ratio of the latents: L0 where all are equal, 1 where one outweighs the others."""

    version = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"acts"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(
            name="effective_l0", unit="latents", definition="mean over tokens of (Σ|f|)² / Σf²; 0 where no latent is active"
        ),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._sums, self._counts = np.zeros(setting.n_contexts), np.zeros(setting.n_contexts)

    def update_acts(self, rows: ActRows) -> None:
        """Add one chunk: sums a context, so that the standard error can be clustered."""
        f = rows.latents
        squares = torch.zeros(len(f), dtype=torch.float64, device=f.values.device)
        squares.index_add_(0, f.rows(), f.values.double().square())
        value = f.l1().square() / squares.clamp_min(1e-300)
        add_at(self._sums, rows.context, value.cpu().numpy())
        add_at(self._counts, rows.context)

    def finish(self, after: After) -> MetricResult:
        """Return the score: the ratio is taken once, here."""
        n = int(self._counts.sum())
        return MetricResult(scores=[self.spec("effective_l0").score(ratio(self._sums, self._counts, n=n))])

"""Sums over tokens, entries and latents behind the scores of ``shrinkage``, for one SAE.

Letters: ``C`` contexts, ``S`` d_sae, ``m`` scored tokens of a batch, ``O`` width written.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saebench.metrics.base import ActRows, After, Setting, finite_or_none
from saebench.metrics.reconstruction import Reconstruction
from saebench.record import Score, Series
from saebench.sae import SAE, Latents
from saebench.stats import Floats, add_at, ratio
from saebench.studies.replaced import Acts
from saebench.studies.shrinkage.refine import Refined, without_zeros

_RATIOS = np.arange(-1.0, 3.01, 0.1).round(1)
_DENSITIES = np.arange(-6.0, 0.01, 0.5)
PER_ENTRY = ("f", "z", "change", "ratio", "zeroed")
"""|f|; z in the direction of f, z·sign(f); |z−f|; z/f; whether z = 0. Each summed over the active entries of a context."""


class _Recons(Reconstruction):
    """The metric of task ``core``, whose sums about the mean are wanted too."""

    def about_mean(self) -> tuple[Floats, Floats]:
        """Return (Σ‖x − x̂‖², Σ‖x − x̄‖²) of each context."""
        counts = self._counts
        return self._sums["sse"], self._sums["yy"] - counts * float(self._y.square().sum()) / max(counts.sum(), 1) ** 2

    @property
    def n_tokens(self) -> int:
        """Tokens that were added."""
        return int(self._counts.sum())

    def named(self) -> dict[str, Score]:
        """Return its scores by name."""
        return {score.name: score for score in self.finish(After(None)).scores}


class Found:
    """What is kept while the text is read.

    Args:
        sae: The SAE.
        n_contexts: ``C``.
        context_length: Of the text.
    """

    def __init__(self, sae: SAE, n_contexts: int, context_length: int) -> None:
        self._about = (sae, n_contexts, context_length)
        self._recons: tuple[_Recons, _Recons] | None = None
        self.entries = {name: np.zeros(n_contexts) for name in PER_ENTRY}
        self.l0 = np.zeros((2, n_contexts))
        self.by_latent = np.zeros((3, sae.config.d_sae))
        """Firings, Σ|f| and Σ z·sign(f) of each latent."""
        self._histogram = np.zeros(len(_RATIOS), dtype=np.int64)
        self.unsettled = self.left = 0

    @property
    def recons(self) -> tuple[_Recons, _Recons]:
        """The metric of the recons as they are, and of the refined ones."""
        assert self._recons is not None
        return self._recons

    def add(
        self, tokens: Acts, latents: Latents, recon: Float[Tensor, "m O"], refined: Refined, new: Float[Tensor, "m O"]
    ) -> None:
        """Add the replaced tokens of a batch that are scored.

        Args:
            tokens: Where.
            latents: As the SAE gives them.
            recon: Theirs.
            refined: The same latents refined.
            new: Their recon.
        """
        scored = tokens.scored
        if not bool(scored.any()):
            return
        context = tokens.context[scored.cpu().numpy()]
        target = tokens.target[scored]
        if self._recons is None:
            sae, n, length = self._about
            reference = target.float().mean(0)
            about = Setting(sae=sae, n_contexts=n, context_length=length, windows=(), reference_mean=reference)
            self._recons = _Recons(about), _Recons(about)
        for metric, one in zip(self._recons, (recon, new), strict=True):
            metric.update_acts(ActRows(tokens.acts[scored], target, one[scored], latents, context, context))
        add_at(self.l0[0], context, latents.l0()[scored].double().cpu().numpy())
        add_at(self.l0[1], context, without_zeros(refined.latents).l0()[scored].double().cpu().numpy())
        self.left += int(refined.left[scored].sum())
        self.unsettled += int((~refined.settled & ~refined.left)[scored].sum())
        self._add_entries(tokens, latents, refined.latents, scored)

    def _add_entries(self, tokens: Acts, latents: Latents, refined: Latents, scored: Bool[Tensor, " m"]) -> None:
        rows = latents.rows()
        counted = scored[rows]
        f, z = latents.values[counted].double(), refined.values[counted].double()
        z = z * f.sign()
        f = f.abs()
        columns = {"f": f, "z": z, "change": (z - f).abs(), "ratio": z / f, "zeroed": (z == 0).double()}
        context = tokens.context[rows[counted].cpu().numpy()]
        for name, column in columns.items():
            add_at(self.entries[name], context, column.cpu().numpy())
        index, size = latents.indices[counted].cpu().numpy(), self.by_latent.shape[1]
        for row, weights in enumerate((None, f, z)):
            self.by_latent[row] += np.bincount(index, None if weights is None else weights.cpu().numpy(), size)
        place = ((columns["ratio"] - float(_RATIOS[0])) / 0.1).floor().clamp(0, len(_RATIOS) - 1)
        self._histogram += torch.bincount(place.nan_to_num().long().cpu(), minlength=len(_RATIOS)).numpy()

    def density(self) -> Floats:
        """Return the share of scored tokens at which each latent is active."""
        return self.by_latent[0] / max(self.n_tokens, 1)

    @property
    def n_tokens(self) -> int:
        """Scored tokens."""
        return 0 if self._recons is None else self._recons[0].n_tokens

    def series(self) -> list[Series]:
        """Return the histogram of z/f, and Σz/Σf of the latents by density."""
        density = self.density()
        place = np.digitize(np.log10(density.clip(10.0 ** _DENSITIES[0])), _DENSITIES[1:-1])
        groups = [(density > 0) & (place == i) for i in range(len(_DENSITIES) - 1)]
        means = [ratio(self.by_latent[2][g], self.by_latent[1][g], n=int(g.sum())) for g in groups]
        return [
            Series(
                name="activation_ratio_histogram", x_name="z/f, left edge of a bin 0.1 wide; the ends hold what lies beyond",
                x=[float(x) for x in _RATIOS], value=[float(h) for h in self._histogram], unit="entries",
            ),
            Series(
                name="activation_ratio_by_density", x_name="log10 density, left edge of a bin 0.5 wide",
                x=[float(x) for x in _DENSITIES[:-1]], n=[e.n for e in means],
                value=[finite_or_none(e.value) for e in means], stderr=[finite_or_none(e.stderr) for e in means],
            ),
        ]  # fmt: skip

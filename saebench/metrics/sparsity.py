"""How many latents fire, how strongly, how often, and which never do."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.metrics.base import ActRows, After, Metric, MetricResult, Need, ScoreSpec, Setting
from saebench.record import Series
from saebench.registry import METRICS
from saebench.stats import Estimate, add_at, ratio

_BINS = np.arange(-8.0, 0.01, 0.25)


@METRICS.register("sparsity")
class Sparsity(Metric):
    """Sparsity over the scored tokens. A latent is active where it is ≠ 0; its density is the share of tokens where it is.

    A dead latent never fired over these tokens: read ``frac_alive`` with its ``n``. The histogram of log10 density leaves
    dead latents out and says how many they are in ``n_dead``.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"acts"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(name="l0", unit="latents", definition="mean over tokens of the number of active latents"),
        ScoreSpec(name="l0_median", unit="latents", definition="median over tokens of the number of active latents"),
        ScoreSpec(name="l0_p5", unit="latents", definition="5th percentile over tokens of the number of active latents"),
        ScoreSpec(name="l0_p95", unit="latents", definition="95th percentile over tokens of the number of active latents"),
        ScoreSpec(name="l1", unit="act", definition="mean over tokens of Σ|f| (no coefficient)"),
        ScoreSpec(name="frac_alive", better="higher", definition="share of latents that fired at least once in n tokens"),
        ScoreSpec(name="n_dead", better="lower", unit="latents", definition="latents that never fired in n tokens"),
        ScoreSpec(name="share_dense_1pct", better="lower", definition="share of latents with density > 1%"),
        ScoreSpec(name="share_dense_10pct", better="lower", definition="share of latents with density > 10%"),
        ScoreSpec(
            name="mass_dense_1pct",
            better="lower",
            definition="share of all firings that come from latents with density > 1%",
            source="SAEBench core, normalized_freq_over_1_percent",
        ),
        ScoreSpec(
            name="mass_dense_10pct",
            better="lower",
            definition="share of all firings that come from latents with density > 10%",
            source="SAEBench core, normalized_freq_over_10_percent",
        ),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        size = setting.sae.config.d_sae
        self._l0 = np.zeros(setting.n_contexts)
        self._l1 = np.zeros(setting.n_contexts)
        self._counts = np.zeros(setting.n_contexts)
        self._l0_histogram = np.zeros(size + 1, dtype=np.int64)
        device = setting.reference_mean.device
        self._fired = torch.zeros(size, dtype=torch.int64, device=device)
        self._mass = torch.zeros(size, dtype=torch.float64, device=device)
        self._peak = torch.zeros(size, dtype=torch.float32, device=device)
        self._contexts_fired = torch.zeros(size, dtype=torch.int64, device=device)
        self._last_context = torch.full((size,), -1, dtype=torch.int64, device=device)

    def update_acts(self, rows: ActRows) -> None:
        """Add one chunk; chunks come in the order of their contexts."""
        latents = rows.latents
        l0 = latents.l0().cpu().numpy().astype(np.int64)
        l1 = latents.l1().double().cpu().numpy()
        add_at(self._l0, rows.context, l0.astype(np.float64))
        add_at(self._l1, rows.context, l1)
        add_at(self._counts, rows.context)
        self._l0_histogram += np.bincount(l0, minlength=len(self._l0_histogram))
        index, values = latents.indices.long(), latents.values
        if not len(index):
            return
        width = len(self._fired)
        self._fired += torch.bincount(index, minlength=width)
        self._mass += torch.bincount(index, values.double(), minlength=width)
        self._peak.scatter_reduce_(0, index, values.float(), "amax")
        first = int(rows.context[0])
        context = torch.from_numpy(rows.context).to(index.device)
        seen = torch.zeros(int(rows.context[-1]) - first + 1, width, dtype=torch.bool, device=index.device)
        seen[context[latents.rows()] - first, index] = True
        self._contexts_fired += seen.sum(0)
        # the first context of this chunk may have begun in the chunk before
        self._contexts_fired -= (seen[0] & (self._last_context == first)).long()
        self._last_context[seen[-1]] = int(rows.context[-1])

    def finish(self, after: After) -> MetricResult:
        """Return the scores, the density histogram and the per-latent columns."""
        tokens = int(self._counts.sum())
        fired = self._fired.cpu().numpy()
        density = fired / max(tokens, 1)
        total = int(fired.sum())

        def exact(value: float) -> Estimate:
            return Estimate(value=value, n=tokens) if tokens else Estimate(value=None, reason="no scored token")

        def mass(bound: float) -> Estimate:
            if not total:
                return Estimate(value=None, n=tokens, reason="no latent fired")
            return exact(float(fired[density > bound].sum() / total))

        found = {
            "l0": ratio(self._l0, self._counts, n=tokens),
            "l0_median": exact(_quantile(self._l0_histogram, 0.5)),
            "l0_p5": exact(_quantile(self._l0_histogram, 0.05)),
            "l0_p95": exact(_quantile(self._l0_histogram, 0.95)),
            "l1": ratio(self._l1, self._counts, n=tokens),
            "frac_alive": exact(float((fired > 0).mean())),
            "n_dead": exact(float((fired == 0).sum())),
            "share_dense_1pct": exact(float((density > 0.01).mean())),
            "share_dense_10pct": exact(float((density > 0.10).mean())),
            "mass_dense_1pct": mass(0.01),
            "mass_dense_10pct": mass(0.10),
        }
        histogram, _ = np.histogram(np.log10(density[fired > 0]).clip(_BINS[0], _BINS[-1]), _BINS)
        contexts = self._contexts_fired.cpu().numpy()
        return MetricResult(
            scores=[self.spec(name).score(estimate) for name, estimate in found.items()],
            series=[
                Series(
                    name="log10_density_histogram",
                    x_name="log10 density, left edge of a bin 0.25 wide",
                    x=[float(b) for b in _BINS[:-1]],
                    value=[float(h) for h in histogram],
                    unit="latents",
                )
            ],
            raw={"firings": float(total), "tokens": float(tokens)},
            per_latent={
                "density": density,
                "firings": fired,
                "mean_activation": self._mass.cpu().numpy() / np.maximum(fired, 1),
                "max_activation": self._peak.cpu().numpy(),
                "contexts_fired": contexts,
                "consistent_activation_heuristic": _nan_where(fired / np.maximum(contexts, 1), contexts == 0),
            },
        )


def _quantile(histogram: NDArray[np.int64], q: float) -> float:
    """Return the ``q`` quantile (linear between order statistics) of the integers that ``histogram`` counts."""
    total = int(histogram.sum())
    if not total:
        return 0.0
    cumulative = np.cumsum(histogram)
    at = q * (total - 1)
    low, high = (int(np.searchsorted(cumulative, k + 1)) for k in (int(np.floor(at)), int(np.ceil(at))))
    return low + (high - low) * (at - np.floor(at))


def _nan_where(values: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(missing, np.nan, values)

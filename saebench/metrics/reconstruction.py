"""How well the recon stands for the acts: FVU and its relatives, cosine, norms, shrinkage."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from saebench.metrics.base import ActRows, After, Metric, MetricResult, Need, ScoreSpec, Setting
from saebench.registry import METRICS
from saebench.stats import Estimate, add_at, ratio

_TINY = 1e-30


@METRICS.register("reconstruction")
class Reconstruction(Metric):
    """Reconstruction in the SAE's own space, with x the acts (for a transcoder: the output acts) and x̂ the recon.

    FVU = Σ_t‖x_t − x̂_t‖² / Σ_t‖x_t − x̄‖², both sums over all scored tokens, x̄ the per-dimension mean over the same tokens.
    Sums are float64 and taken about a reference mean (shifted data), so predicting the mean scores 0 and the result does not
    depend on batch size, order or padding. The standard error linearises the ratio over contexts; the part of it that comes
    from estimating x̄ is second order and left out.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"acts"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(name="explained_variance", better="higher", definition="1 − FVU"),
        ScoreSpec(name="fvu", better="lower", definition="Σ‖x−x̂‖² / Σ‖x−x̄‖², pooled over tokens"),
        ScoreSpec(
            name="normalized_mse",
            better="lower",
            definition="MSE over the MSE of predicting the mean activation; pooled, so equal to FVU",
            source="Gao et al. 2024, arXiv 2406.04093, §2.1",
        ),
        ScoreSpec(
            name="normalized_mse_per_token",
            better="lower",
            definition="mean over tokens of ‖x−x̂‖²/‖x‖²",
            source="the loss file of Gao et al.'s published code",
        ),
        ScoreSpec(
            name="explained_variance_per_token",
            better="higher",
            definition="mean over tokens of 1 − ‖x−x̂‖²/‖x−x̄₀‖², x̄₀ the mean over the contexts of the first 2,048 tokens",
            source="SAEBench core, explained_variance_legacy (there about the batch's own mean)",
        ),
        ScoreSpec(name="mse", better="lower", unit="act²", definition="mean over tokens of ‖x−x̂‖² (summed over dimensions)"),
        ScoreSpec(name="mse_per_dim", better="lower", unit="act²", definition="mse / width of the site"),
        ScoreSpec(name="cosine", better="higher", definition="mean over tokens of cos(x, x̂); 0 where x̂ = 0"),
        ScoreSpec(name="norm_ratio", definition="mean over tokens of ‖x̂‖/‖x‖; below 1 is shrinkage"),
        ScoreSpec(
            name="relative_reconstruction_bias",
            definition="Σ‖x̂‖² / Σ x·x̂; 1 is unbiased, below 1 is shrinkage",
            source="Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 10",
        ),
        ScoreSpec(name="norm_in", unit="act", definition="mean over tokens of ‖x‖"),
        ScoreSpec(name="norm_out", unit="act", definition="mean over tokens of ‖x̂‖"),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._names = ("sse", "xx", "rr", "xr", "yy", "sse_xx", "sse_yy", "cosine", "norm_ratio", "norm_in", "norm_out")
        self._sums = {name: np.zeros(setting.n_contexts) for name in self._names}
        self._counts = np.zeros(setting.n_contexts)
        self._reference = setting.reference_mean.double()
        self._y = self._reference.new_zeros(len(self._reference))

    def update_acts(self, rows: ActRows) -> None:
        """Add the sums of one chunk."""
        x, r = rows.target.double(), rows.recon.double()
        y = x - self._reference
        self._y += y.sum(0)
        sse = (x - r).square().sum(1)
        xx, rr, xr, yy = x.square().sum(1), r.square().sum(1), (x * r).sum(1), y.square().sum(1)
        norm_in, norm_out = xx.sqrt(), rr.sqrt()
        columns = {
            "sse": sse,
            "xx": xx,
            "rr": rr,
            "xr": xr,
            "yy": yy,
            "sse_xx": sse / xx.clamp_min(_TINY),
            "sse_yy": sse / yy.clamp_min(_TINY),
            "cosine": xr / (norm_in * norm_out).clamp_min(_TINY),
            "norm_ratio": norm_out / norm_in.clamp_min(_TINY),
            "norm_in": norm_in,
            "norm_out": norm_out,
        }
        for name, column in columns.items():
            add_at(self._sums[name], rows.context, column.cpu().numpy())
        add_at(self._counts, rows.context)

    def finish(self, after: After) -> MetricResult:
        """Return the scores."""
        s, counts = self._sums, self._counts
        n = int(counts.sum())
        mean_y = float(self._y.square().sum()) / max(n, 1) ** 2
        sst = s["yy"] - counts * mean_y
        flat = "the acts do not vary over the scored tokens"
        if float(sst.sum()) <= 1e-12 * max(float(s["xx"].sum()), _TINY):
            fvu = Estimate(value=None, n=n, reason=flat)
        else:
            fvu = ratio(s["sse"], sst, n=n)
        mse = ratio(s["sse"], counts, n=n)
        width = len(self._reference)
        per_token = ratio(s["sse_yy"], counts, n=n)
        found = {
            "explained_variance": _one_minus(fvu),
            "fvu": fvu,
            "normalized_mse": fvu,
            "normalized_mse_per_token": ratio(s["sse_xx"], counts, n=n),
            "explained_variance_per_token": _one_minus(per_token) if fvu.value is not None else fvu,
            "mse": mse,
            "mse_per_dim": ratio(s["sse"] / width, counts, n=n),
            "cosine": ratio(s["cosine"], counts, n=n),
            "norm_ratio": ratio(s["norm_ratio"], counts, n=n),
            "relative_reconstruction_bias": ratio(s["rr"], s["xr"], n=n, reason="recon and acts are orthogonal"),
            "norm_in": ratio(s["norm_in"], counts, n=n),
            "norm_out": ratio(s["norm_out"], counts, n=n),
        }
        return MetricResult(
            scores=[self.spec(name).score(estimate) for name, estimate in found.items()],
            raw={
                "sum_squared_error": float(s["sse"].sum()),
                "sum_squares_about_mean": float(sst.sum()),
                "sum_squares_acts": float(s["xx"].sum()),
                "sum_squares_recon": float(s["rr"].sum()),
                "sum_acts_dot_recon": float(s["xr"].sum()),
            },
        )


def _one_minus(e: Estimate) -> Estimate:
    return Estimate(value=None if e.value is None else 1 - e.value, stderr=e.stderr, n=e.n, reason=e.reason)

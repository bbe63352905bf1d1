"""What the splice does to the model's predictions: CE, KL, top-1, and CE recovered against two ablations."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from saebench.metrics.base import After, LossRowsOf, Metric, MetricResult, Need, ScoreSpec, Setting
from saebench.registry import METRICS
from saebench.stats import Estimate, Floats, add_at, ratio

_SAEBENCH = "SAEBench core"


@METRICS.register("splice")
class Splice(Metric):
    """Losses with the recon in place of the acts, in nats per predicted token.

    A position p scores the prediction of token p+1; means run over positions 1 … L−2 (0 = BOS). Splice and ablations leave
    the BOS position clean unless the run says otherwise. Zero ablation puts 0, mean ablation the mean of the evaluated acts,
    where the splice puts the recon. Ratios are taken once, from sums over all predictions; their standard errors treat the
    context as the unit.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"losses"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        ScoreSpec(name="ce_clean", unit="nats", definition="CE of the clean forward"),
        ScoreSpec(name="ce_spliced", better="lower", unit="nats", definition="CE with the recon spliced in"),
        ScoreSpec(name="ce_zero", unit="nats", definition="CE under zero ablation of the site"),
        ScoreSpec(name="ce_mean", unit="nats", definition="CE under mean ablation of the site"),
        ScoreSpec(name="delta_ce", better="lower", unit="nats", definition="ce_spliced − ce_clean"),
        ScoreSpec(name="ce_recovered_zero", better="higher", definition="(ce_zero − ce_spliced) / (ce_zero − ce_clean)"),
        ScoreSpec(name="ce_recovered_mean", better="higher", definition="(ce_mean − ce_spliced) / (ce_mean − ce_clean)"),
        ScoreSpec(name="kl", better="lower", unit="nats", definition="KL(clean ‖ spliced)"),
        ScoreSpec(name="kl_zero", unit="nats", definition="KL(clean ‖ zero-ablated)", source=_SAEBENCH),
        ScoreSpec(
            name="kl_recovered_zero",
            better="higher",
            definition="(kl_zero − kl) / kl_zero",
            source=f"{_SAEBENCH}, kl_div_score",
        ),
        ScoreSpec(
            name="top1_agreement",
            better="higher",
            definition="share of predictions whose most likely token is the clean one",
        ),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        names = ("ce_clean", "ce_spliced", "kl", "top1", "ce_zero", "kl_zero")
        self._sums = {name: np.zeros(setting.n_contexts) for name in names}
        self._counts = np.zeros(setting.n_contexts)

    def update_losses(self, rows: LossRowsOf) -> None:
        """Add one batch."""
        for name, sums in self._sums.items():
            add_at(sums, rows.context, getattr(rows, name))
        add_at(self._counts, rows.context)

    def finish(self, after: After) -> MetricResult:
        """Return the scores."""
        s, counts = self._sums, self._counts
        n = int(counts.sum())
        found = {
            "ce_clean": ratio(s["ce_clean"], counts, n=n),
            "ce_spliced": ratio(s["ce_spliced"], counts, n=n),
            "ce_zero": ratio(s["ce_zero"], counts, n=n),
            "delta_ce": ratio(s["ce_spliced"] - s["ce_clean"], counts, n=n),
            "ce_recovered_zero": _recovered(s["ce_zero"], s["ce_spliced"], s["ce_clean"], n),
            "kl": ratio(s["kl"], counts, n=n),
            "kl_zero": ratio(s["kl_zero"], counts, n=n),
            "kl_recovered_zero": ratio(
                s["kl_zero"] - s["kl"], s["kl_zero"], n=n, reason="zero ablation does not change the predictions"
            ),
            "top1_agreement": ratio(s["top1"], counts, n=n),
        }
        raw = {f"sum_{name}": float(total.sum()) for name, total in s.items()}
        if after.ce_mean is not None:
            mean = np.nansum(after.ce_mean, axis=1)
            found["ce_mean"] = ratio(mean, counts, n=n)
            found["ce_recovered_mean"] = _recovered(mean, s["ce_spliced"], s["ce_clean"], n)
            raw["sum_ce_mean"] = float(mean.sum())
        raw["predictions"] = float(n)
        return MetricResult(scores=[spec.score(found[spec.name]) for spec in self.specs if spec.name in found], raw=dict(raw))


def _recovered(ablated: Floats, spliced: Floats, clean: Floats, n: int) -> Estimate:
    gap = ablated - clean
    if abs(float(gap.sum())) <= 1e-9 * max(1.0, abs(float(clean.sum()))):
        return Estimate(value=None, n=n, reason="the ablation does not change the CE, so there is nothing to recover")
    return ratio(ablated - spliced, gap, n=n)

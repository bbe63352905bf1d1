"""The same quantities by position in the context, inside the SAE's training context and beyond it."""

from __future__ import annotations

from typing import ClassVar

from saebench.metrics.base import ActRows, After, LossRowsOf, Metric, MetricResult, Need, ScoreSpec, Setting, position_series
from saebench.registry import METRICS
from saebench.stats import Estimate, ratio_of_means

WINDOWS = {
    "inside": "inside the SAE's training context T: 1 ≤ p < T",
    "to_2x": "beyond it, T ≤ p < 2T",
    "to_4x": "beyond it, 2T ≤ p < 4T",
    "to_8x": "beyond it, 4T ≤ p < 8T",
    "beyond": "beyond it, p ≥ T",
}
"""Windows of positions p (0 = BOS) whose means are reported."""

_QUANTITIES = {
    "l0": ("latents", "active latents"),
    "l1": ("act", "Σ|f|"),
    "mse": ("act²", "‖x−x̂‖²"),
    "act_norm": ("act", "‖x‖"),
    "delta_ce": ("nats", "CE spliced − CE clean"),
    "kl": ("nats", "KL(clean ‖ spliced)"),
}


@METRICS.register("position")
class Position(Metric):
    """Means by position, as series over every position, and over windows in units of the SAE's training context T.

    ``context_degradation`` = mean delta_ce at p ≥ T over mean delta_ce at 1 ≤ p < T. Positions count from 0 = BOS, which is
    never scored; acts are scored at 1 … L−1, predictions at 1 … L−2. Source: Anders & Bloom 2024, "Examining Language Model
    Performance with Reconstructed Activations using Sparse Autoencoders", whose positions count from 1.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"acts", "losses"})
    specs: ClassVar[tuple[ScoreSpec, ...]] = (
        *(
            ScoreSpec(name=f"{quantity}_{window}", unit=unit, definition=f"mean of {what} over positions {where}")
            for quantity, (unit, what) in _QUANTITIES.items()
            for window, where in WINDOWS.items()
        ),
        ScoreSpec(name="context_degradation", better="lower", definition="delta_ce_beyond / delta_ce_inside"),
    )

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._tallies = {name: setting.tally() for name in _QUANTITIES}

    def update_acts(self, rows: ActRows) -> None:
        """Add one chunk of acts."""
        target = rows.target.double()
        columns = {
            "l0": rows.latents.l0(),
            "l1": rows.latents.l1(),
            "mse": (target - rows.recon.double()).square().sum(1),
            "act_norm": target.norm(dim=1),
        }
        for name, column in columns.items():
            self._tallies[name].add(column.double().cpu().numpy(), rows.context, rows.position)

    def update_losses(self, rows: LossRowsOf) -> None:
        """Add one batch of losses."""
        for name, column in {"delta_ce": rows.ce_spliced - rows.ce_clean, "kl": rows.kl}.items():
            self._tallies[name].add(column, rows.context, rows.position)

    def finish(self, after: After) -> MetricResult:
        """Return window means, ``context_degradation`` and the series."""
        length = self.setting.context_length
        trained = self.setting.sae.config.context_length
        measured = {w.name for w in self.setting.windows}
        if trained is None:
            reason = "the SAE's files do not say at which context length it was trained; give --trained-context"
        else:
            reason = f"no position lies there: the SAE was trained at context {trained}, the evaluated contexts have {length}"
        missing = Estimate(value=None, reason=reason)
        scores = []
        for name, tally in self._tallies.items():
            for window in WINDOWS:
                estimate = tally.mean(window) if window in measured else missing
                scores.append(self.spec(f"{name}_{window}").score(estimate))
        degradation = missing
        if {"inside", "beyond"} <= measured:
            tally = self._tallies["delta_ce"]
            degradation = ratio_of_means(
                *tally.sums("beyond"), *tally.sums("inside"), reason="delta_ce inside the training context is 0"
            )
        scores.append(self.spec("context_degradation").score(degradation))
        series = [
            position_series(tally, f"{name}_by_position", _QUANTITIES[name][0], length) for name, tally in self._tallies.items()
        ]
        return MetricResult(scores=scores, series=series)


def windows_for(trained: int | None, length: int) -> list[tuple[str, int, int]]:
    """Return (name, start, stop) of the windows that hold a scored prediction in contexts of ``length`` positions."""
    if trained is None:
        return []
    edges = [
        ("inside", 1, trained),
        ("to_2x", trained, 2 * trained),
        ("to_4x", 2 * trained, 4 * trained),
        ("to_8x", 4 * trained, 8 * trained),
        ("beyond", trained, length),
    ]
    last = length - 1
    return [(name, start, min(stop, length)) for name, start, stop in edges if start < last]

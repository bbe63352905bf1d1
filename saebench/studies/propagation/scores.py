"""From what the passes have seen to scores.

Letters: ``S`` SAEs, ``C`` contexts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from saebench.metrics.base import ScoreSpec
from saebench.record import Score
from saebench.stats import Estimate, add_at, ratio
from saebench.studies.propagation.passes import QUANTITIES, Found
from saebench.studies.propagation.same_tokens import TAIL, TAILS, Likeness

_SUMS = {"mse": "Σ‖x − x̂‖²", "l0": "Σ L0", "norm": "Σ‖x‖"}
_NONE_BEHIND = "no SAE lies behind this one"

SPECS = (
    *(
        ScoreSpec(
            name=f"propagation_{quantity}",
            definition=f"mean over the SAEs behind this one of (spliced − clean) / clean of their {_SUMS[quantity]} over tokens",
            unit_n="SAEs",
            source="Anders & Bloom 2024, there unpaired",
        )
        for quantity in QUANTITIES
    ),
    ScoreSpec(name="delta_ce", better="lower", unit="nats", definition="ce_spliced − ce_clean, mean over predictions"),
    *(
        ScoreSpec(
            name=f"delta_ce_worst{round(100 * tail)}",
            definition=f"Σ ΔCE over the {tail:.0%} of predictions where it is largest / Σ ΔCE over all, gains included",
        )
        for tail in TAILS
    ),
    ScoreSpec(
        name="delta_ce_pearson",
        unit_n="SAEs",
        definition="mean over the other SAEs of the Pearson correlation of the two SAEs' ΔCE over predictions",
    ),
    ScoreSpec(
        name="delta_ce_spearman",
        unit_n="SAEs",
        definition="mean over the other SAEs of the Spearman rank correlation of the two SAEs' ΔCE over predictions",
    ),
    ScoreSpec(
        name="delta_ce_overlap",
        unit_n="SAEs",
        definition=f"mean over the other SAEs of the share of its {TAIL:.0%} worst predictions among their {TAIL:.0%} worst; "
        f"{TAIL} by chance",
    ),
)
_SPEC = {spec.name: spec for spec in SPECS}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found about all SAEs."""

    found: Found
    likeness: Likeness
    drawn: list[Likeness]
    """The same in each draw of the bootstrap."""
    finite: Bool[np.ndarray, " S"]
    """Whether every ΔCE of the SAE is a number; where not, it is compared with nothing."""

    def behind(self, i: int) -> list[int]:
        """Return the SAEs behind SAE ``i``."""
        return [j for first, j in self.found.spliced if first == i]

    def fraction(self, i: int, j: int, q: int) -> Estimate:
        """Return the fractional change of quantity ``q`` of SAE ``j`` while SAE ``i`` is spliced in."""
        clean, spliced = self.found.clean[j, q], self.found.spliced[i, j][q]
        n = int(self.found.counts.sum())
        return ratio(spliced - clean, clean, n=n, reason="it is 0 on the clean forward")


def scores(findings: Findings, i: int) -> list[Score]:
    """Return the scores of SAE ``i``."""
    estimates = {f"propagation_{name}": _mean_fraction(findings, i, q) for q, name in enumerate(QUANTITIES)}
    estimates["delta_ce"] = _delta_ce(findings.found, i)
    n = len(findings.found.context)
    for t, tail in enumerate(TAILS):
        draws = np.array([one.share[i, t] for one in findings.drawn])
        why = "ΔCE is not finite" if not findings.finite[i] else "the mean ΔCE is not above 0"
        estimates[f"delta_ce_worst{round(100 * tail)}"] = _estimate(findings.likeness.share[i, t], draws, n=n, reason=why)
    for name in ("pearson", "spearman", "overlap"):
        matrix = getattr(findings.likeness, name)
        others = int((~np.isnan(np.delete(matrix[i], i))).sum())
        draws = np.array([one.others(name)[i] for one in findings.drawn])
        value = findings.likeness.others(name)[i]
        estimates[f"delta_ce_{name}"] = _estimate(
            value, draws, n=others, reason="ΔCE of this SAE, or of all others, does not vary or is not finite"
        )
    return [spec.score(estimates[spec.name]) for spec in SPECS]


def raw(findings: Findings, i: int) -> dict[str, float | None]:
    """Return the sums behind the scores of SAE ``i``; those behind the fractions stand in the table ``propagation``."""
    found, delta = findings.found, findings.found.delta_ce[i]
    own = dict(zip((f"sum_clean_{name}" for name in QUANTITIES), found.clean[i].sum(1).tolist(), strict=True))
    return {
        "predictions": float(len(delta)),
        "tokens_scored": float(found.counts.sum()),
        "sum_ce_clean": float(found.ce_clean.sum()),
        "sum_delta_ce": float(delta.sum()),
        "sum_delta_ce_increases": float(np.maximum(delta, 0.0).sum()),
        **own,
    }


def error_of(draws: NDArray[np.float64]) -> float | None:
    """Return the deviation over the draws of a bootstrap; ``None`` where there are not two, or one gave nothing."""
    return float(draws.std(ddof=1)) if len(draws) > 1 and bool(np.isfinite(draws).all()) else None


def _estimate(value: float, draws: NDArray[np.float64], *, n: int, reason: str) -> Estimate:
    if np.isnan(value):
        return Estimate(value=None, n=n, reason=reason)
    return Estimate(value=float(value), stderr=error_of(draws), n=n)


def _delta_ce(found: Found, i: int) -> Estimate:
    sums, counts = np.zeros(len(found.counts)), np.zeros(len(found.counts))
    add_at(sums, found.context, found.delta_ce[i])
    add_at(counts, found.context)
    return ratio(sums, counts, n=len(found.context))


def _mean_fraction(findings: Findings, i: int, q: int) -> Estimate:
    """Return the mean over the SAEs behind of the fraction; its error is that of the mean of the linearised ratios by context.

    Each ratio R = Σ_c a_c / Σ_c b_c moves by (a_c − R b_c) / Σ b with context c, and a mean of ratios by the mean of that.
    """
    pairs = [(findings.fraction(i, j, q), j) for j in findings.behind(i)]
    known = [(one.value, j) for one, j in pairs if one.value is not None]
    if not known:
        return Estimate(value=None, n=0, reason=f"no SAE behind has any {QUANTITIES[q]}" if pairs else _NONE_BEHIND)
    used = findings.found.counts > 0
    moves = np.zeros(len(findings.found.counts))
    for value, j in known:
        clean, spliced = findings.found.clean[j, q], findings.found.spliced[i, j][q]
        moves += (spliced - clean - value * clean) / clean.sum() / len(known)
    c = int(used.sum())
    error = float(np.sqrt(c / (c - 1) * np.square(moves[used]).sum())) if c > 1 else None
    return Estimate(value=float(np.mean([value for value, _ in known])), stderr=error, n=len(known))

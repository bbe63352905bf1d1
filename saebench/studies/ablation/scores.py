"""From the effects to scores and series.

Letters: ``A`` ablations of one kind, ``C`` contexts, ``S`` d_sae.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from saebench.lm.effects import Sizes
from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score, Series
from saebench.stats import Estimate, add_at, ratio
from saebench.studies.ablation.removed import Removed

SOURCES = {
    "": "the active latents, in the clean stream: x − f_j W_dec[j]",
    "_spliced": "the active latents, with recons in place of acts: x̂ − f_j W_dec[j]",
    "_channels": "channels of the acts, each set to 0",
    "_pca": "principal components of the acts",
    "_random": "random directions as long as what the token's latents add",
}
"""What is taken out, by the suffix of its scores."""
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
_GAO = "Gao et al. 2024, arXiv 2406.04093, §4.5"
_NONE = "no latent is active at the sampled tokens"


def _spec(name: str, definition: str, *, unit_n: str = "ablations", better: bool = True) -> ScoreSpec:
    return ScoreSpec(name=name, definition=definition, unit_n=unit_n, better="lower" if better else "none", source=_GAO)


SPECS = (
    *(
        spec
        for suffix, what in SOURCES.items()
        for spec in (
            _spec(
                f"ablation_sparsity{suffix}",
                f"mean of (L1/L2)² / (V·T) of the change of logits at T positions, less its median at each; taken out: {what}",
                better=suffix in ("", "_spliced"),
            ),
            _spec(
                f"ablation_sparsity_next{suffix}",
                f"mean of (L1/L2)² / V of the same at the prediction of the next token alone; taken out: {what}",
                better=suffix in ("", "_spliced"),
            ),
            ScoreSpec(
                name=f"ablation_next_share{suffix}",
                definition=f"mean share of Σe² that falls on the prediction of the next token; taken out: {what}",
                unit_n="ablations",
            ),
        )
    ),
    _spec("ablation_sparsity_median", "median of ablation_sparsity over ablations"),
    _spec("ablation_sparsity_by_latent", "mean over latents of the mean over their ablations", unit_n="latents"),
    ScoreSpec(
        name="ablation_sparsity_gaussian",
        definition="the same of effects that are independent normal numbers; 2/π = 0.637 but for their finite number",
        unit_n="draws",
    ),
)
_BY_NAME = {spec.name: spec for spec in SPECS}


@dataclass(kw_only=True)
class Found:
    """What was taken out, and what that did, one entry an ablation; grows batch by batch."""

    token: list[np.ndarray] = field(default_factory=list)
    """Number of the sampled token."""
    which: list[np.ndarray] = field(default_factory=list)
    value: list[np.ndarray] = field(default_factory=list)
    sparsity: list[np.ndarray] = field(default_factory=list)
    sparsity_next: list[np.ndarray] = field(default_factory=list)
    next_share: list[np.ndarray] = field(default_factory=list)
    norm: list[np.ndarray] = field(default_factory=list)
    """√Σe² over all positions."""

    def add(self, numbers: Int[np.ndarray, " N"], removed: Removed, sizes: list[Sizes], d_vocab: int) -> None:
        """Add the effects of one batch.

        Args:
            numbers: What the batch's tokens are called in the whole sample.
            removed: What was taken out.
            sizes: The effects, in order, in parts.
            d_vocab: ``V``.
        """
        if not len(removed):
            return
        self.token.append(numbers[removed.token.cpu().numpy()])
        self.which.append(removed.which.cpu().numpy())
        self.value.append(removed.value.double().cpu().numpy())
        self.sparsity += [one.sparsity(d_vocab) for one in sizes]
        self.sparsity_next += [one.first_sparsity(d_vocab) for one in sizes]
        self.next_share += [one.first_share() for one in sizes]
        self.norm += [np.sqrt(one.square.sum(1)) for one in sizes]

    def column(self, name: str) -> np.ndarray:
        """Return one of the fields over all batches, in the order of the sampled tokens."""
        parts = getattr(self, name)
        if not parts:
            return np.zeros(0, dtype=np.int64 if name in ("token", "which") else np.float64)
        return np.concatenate(parts)[np.concatenate(self.token).argsort(kind="stable")]

    def known(self) -> Bool[np.ndarray, " A"]:
        """Return which ablations change anything (or give numbers that are not finite, which no score may hide)."""
        return np.asarray(self.column("norm") != 0, dtype=bool)


def mean_over(found: Found, name: str, context: Int[np.ndarray, " N"], reason: str = "nothing was taken out") -> Estimate:
    """Return the mean of a column over the ablations with an effect; standard error clustered by context."""
    known = found.known()
    if name == "sparsity_next":
        known &= found.column("next_share") != 0
    values, of = found.column(name)[known], context[found.column("token")[known]]
    sums, counts = np.zeros(int(context.max()) + 1), np.zeros(int(context.max()) + 1)
    add_at(sums, of, values)
    add_at(counts, of)
    if not known.any() and len(known):
        reason = "no ablation changes a prediction"
    return ratio(sums, counts, n=len(values), reason=reason)


def source_scores(suffix: str, found: Found, context: Int[np.ndarray, " N"]) -> list[Score]:
    """Return mean sparsity, at all positions and at the next token, and mean share of the latter.

    Args:
        suffix: Of :data:`SOURCES`.
        found: Its ablations.
        context: Of each sampled token.
    """
    reason = _NONE if suffix in ("", "_spliced", "_random") else "nothing was taken out"
    names = {column: f"ablation_{column}{suffix}" for column in ("sparsity", "sparsity_next", "next_share")}
    return [_BY_NAME[name].score(mean_over(found, column, context, reason)) for column, name in names.items()]


def latent_means(found: Found, name: str) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """Return (latents, mean of a column over the ablations of each that have an effect)."""
    known = found.known()
    latents, number = np.unique(found.column("which")[known], return_inverse=True)
    n = np.bincount(number, minlength=len(latents))
    return latents, np.bincount(number, found.column(name)[known], len(latents)) / n


def spread_scores(found: Found) -> list[Score]:
    """Return the median over ablations and the mean over latents."""
    values = found.column("sparsity")[found.known()]
    _, means = latent_means(found, "sparsity")
    n, none = len(means), Estimate(value=None, reason=_NONE if not len(found.column("norm")) else "no ablation has an effect")
    error = float(means.std(ddof=1) / np.sqrt(n)) if n > 1 else None
    return [
        _BY_NAME["ablation_sparsity_median"].score(Estimate(value=float(np.median(values)), n=len(values)) if n else none),
        _BY_NAME["ablation_sparsity_by_latent"].score(Estimate(value=float(means.mean()), stderr=error, n=n) if n else none),
    ]


def gaussian_score(draws: Float[np.ndarray, " n"]) -> Score:
    """Return the mean of what independent normal numbers give."""
    error = float(draws.std(ddof=1) / np.sqrt(len(draws)))
    return _BY_NAME["ablation_sparsity_gaussian"].score(Estimate(value=float(draws.mean()), stderr=error, n=len(draws)))


def quantile_series(name: str, found: Found) -> list[Series]:
    """Return the quantiles of sparsity over ablations; nothing where there is none, or one is not finite."""
    values = found.column("sparsity")[found.known()]
    if not len(values) or not np.isfinite(values).all():
        return []
    return [Series(name=name, x_name="quantile", x=list(QUANTILES), value=np.quantile(values, QUANTILES).tolist())]


def density_series(found: Found, density: Float[np.ndarray, " S"], context: Int[np.ndarray, " N"]) -> list[Series]:
    """Return mean sparsity by density of the latent, in half decades; x is log10 of the density in the middle.

    Args:
        found: Ablations of latents.
        density: Share of tokens at which each latent is active.
        context: Of each sampled token.
    """
    known = found.known()
    if not known.any():
        return []
    with np.errstate(divide="ignore"):
        half = np.floor(2 * np.log10(density[found.column("which")])).clip(max=-1)  # a latent that is always active too
    series = Series(name="ablation_sparsity_by_density", x_name="log10 density", x=[], value=[], stderr=[], n=[])
    assert series.stderr is not None and series.n is not None
    for bin_ in np.unique(half[known & np.isfinite(half)]):
        here = half == bin_
        part = Found(
            token=[found.column("token")[here]], norm=[found.column("norm")[here]], sparsity=[found.column("sparsity")[here]]
        )
        estimate = mean_over(part, "sparsity", context)
        series.x.append(float(bin_ + 0.5) / 2)
        series.value.append(finite_or_none(estimate.value))
        series.stderr.append(finite_or_none(estimate.stderr))
        series.n.append(estimate.n)
    return [series]

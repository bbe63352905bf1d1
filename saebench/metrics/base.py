"""What a metric is, and what the pass over the corpus feeds it.

A metric of one SAE is made before the pass, fed row by row, and asked once at the end. It keeps sums; ratios are taken in
``finish``. It says what it needs, and the pass computes nothing that no metric needs.

Letters: ``m`` rows of one chunk (tokens), ``D`` width read, ``O`` width written, ``S`` d_sae.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saebench.record import Score, Series
from saebench.sae import SAE, Latents
from saebench.stats import Estimate, Tally, Window

Need = Literal["acts", "losses"]


def finite_or_none(value: float | None) -> float | None:
    """Return ``value``, or ``None`` for NaN and infinities, which no record takes."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class ScoreSpec:
    """The definition of one score."""

    name: str
    definition: str
    """Formula in words and symbols."""
    better: Literal["higher", "lower", "none"] = "none"
    unit: str = ""
    unit_n: str = "tokens"
    source: str = ""

    def score(self, estimate: Estimate, *, name: str | None = None) -> Score:
        """Return the record row for ``estimate``; a value that is not finite becomes null, ``failed``, with the reason."""
        value = finite_or_none(estimate.value)
        status, reason = "ok", None
        if estimate.value is None:
            status, reason = "undefined", estimate.reason or "undefined"
        elif value is None:
            status, reason = "failed", f"the arithmetic gave {estimate.value}: it overflowed, or a recon is not finite"
        return Score(
            name=name or self.name,
            value=value,
            stderr=None if value is None else finite_or_none(estimate.stderr),
            n=estimate.n,
            unit=self.unit,
            unit_n=self.unit_n,
            better=self.better,
            status=status,
            reason=reason,
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a metric may know before the pass."""

    sae: SAE
    n_contexts: int
    context_length: int
    windows: tuple[Window, ...]
    """Inside the SAE's training context and beyond it; empty where that length is unknown or not exceeded."""
    reference_mean: Float[Tensor, " O"]
    """Mean of the target acts over the first contexts: a shift that keeps sums accurate, not an estimate."""

    def tally(self) -> Tally:
        """Return an empty tally of the right size."""
        return Tally(self.n_contexts, self.context_length, self.windows)


class ActRows(NamedTuple):
    """Scored tokens of one chunk, in the SAE's own space (centred if it expects that)."""

    acts: Float[Tensor, "m D"]
    target: Float[Tensor, "m O"]
    """What the SAE should reproduce: the acts, or the output acts of a transcoder."""
    recon: Float[Tensor, "m O"]
    latents: Latents
    context: NDArray[np.int64]
    position: NDArray[np.int64]


class LossRowsOf(NamedTuple):
    """Losses of one batch's scored predictions, for one SAE, in nats, float64 ``[m]``."""

    ce_clean: NDArray[np.float64]
    ce_spliced: NDArray[np.float64]
    kl: NDArray[np.float64]
    """KL(clean ‖ spliced)."""
    top1: NDArray[np.float64]
    """1 where the spliced pass's most likely token is the clean one's."""
    ce_zero: NDArray[np.float64]
    kl_zero: NDArray[np.float64]
    """KL(clean ‖ zero-ablated)."""
    context: NDArray[np.int64]
    position: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """What a metric has found."""

    scores: list[Score] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    raw: dict[str, float | None] = field(default_factory=dict)
    """Pooled sums behind the ratios."""
    per_latent: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    """Columns ``[S]`` of the table beside the record."""


class After(NamedTuple):
    """What is known only when the pass is over."""

    ce_mean: Float[np.ndarray, "C L"] | None
    """CE per prediction under mean ablation, at each position that scores one (NaN elsewhere); ``None`` if nobody asked."""


class Metric(ABC):
    """One metric of one SAE. Subclasses set the class variables and override what they use."""

    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()
    specs: ClassVar[tuple[ScoreSpec, ...]] = ()

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    @classmethod
    def spec(cls, name: str) -> ScoreSpec:
        """Return the definition of the score called ``name``."""
        return next(s for s in cls.specs if s.name == name)

    def update_acts(self, rows: ActRows) -> None:
        """Take one chunk of scored acts (called if ``needs`` holds ``"acts"``)."""
        del rows

    def update_losses(self, rows: LossRowsOf) -> None:
        """Take one batch of losses (called if ``needs`` holds ``"losses"``)."""
        del rows

    @abstractmethod
    def finish(self, after: After) -> MetricResult:
        """Return the scores. Called once, when the pass is over."""


def position_series(tally: Tally, name: str, unit: str, positions: int) -> Series:
    """Return the tally's means as a series over every position, 0 = BOS (``None``: not scored)."""
    means, errors, counts = tally.by_position()
    found = [finite_or_none(mean) for mean in means]
    return Series(
        name=name,
        x_name="position",
        x=[float(p) for p in range(positions)],
        value=found,
        stderr=[None if mean is None else finite_or_none(error) for mean, error in zip(found, errors, strict=True)],
        n=counts,
        unit=unit,
    )

"""The study ``drop_curves``: what the weakest active latents are worth, and what the densest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pydantic import field_validator
from torch import Tensor

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score, Series
from saebench.registry import STUDIES
from saebench.sae import SAE, Latents
from saebench.stats import Estimate, add_at, ratio
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.replaced import Acts, Measured, densities, measure
from saebench.tasklist import TaskCorpus

_SHARES = {"quarter": 0.25, "half": 0.5}
_SOURCE = "L. Smith, comments, 2024"
_ROUNDING = 1e-9
"""Share of L0 that sums of densities may be off by."""


class DropSettings(StudySettings):
    """Settings of the study."""

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    weakest: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """How many of each token's weakest active latents are dropped."""
    densest: tuple[float, ...] = (0.9, 0.75, 0.5, 0.25)
    """Shares of the SAE's mean L0 that the rest is brought to, the densest latents dropped everywhere; 0.75 and 0.5 are
    always there."""

    @field_validator("weakest")
    @classmethod
    def _counts(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in value):
            raise ValueError("numbers of latents to drop must be 1 or more; 0, the whole recon, is always there")
        return tuple(sorted(set(value)))

    @field_validator("densest")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= share < 1 for share in value):
            raise ValueError("shares of L0 must lie between 0 and 1, 1 left out")
        return tuple(sorted({*value, *(1 - share for share in _SHARES.values())}, reverse=True))


class _Kept(NamedTuple):
    """What is left of the latents."""

    kind: str
    """``weakest`` (so many of each token), ``weakest share`` (of each token's own), ``densest`` (to a share of L0)."""
    amount: float


def _specs() -> tuple[ScoreSpec, ...]:
    out = [
        ScoreSpec(name="delta_ce", better="lower", unit="nats", definition="ce_spliced − ce_clean, nothing dropped"),
        ScoreSpec(name="mse", better="lower", unit="act²", definition="mean over tokens of ‖x−x̂‖², nothing dropped"),
        ScoreSpec(name="l0", definition="mean number of latents ≠ 0, nothing dropped"),
    ]
    for kind, what in (
        ("weakest", "of each token's active latents dropped, its weakest, rounded down"),
        ("densest", "of the mean L0 dropped, whole latents, the densest first"),
    ):
        for name in _SHARES:
            words = f"a {name} {what}"
            tail = f"{kind}_{name}"
            out += [
                ScoreSpec(
                    name=f"drop_{tail}_delta_ce",
                    unit="nats",
                    source=_SOURCE,
                    definition=f"CE less CE with the whole recon: {words}",
                ),
                ScoreSpec(
                    name=f"drop_{tail}_delta_kl",
                    unit="nats",
                    source=_SOURCE,
                    definition=f"KL less KL with the whole recon: {words}",
                ),
                ScoreSpec(name=f"drop_{tail}_mse_ratio", source=_SOURCE, definition=f"MSE / MSE of the whole recon: {words}"),
            ]
    return tuple(out)


@STUDIES.register("drop_curves")
class DropCurves(Study[DropSettings]):
    """What the weakest active latents of a token are worth, and what the densest latents are.

    Latents are dropped from what the encoder gave and the rest is decoded as it is; the recon is spliced in at every position but
    0 (``--splice-bos`` for that too), on one clean pass for all.

    - Weakest: of each token's active latents those of the smallest |f|; so many of them, or a share of the token's own. If CE
      does not rise, the weakest activations are noise; if it does, they carry something.
    - Densest: whole latents, those active at the largest share of this text's tokens first, until the mean L0 over tokens is at
      most a share of the SAE's. The number of latents dropped is a series.

    Series by the number, or the share of L0 that is left: CE, KL, MSE and L0. Standard errors are clustered by context.
    """

    name = "drop_curves"
    version = 1
    specs = _specs()
    Settings: ClassVar[type[StudySettings]] = DropSettings

    def total(self) -> int:
        """Return the contexts, each read twice: for the densities, and spliced."""
        return 2 * len(self.setting.text.tokens)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.
        """
        corpus, settings = self.setting.text, self.settings
        kept = [
            _Kept("weakest", 0),
            *(_Kept("weakest", k) for k in settings.weakest),
            *(_Kept("weakest share", share) for share in _SHARES.values()),
            *(_Kept("densest", share) for share in settings.densest),
        ]
        density = densities(self.setting, saes)
        dropped = [[_densest(one, k.amount) if k.kind == "densest" else None for k in kept] for one in density]
        l0 = [np.zeros((len(kept), len(corpus.tokens))) for _ in saes]

        def replacements(number: int, tokens: Acts) -> Iterator[Float[Tensor, "m O"]]:
            sae = saes[number]
            latents = sae.encode(tokens.acts)
            rank = rank_from_weakest(latents)
            scored = tokens.scored.cpu().numpy()
            for i, one in enumerate(kept):
                if one.kind == "densest":
                    mask = ~torch.from_numpy(dropped[number][i]).to(rank.device)[latents.indices]
                elif one.kind == "weakest":
                    mask = rank >= one.amount
                else:
                    mask = rank >= (latents.l0() * one.amount).floor()[latents.rows()]
                left = keep(latents, mask)
                add_at(l0[number][i], tokens.context[scored], left.l0().double().cpu().numpy()[scored])
                yield sae.decode(left, tokens.acts)

        found = measure(self.setting, saes, replacements)
        return [
            StudyResult(
                scores=self._scores(kept, one, counts),
                series=_series(kept, one, counts, [0 if d is None else int(d.sum()) for d in drop]),
                raw={"latents_dead": float((dense == 0).sum()), "predictions": float(one.n_predictions.sum())},
                data=text_info(corpus),
            )
            for one, counts, drop, dense in zip(found, l0, dropped, density, strict=True)
        ]

    def _scores(self, kept: list[_Kept], found: Measured, l0: Float[np.ndarray, "W C"]) -> list[Score]:
        n = int(found.n_acts.sum())
        estimates = {
            "delta_ce": found.delta_ce(0),
            "mse": found.mean("sse", 0),
            "l0": ratio(l0[0], found.n_acts, n=n),
        }
        for kind, amount in (("weakest", lambda s: ("weakest share", s)), ("densest", lambda s: ("densest", 1 - s))):
            for name, share in _SHARES.items():
                row = kept.index(_Kept(*amount(share)))
                estimates[f"drop_{kind}_{name}_delta_ce"] = found.mean("ce", row, less=0)
                estimates[f"drop_{kind}_{name}_delta_kl"] = found.mean("kl", row, less=0)
                estimates[f"drop_{kind}_{name}_mse_ratio"] = ratio(
                    found.sse[row], found.sse[0], n=n, reason="the whole recon has no error"
                )
        return [self.spec(name).score(estimate) for name, estimate in estimates.items()]


def rank_from_weakest(latents: Latents) -> Int[Tensor, " Z"]:
    """Return the place of each entry among those of its token, 0 for the smallest |f|; equal ones in the order they are in."""
    order = torch.sort(latents.values.abs(), stable=True).indices
    rows = latents.rows()
    order = order[torch.sort(rows[order], stable=True).indices]
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - latents.offsets[:-1][rows]
    return rank


def keep(latents: Latents, mask: Bool[Tensor, " Z"]) -> Latents:
    """Return some of the entries."""
    counts = torch.bincount(latents.rows()[mask], minlength=len(latents))
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Latents(values=latents.values[mask], indices=latents.indices[mask], offsets=offsets, d_sae=latents.d_sae)


def _densest(density: Float[np.ndarray, " S"], share: float) -> Bool[np.ndarray, " S"]:
    """Return which latents to drop, the densest first, so that at most ``share`` of Σ density is left."""
    order = np.argsort(-density, kind="stable")
    left = np.append(np.cumsum(density[order[::-1]])[::-1], 0.0)  # summed from the rarest, so that what is left ends at 0
    n = int(np.argmax(left <= (share + _ROUNDING) * left[0]))
    out = np.zeros(len(density), dtype=bool)
    out[order[:n]] = True
    return out


def _series(kept: list[_Kept], found: Measured, l0: Float[np.ndarray, "W C"], dropped: list[int]) -> list[Series]:
    out = []
    for kind, x_name in (("weakest", "latents dropped a token"), ("densest", "share of L0 left")):
        rows = [i for i, one in enumerate(kept) if one.kind == kind or (kind == "densest" and not i)]
        x = [1.0 if kind == "densest" and not i else float(kept[i].amount) for i in rows]
        columns: dict[str, tuple[list[Estimate], str]] = {
            "ce": ([found.mean("ce", i) for i in rows], "nats"),
            "delta_ce": ([found.mean("ce", i, less=0) for i in rows], "nats"),
            "kl": ([found.mean("kl", i) for i in rows], "nats"),
            "mse": ([found.mean("sse", i) for i in rows], "act²"),
            "l0": ([ratio(l0[i], found.n_acts, n=int(found.n_acts.sum())) for i in rows], ""),
        }
        for name, (estimates, unit) in columns.items():
            out.append(
                Series(
                    name=f"drop_{kind}_{name}", x_name=x_name, x=x, unit=unit, n=[e.n for e in estimates],
                    value=[finite_or_none(e.value) for e in estimates],
                    stderr=[finite_or_none(e.stderr) for e in estimates],
                )
            )  # fmt: skip
        if kind == "densest":
            out.append(Series(name="drop_densest_latents", x_name=x_name, x=x, value=[float(dropped[i]) for i in rows]))
    return out

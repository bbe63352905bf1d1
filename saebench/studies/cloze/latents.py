"""Scores by latent: how the answer fares where a latent is active, against chance, and which latents are then ablated.

Letters: ``N`` prompts, ``S`` d_sae, ``T`` latents that are active somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score, Series
from saebench.stats import Estimate, ratio
from saebench.studies.cloze.active import Active
from saebench.studies.cloze.null import mean_null, q_values, sign_null

Floats = NDArray[np.float64]
Role = Literal["helpful", "harmful", "control"]
Q = 0.05
"""The false discovery rate below which a latent is called significant."""
_NEAR = 10
"""A control is one of so many latents whose number of prompts is nearest."""
_MOST = 32
_BYTES = 32 << 20


class LatentSettings(BaseModel):
    """What a cloze task says under ``settings: latents``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    window: int = Field(default=32, ge=1)
    """A latent counts as active in a prompt if it is ≠ 0 at one of its last `window` tokens."""
    min_prompts: int = Field(default=10, ge=1)
    """Latents are tested that are active in so many prompts at least, and inactive in as many."""
    listed: int = Field(default=10, ge=0)
    """How many of the most helpful latents, and of the most harmful, are listed and ablated; 0 ablates none."""
    ablated_prompts: int | None = Field(default=None, ge=2)
    """Prompts in which each of them is ablated, at most; the seed chooses among those where it is active. If it is not given: 32,
    or fewer, but two, so that in all no more texts are ablated than the task has prompts."""


def _spec(name: str, definition: str, source: str = "", unit: str = "") -> ScoreSpec:
    return ScoreSpec(name=name, definition=definition, source=source, unit=unit, unit_n="latents")


_ABLATED = "mean over {} of ln p_ablated − ln p_spliced of the answer: each latent's contribution taken out of the recon"
_NULL = "Anders & Bloom 2024, against the null of a random draw; Robinson 1982; Benjamini & Hochberg 1995"
LATENT_SPECS = (
    _spec("latents_tested", "latents active near the end of `min_prompts` prompts at least, and inactive there in as many"),
    _spec(
        "latents_significant",
        "tested latents whose mean Δ ln p over the prompts where they are active is not that of as many prompts drawn at random: "
        f"two-sided, Benjamini–Hochberg q < {Q}",
        _NULL,
    ),
    _spec("latents_significant_sign", "the same by the ±1 score, prompts with Δ ln p ≥ 0 less those with Δ ln p < 0", _NULL),
    _spec(
        "causal_agreement",
        "share of the most helpful and most harmful latents whose ablation moves the mean ln p of the answer the way their "
        "score says: down for a helpful one, up for a harmful one",
    ),
    _spec("causal_agreement_control", "the same of random other latents that are active in about as many prompts"),
    _spec("ablated_delta_lnp_helpful", _ABLATED.format("the most helpful latents"), unit="nats"),
    _spec("ablated_delta_lnp_harmful", _ABLATED.format("the most harmful latents"), unit="nats"),
    _spec("ablated_delta_lnp_control", _ABLATED.format("random latents active in about as many prompts"), unit="nats"),
)
_BY_NAME = {spec.name: spec for spec in LATENT_SPECS}


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One entry a latent that is active somewhere; NaN where it is not tested, or all prompts are alike."""

    latent: Int[np.ndarray, " T"]
    n_active: Int[np.ndarray, " T"]
    mean: Float[np.ndarray, " T"]
    """Mean Δ ln p over the prompts where it is active, nats."""
    z: Float[np.ndarray, " T"]
    sign_mean: Float[np.ndarray, " T"]
    """The ±1 score over ``n_active``; a Δ ln p of 0 counts +1, as Anders & Bloom have it."""
    sign_z: Float[np.ndarray, " T"]
    p: Float[np.ndarray, " T"]
    q: Float[np.ndarray, " T"]
    sign_p: Float[np.ndarray, " T"]
    sign_q: Float[np.ndarray, " T"]
    n_prompts: int
    """Prompts with a finite Δ ln p; the others are left out."""

    @property
    def tested(self) -> Bool[np.ndarray, " T"]:
        """Which latents have a p."""
        return np.isfinite(self.p)


def observe(active: Active, delta: Float[np.ndarray, " N"], min_prompts: int) -> Observed:
    """Return every active latent's scores, and their place among those of as many prompts drawn without replacement.

    Args:
        active: Which latents are active in which prompts.
        delta: ln p_spliced − ln p_clean of each answer.
        min_prompts: Latents are tested that are active in so many prompts, and inactive in as many.
    """
    known = np.isfinite(delta)
    values = delta[known]
    good = values >= 0
    n, total, n_good = _sums(active, known, np.stack([np.ones(len(values)), values, good.astype(np.float64)]))
    latent = np.flatnonzero(n)
    n_active, total, n_good = n[latent].astype(np.int64), total[latent], np.rint(n_good[latent]).astype(np.int64)
    tested = (n_active >= min_prompts) & (len(values) - n_active >= min_prompts)
    columns = {name: np.full(len(latent), np.nan) for name in ("z", "p", "q", "sign_z", "sign_p", "sign_q")}
    if tested.any():
        of = n_active[tested]
        mean, sign = mean_null(values, of, total[tested]), sign_null(int(good.sum()), len(values), of, n_good[tested])
        if np.isfinite(mean.p).all():  # else all prompts are alike, and nothing can be tested
            found = (mean.z, mean.p, q_values(mean.p), sign.z, sign.p, q_values(sign.p))
            for column, values_ in zip(columns.values(), found, strict=True):
                column[tested] = values_
    return Observed(
        latent=latent, n_active=n_active, mean=total / n_active, sign_mean=(2 * n_good - n_active) / n_active,
        n_prompts=int(known.sum()), **columns,
    )  # fmt: skip


def _sums(active: Active, known: Bool[np.ndarray, " N"], values: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K S"]:
    """Return Σ of each row of ``values`` over the known prompts where each latent is active, some latents at a time."""
    out = np.empty((len(values), active.d_sae))
    block = max(8, _BYTES // (8 * max(1, len(known))) // 8 * 8)
    for start in range(0, active.d_sae, block):
        stop = min(start + block, active.d_sae)
        out[:, start:stop] = values @ active.columns(start, stop)[known].astype(np.float64)
    return out


def choose(observed: Observed, listed: int, generator: torch.Generator) -> dict[int, Role]:
    """Return the latents to ablate, and why each: the most helpful and the most harmful by p, and controls.

    A control is drawn for each of them from the tested latents that are not listed and whose ``n_active`` is nearest to its own.

    Args:
        observed: The scores of all latents.
        listed: How many helpful and how many harmful ones, significant or not.
        generator: Draws the controls.
    """
    order = np.lexsort((observed.latent, -np.abs(np.nan_to_num(observed.z)), observed.p))
    order = order[observed.tested[order]]
    helpful, harmful = order[observed.z[order] > 0][:listed], order[observed.z[order] < 0][:listed]
    roles: dict[int, Role] = {int(observed.latent[i]): "helpful" for i in helpful}
    roles |= {int(observed.latent[i]): "harmful" for i in harmful}
    left = np.setdiff1d(np.flatnonzero(observed.tested), np.concatenate([helpful, harmful]))
    for i in np.concatenate([helpful, harmful]):
        if not len(left):
            break
        apart = np.abs(observed.n_active[left] - observed.n_active[i])
        near = left[np.argsort(apart, kind="stable")[:_NEAR]]
        one = near[int(torch.randint(len(near), (1,), generator=generator))]
        roles[int(observed.latent[one])] = "control"
        left = left[left != one]
    return roles


def prompts_of(
    active: Active, roles: Mapping[int, Role], known: Bool[np.ndarray, " N"], most: int | None, generator: torch.Generator
) -> dict[int, list[int]]:
    """Return the prompts in which each chosen latent is ablated: the first of a random order where it is active.

    The order is the same for all latents, so that they share prompts.

    Args:
        active: Which latents are active in which prompts.
        roles: The latents.
        known: Prompts with a finite Δ ln p.
        most: Prompts of a latent, at most; ``None``: 32, and no more for all latents together than N, or two each.
        generator: Draws the order.
    """
    if most is None:
        most = min(_MOST, max(2, len(known) // max(1, len(roles))))
    order = torch.randperm(len(known), generator=generator).numpy()
    order = order[known[order]]
    return {latent: order[active.of(latent)[order]][:most].tolist() for latent in roles}


def latent_table(observed: Observed, roles: Mapping[int, Role], changes: Mapping[int, Floats]) -> dict[str, NDArray[np.generic]]:
    """Return one row a latent that is active in a prompt, as columns; null where it is not tested, or not ablated."""
    ablated = {latent: _mean(change) for latent, change in changes.items()}
    none = Estimate(value=None)
    found = [ablated.get(int(latent), none) for latent in observed.latent]

    def nullable(values: Sequence[float | None] | Floats) -> NDArray[np.generic]:
        return np.ma.masked_invalid(np.array(values, dtype=np.float64))

    return {
        "latent": observed.latent,
        "n_active": observed.n_active,
        "delta_lnp_mean": observed.mean,
        "delta_lnp_z": nullable(observed.z),
        "sign_mean": observed.sign_mean,
        "sign_z": nullable(observed.sign_z),
        "p": nullable(observed.p),
        "q": nullable(observed.q),
        "sign_p": nullable(observed.sign_p),
        "sign_q": nullable(observed.sign_q),
        "ablated_delta_lnp_mean": nullable([one.value for one in found]),
        "ablated_delta_lnp_stderr": nullable([one.stderr for one in found]),
        "ablated_n": np.array([one.n for one in found], dtype=np.int64),
        "role": np.array([roles.get(int(latent), "") for latent in observed.latent], dtype="U7"),
    }


def latent_scores(
    observed: Observed, roles: Mapping[int, Role], changes: Mapping[int, Floats], settings: LatentSettings
) -> list[Score]:
    """Return the record's scores.

    Args:
        observed: The scores of all latents.
        roles: Those that were chosen.
        changes: ln p_ablated − ln p_spliced of each of them, a prompt an entry.
        settings: What the task file says.
    """
    n = int(observed.tested.sum())
    untested = (
        f"no latent can be tested: none is active in {settings.min_prompts} of {observed.n_prompts} prompts and inactive in as "
        "many, or Δ ln p is the same in all"
    )
    found = {"latents_tested": Estimate(value=float(n), n=len(observed.latent))}
    for name, q in (("latents_significant", observed.q), ("latents_significant_sign", observed.sign_q)):
        found[name] = Estimate(value=float((q < Q).sum()), n=n) if n else Estimate(value=None, reason=untested)
    means = {latent: _mean(change) for latent, change in changes.items()}
    expected = dict(zip(observed.latent.tolist(), -np.sign(observed.z), strict=True))
    for suffix, kinds in (("", ("helpful", "harmful")), ("_control", ("control",))):
        some = {latent: means[latent].value for latent, role in roles.items() if role in kinds}
        signs = {latent: np.sign(value) for latent, value in some.items() if value is not None}
        agree = np.array([sign == expected[latent] for latent, sign in signs.items()], dtype=np.float64)
        found[f"causal_agreement{suffix}"] = ratio(agree, np.ones(len(agree)), n=len(agree), reason=_no_ablation(n, settings))
    for kind in ("helpful", "harmful", "control"):
        values = [means[latent].value for latent, role in roles.items() if role == kind]
        known = np.array([value for value in values if value is not None])
        found[f"ablated_delta_lnp_{kind}"] = ratio(known, np.ones(len(known)), n=len(known), reason=_no_ablation(n, settings))
    return [_BY_NAME[name].score(estimate) for name, estimate in found.items()]


def latent_series(observed: Observed, roles: Mapping[int, Role], changes: Mapping[int, Floats]) -> list[Series]:
    """Return the listed latents, the most helpful or harmful first: Δ ln p where they are active, and what ablation does."""
    at = {latent: i for i, latent in enumerate(observed.latent.tolist())}
    out = []
    for kind in ("helpful", "harmful"):
        latents = [latent for latent, role in roles.items() if role == kind]
        if not latents:
            continue
        x = [float(latent) for latent in latents]
        mean, n = ([column[at[latent]].item() for latent in latents] for column in (observed.mean, observed.n_active))
        found = [_mean(changes[latent]) for latent in latents]
        out.append(Series(name=f"delta_lnp_{kind}", x_name="latent", x=x, value=mean, n=n, unit="nats"))
        out.append(
            Series(
                name=f"ablated_delta_lnp_{kind}", x_name="latent", x=x, value=[one.value for one in found],
                stderr=[one.stderr for one in found], n=[one.n for one in found], unit="nats",
            )
        )  # fmt: skip
    return out


def _mean(change: Floats) -> Estimate:
    """Return the mean of paired differences and its standard error; none where one is not finite."""
    found = ratio(change, np.ones(len(change)), n=len(change))
    return Estimate(value=finite_or_none(found.value), stderr=finite_or_none(found.stderr), n=found.n)


def _no_ablation(tested: int, settings: LatentSettings) -> str:
    if not settings.listed:
        return "no latent is ablated (`listed: 0`)"
    return "no latent can be tested, so none is listed" if not tested else "there is no such latent among those tested"

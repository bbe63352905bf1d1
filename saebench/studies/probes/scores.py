"""The scores of the study and their definitions: from what was found task by task to rows of a record.

Letters: ``T`` tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score, Series
from saebench.stats import Estimate
from saebench.studies.probes.scoring import SCORES, Finding, over_examples, over_tasks

KS = (2, 5, 16)
"""How many latents a probe takes besides the one."""
BASELINES = {
    "neurons": "the channels of the acts in place of latents",
    "pca": "the principal components of the pooled acts of all training texts in place of latents",
    "random": "an SAE of random directions with the SAE's d_sae and L0 in place of the SAE",
}
CEILING = "acts"
BESIDE = ("loss", "acc", "auc")
"""The scores of what stands beside the SAE; the table has all of them."""
_SOURCE = "Gao et al. 2024, arXiv 2406.04093, §4.2"
_BEST = "the latent that was best in training"
_OF_ONE = {
    "loss": (f"test CE of {_BEST}: −ln of the probability given to the right class", "nats", "lower"),
    "acc": (f"test accuracy of {_BEST}", "", "higher"),
    "f1": (f"test F1 of {_BEST}, 2 TP / (2 TP + FP + FN)", "", "higher"),
    "auc": (f"test area under the ROC curve of {_BEST}, ties counted half", "", "higher"),
}


@dataclass(frozen=True, kw_only=True)
class TaskOutcome:
    """What one dictionary is worth in one task."""

    task: str
    n_train: int
    n_test: int
    share: float
    """Of the positive class among the test texts."""
    best: Finding
    """Of the latent with the smallest training loss."""
    loss_train: float
    """That latent's training loss."""
    latents: tuple[int, ...] = ()
    """The latents with the smallest training losses, in order; empty for the ceiling."""
    weight: float | None = None
    bias: float | None = None
    separable: bool = False
    several: Mapping[int, Finding] = field(default_factory=dict)
    """By k, of the k latents with the smallest training losses together."""
    loss_permuted: float = math.nan
    """As ``best``'s loss, chosen and fitted with training labels that were permuted; a mean over permutations."""
    loss_train_permuted: float = math.nan
    """The smallest training loss with permuted labels."""
    n_separable: int = 0
    """Latents that part the training texts."""
    n_unconverged: int = 0


def _spec(name: str, text: str, unit: str = "", better: str = "none", source: str = "") -> ScoreSpec:
    return ScoreSpec(
        name=f"probe_{name}",
        definition=f"Mean over probe tasks of {text}.",
        better=better,  # pyright: ignore[reportArgumentType]
        unit=unit,
        unit_n="tasks",
        source=source,
    )


def _specs() -> tuple[ScoreSpec, ...]:
    out = [_spec(name, *of) for name, of in _OF_ONE.items()]
    minimum = "the smallest training CE over all latents, as in the paper"
    out.append(_spec("loss_train_min", minimum, "nats", "lower", _SOURCE))
    for k in KS:
        which = f"a probe on the {k} latents with the smallest training CEs"
        out.append(_spec(f"loss_k{k}", f"the test CE of {which}", "nats", "lower"))
        out.append(_spec(f"acc_k{k}", f"the test accuracy of {which}", "", "higher"))
        out.append(_spec(f"auc_k{k}", f"the test area under the ROC curve of {which}", "", "higher"))
    luck = "where training labels are permuted, so that only luck is left"
    out.append(_spec("loss_permuted", f"the test CE of the latent chosen and fitted {luck}", "nats"))
    out.append(_spec("loss_train_min_permuted", f"the smallest training CE over all latents {luck}", "nats"))
    out.append(_spec("separable", "whether a threshold of the chosen latent parts the training texts (1 or 0)"))
    for tail, instead in BASELINES.items():
        for name in BESIDE:
            text, unit, _ = _OF_ONE[name]
            out.append(_spec(f"{name}_{tail}", f"{text}, with {instead}", unit))
    ceiling = "logistic regression on all channels of the acts, its penalty chosen on held-out training texts"
    for name in BESIDE:
        text, unit, _ = _OF_ONE[name]
        out.append(_spec(f"{name}_{CEILING}", text.replace(_BEST, ceiling), unit))
    base = "who knows nothing but the training texts' share of the positive class"
    out.append(_spec("loss_base", f"the test CE of {base}", "nats"))
    return tuple(out)


SPECS = _specs()
_BY_NAME = {spec.name: spec for spec in SPECS}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What one dictionary is worth in all tasks."""

    outcomes: Sequence[TaskOutcome]
    finite: bool = True
    reason: str | None = None
    """Why there is nothing, where there is nothing."""


def _named(one: TaskOutcome) -> dict[str, float]:
    """Return every score of one task by name, without tail."""
    found = dict(one.best.values) | {"loss_train_min": one.loss_train}
    for k, finding in one.several.items():
        found |= {f"{name}_k{k}": finding.values[name] for name in ("loss", "acc", "auc")}
    return found | {"loss_permuted": one.loss_permuted, "loss_train_min_permuted": one.loss_train_permuted}


def scores(found: Mapping[str, Found], base: Sequence[Finding], drawn: Float[np.ndarray, "B T"]) -> list[Score]:
    """Return the rows of one record.

    Args:
        found: By tail: the SAE (no tail), the baselines, the ceiling.
        base: Of the share of the positive class, one a task.
        drawn: How often each task is drawn in each draw of the bootstrap.
    """
    out: dict[str, Estimate] = {}
    for tail, one in found.items():
        end = f"_{tail}" if tail else ""
        if one.reason is not None:
            empty = Estimate(value=None, n=0, reason=one.reason)
            out |= {spec.name: empty for spec in SPECS if _tail(spec.name) == tail}
            continue
        rows = [_named(outcome) for outcome in one.outcomes]
        for name in rows[0] if rows else ():
            if f"probe_{name}{end}" in _BY_NAME:
                values = [row[name] if one.finite else math.nan for row in rows]
                out[f"probe_{name}{end}"] = over_tasks(values, drawn)
        if not tail:
            out["probe_separable"] = over_tasks([float(outcome.separable) for outcome in one.outcomes], drawn)
    out["probe_loss_base"] = over_tasks([finding.values["loss"] for finding in base], drawn)
    return [_BY_NAME[spec.name].score(out[spec.name]) for spec in SPECS if spec.name in out]


def _tail(name: str) -> str:
    return next((tail for tail in (*BASELINES, CEILING, "base") if name.endswith(f"_{tail}")), "")


def raw(found: Mapping[str, Found]) -> dict[str, float | None]:
    """Return what lies behind the scores of the SAE: errors over test texts alone, and how the fits went."""
    own = found[""]
    if own.reason is not None:
        return {}
    out: dict[str, float | None] = {
        f"probe_{name}_stderr_examples": finite_or_none(over_examples([one.best.draws[name] for one in own.outcomes]))
        for name in SCORES
    }
    out["probe_fits_separable"] = float(sum(one.n_separable for one in own.outcomes))
    out["probe_fits_unconverged"] = float(sum(one.n_unconverged for one in own.outcomes))
    return out


def series(found: Mapping[str, Found]) -> list[Series]:
    """Return the test CE by task, for the SAE and everything beside it; tasks are numbered as in the table."""
    return [
        Series(
            name=f"probe_loss_by_task{f'_{tail}' if tail else ''}",
            x_name="task",
            x=[float(i) for i in range(len(one.outcomes))],
            value=[finite_or_none(outcome.best.values["loss"]) for outcome in one.outcomes],
            stderr=[finite_or_none(outcome.best.stderr("loss")) for outcome in one.outcomes],
            n=[outcome.n_test for outcome in one.outcomes],
            unit="nats",
        )
        for tail, one in found.items()
        if one.reason is None and one.finite
    ]


def rows(found: Mapping[str, Found], base: Sequence[Finding], about: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return one row a dictionary and task, as columns; ``about`` is what else is to be said of each task."""
    table: dict[str, list[Any]] = {}
    for tail, one in found.items():
        if one.reason is not None or not one.finite:
            continue
        for outcome, known, more in zip(one.outcomes, base, about, strict=True):
            for name, value in (_row(tail or "sae", outcome, known) | dict(more)).items():
                table.setdefault(name, []).append(value)
    return table


def _row(source: str, one: TaskOutcome, base: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source": source, "task": one.task, "n_train": one.n_train, "n_test": one.n_test, "share": one.share,
        "latent": one.latents[0] if one.latents else None, "weight": one.weight, "bias": one.bias,
        "loss_train": finite_or_none(one.loss_train), "separable": one.separable, "loss_base": base.values["loss"],
    }  # fmt: skip
    for name in SCORES:
        row[name] = finite_or_none(one.best.values[name])
        row[f"{name}_stderr"] = finite_or_none(one.best.stderr(name))
    for k in KS:
        finding = one.several.get(k)
        for name in ("loss", "acc", "auc"):
            row[f"{name}_k{k}"] = None if finding is None else finite_or_none(finding.values[name])
    row["latents"] = list(one.latents)
    row["loss_permuted"] = finite_or_none(one.loss_permuted)
    row["loss_train_permuted"] = finite_or_none(one.loss_train_permuted)
    return row | {"n_separable": one.n_separable, "n_unconverged": one.n_unconverged}

"""From the documents' numbers, clean and spliced, to scores: lm-eval's metrics, their differences, and how sure they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score
from saebench.stats import Estimate, ratio
from saebench.studies.cloze.scores import mcnemar
from saebench.studies.lm_eval.found import Found, Key

Floats = NDArray[np.float64]
_RESAMPLES = 200
_SOURCE = "Gao et al. 2024, lm-evaluation-harness"
_KNOWN = {
    "acc": True, "acc_norm": True, "acc_bytes": True, "exact_match": True, "f1": True, "mcc": True, "brier_score": False,
    "perplexity": False, "word_perplexity": False, "byte_perplexity": False, "bits_per_byte": False, "bleu": True,
    "chrf": True, "ter": False, "mc2": True,
}  # fmt: skip
"""Metrics of lm-eval that ``saebench show study lm_eval`` names, and whether higher is better."""


def metric_specs(name: str, higher: bool | None, about: str | None = None) -> tuple[ScoreSpec, ScoreSpec, ScoreSpec]:
    """Return the definitions of a metric, clean, spliced and the difference.

    Args:
        name: The metric, as scores name it.
        higher: Whether higher is better; ``None`` where lm-eval does not say.
        about: lm-eval's own name, where it is another one.
    """
    better: Literal["higher", "lower", "none"] = "none" if higher is None else "higher" if higher else "lower"

    def spec(part: str, definition: str, better: Literal["higher", "lower", "none"]) -> ScoreSpec:
        return ScoreSpec(name=f"{name}_{part}", definition=definition, better=better, unit_n="documents", source=_SOURCE)

    return (
        spec("clean", f"lm-eval's {about or name} of the clean model", "none"),
        spec("spliced", f"lm-eval's {about or name} with recons in place of acts", better),
        spec("delta", f"{name}_spliced − {name}_clean, standard error paired by document", better),
    )


_OTHERS = (
    ScoreSpec(
        name="delta_lnp_mean", unit="nats", unit_n="documents", better="higher",
        definition="mean of ln p_spliced − ln p_clean of the right answer (of the whole text where that is what is asked), "
        "over the documents that have one",
    ),
    ScoreSpec(
        name="delta_lnp_median", unit="nats", unit_n="documents", better="higher", definition="median of the same difference"
    ),
    ScoreSpec(name="n_both", unit_n="documents", definition="documents that are right clean and spliced, by acc or exact_match"),
    ScoreSpec(name="n_clean_only", unit_n="documents", definition="documents that are right clean and wrong spliced"),
    ScoreSpec(name="n_spliced_only", unit_n="documents", definition="documents that are wrong clean and right spliced"),
    ScoreSpec(name="n_neither", unit_n="documents", definition="documents that are wrong clean and spliced"),
    ScoreSpec(
        name="mcnemar_p", unit_n="documents", source="McNemar 1947; binomial form",
        definition="exact two-sided p that n_clean_only and n_spliced_only differ by as much if either change were as likely",
    ),
)  # fmt: skip
SPECS = (*(spec for name, higher in _KNOWN.items() for spec in metric_specs(name, higher)), *_OTHERS)
_OTHER = {spec.name: spec for spec in _OTHERS}
_PARTS = {
    "within_context": "over the documents whose contexts, BOS included, are no longer than the context the SAE was trained at",
    "beyond_context": "over the documents with longer contexts",
}
CONTEXT_SPECS = tuple(
    replace(spec, name=f"{spec.name}_{part}", definition=f"{spec.name} {which}")
    for part, which in _PARTS.items()
    for spec in SPECS
)
"""Every score once more for the documents inside the SAE's training context, and for those beyond it."""


def scores(found: Sequence[Found], which: int, *, seed: int) -> list[Score]:
    """Return the scores of one SAE, over the documents of all tasks together.

    Args:
        found: The tasks, all passes.
        which: The SAE's pass; pass 0 is the clean one.
        seed: Of the bootstrap that gives the standard error of what is no mean over documents.
    """
    out: list[Score] = []
    for key in dict.fromkeys(key for one in found for key in one.metrics):
        having = [one for one in found if key in one.metrics and key[0] in one.aggregations]
        if not having:  # what a task reports of a document without a rule to put documents together
            continue
        clean, spliced = ([value for one in having for value in one.metrics[key][p]] for p in (0, which))
        aggregate = having[0].aggregations[key[0]]
        specs = metric_specs(score_name(key), having[0].higher_is_better.get(key[0]), ", ".join(key))
        estimates = _means(clean, spliced) if _is_mean(aggregate) else _aggregated(aggregate, clean, spliced, seed)
        out += [spec.score(estimate) for spec, estimate in zip(specs, estimates, strict=True)]
    estimates = _lnp(found, which) | _classes(found, which)
    return out + [_OTHER[name].score(estimate) for name, estimate in estimates.items()]


def scores_by_context(
    found: Sequence[Found], which: int, whole: Sequence[Score], *, seed: int, trained: int | None
) -> list[Score]:
    """Return every score over the documents whose contexts are within the SAE's training context, and over the others.

    Args:
        found: The tasks, all passes.
        which: The SAE's pass.
        whole: Its scores over all documents.
        seed: Of the bootstrap.
        trained: Context length that the SAE was trained at; ``None`` where it is not known.
    """
    out: list[Score] = []
    inside = [np.array(one.n_tokens) <= (trained or 0) for one in found]
    for part in _PARTS:
        masks = inside if part == "within_context" else [~mask for mask in inside]
        some = [one.some(mask) for one, mask in zip(found, masks, strict=True) if trained is not None and mask.any()]
        known = {score.name: score for score in (scores(some, which, seed=seed) if some else [])}
        if trained is None:
            reason = "the SAE's files do not say at which context length it was trained (--trained-context)"
        else:
            length = "at most" if part == "within_context" else "more than"
            reason = f"it is known of no document with a context of {length} {trained} tokens, at which the SAE was trained"
        for score in whole:
            spec = ScoreSpec(
                name=f"{score.name}_{part}", definition="", unit=score.unit, unit_n=score.unit_n, better=score.better
            )
            one = known.get(score.name)
            out.append(
                spec.score(Estimate(value=None, reason=reason)) if one is None else one.model_copy(update={"name": spec.name})
            )
    return out


def table(found: Sequence[Found], which: int) -> dict[str, list[Any]]:
    """Return one row a document, as columns; null where a document has no such number."""
    columns: dict[str, list[Any]] = {"task": [], "document": [], "n_tokens": [], "lnp_clean": [], "lnp_spliced": []}
    keys = [key for key in dict.fromkeys(key for one in found for key in one.metrics) if _numbers(found, key)]
    for key in keys:
        columns |= {f"{score_name(key)}_clean": [], f"{score_name(key)}_spliced": []}
    for one in found:
        n = len(one.documents)
        columns["task"] += [one.name] * n
        columns["document"] += one.documents
        columns["n_tokens"] += one.n_tokens
        for part, p in (("clean", 0), ("spliced", which)):
            columns[f"lnp_{part}"] += [None] * n if one.lnp is None else [finite_or_none(float(v)) for v in one.lnp[p]]
            for key in keys:
                own = one.metrics.get(key)
                values = [None] * n if own is None else [finite_or_none(float(v)) for v in own[p]]
                columns[f"{score_name(key)}_{part}"] += values
    return columns


def score_name(key: Key) -> str:
    """Return how scores name lm-eval's metric and filter: ``acc``, or ``exact_match_strict_match`` for a filter with a name."""
    metric, chosen = key
    return re.sub(r"\W+", "_", metric if chosen == "none" else f"{metric}_{chosen}").strip("_")


def _numbers(found: Sequence[Found], key: Key) -> bool:
    values = (v for one in found for column in one.metrics.get(key, []) for v in column)
    return all(isinstance(v, bool | int | float | np.number | np.bool_) for v in values)


def _is_mean(aggregate: Any) -> bool:
    return getattr(aggregate, "__name__", "") == "mean"


def _means(clean: list[Any], spliced: list[Any]) -> list[Estimate]:
    a, b = np.array(clean, dtype=np.float64), np.array(spliced, dtype=np.float64)
    return [ratio(values, np.ones(len(values)), n=len(values)) for values in (a, b, b - a)]


def _aggregated(aggregate: Any, clean: list[Any], spliced: list[Any], seed: int) -> list[Estimate]:
    """Return (clean, spliced, difference) of what is no mean, with standard errors of a bootstrap that draws documents."""
    n = len(clean)

    def both(index: Sequence[int]) -> tuple[float, float]:
        return float(aggregate([clean[i] for i in index])), float(aggregate([spliced[i] for i in index]))

    value = both(range(n))
    generator = np.random.default_rng(seed)
    drawn = np.array([both(generator.integers(0, n, n).tolist()) for _ in range(_RESAMPLES)]) if n > 1 else np.empty((0, 2))
    spread = [drawn[:, 0], drawn[:, 1], drawn[:, 1] - drawn[:, 0]]
    errors = [float(d.std(ddof=1)) if len(d) else None for d in spread]
    values = [value[0], value[1], value[1] - value[0]]
    return [Estimate(value=v, stderr=finite_or_none(e), n=n) for v, e in zip(values, errors, strict=True)]


def _lnp(found: Sequence[Found], which: int) -> dict[str, Estimate]:
    known = [one.lnp[:, ~np.isnan(one.lnp).all(0)] for one in found if one.lnp is not None]
    delta = np.concatenate([lnp[which] - lnp[0] for lnp in known]) if known else np.empty(0)
    if not (n := len(delta)):
        why = "lm-eval's task asks for no likelihood of a right answer"
        return {name: Estimate(value=None, reason=why) for name in ("delta_lnp_mean", "delta_lnp_median")}
    return {
        "delta_lnp_mean": ratio(delta, np.ones(n), n=n),
        "delta_lnp_median": Estimate(value=float(np.median(delta)), n=n),
    }


def _classes(found: Sequence[Found], which: int) -> dict[str, Estimate]:
    """Return who is right, clean and spliced, by the first metric that says yes or no of a document."""
    keys = dict.fromkeys(key for name in ("acc", "exact_match") for one in found for key in one.metrics if key[0] == name)
    for key in keys:
        if not all(key in one.metrics for one in found):
            continue
        pair = [np.array([v for one in found for v in one.metrics[key][p]], dtype=np.float64) for p in (0, which)]
        if not np.isin(pair, (0, 1)).all():
            continue
        clean, spliced = (values.astype(bool) for values in pair)
        counts = {
            "n_both": int((clean & spliced).sum()),
            "n_clean_only": int((clean & ~spliced).sum()),
            "n_spliced_only": int((~clean & spliced).sum()),
            "n_neither": int((~clean & ~spliced).sum()),
        }
        p = mcnemar(counts["n_clean_only"], counts["n_spliced_only"])
        n = len(clean)
        return {k: Estimate(value=float(v), n=n) for k, v in counts.items()} | {"mcnemar_p": Estimate(value=p, n=n)}
    return {}

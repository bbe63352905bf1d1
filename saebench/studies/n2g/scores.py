"""From counts by latent to scores, and the tables beside the record.

Letters: ``C`` latents that were chosen, ``W`` ways of matching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from saebench.metrics.base import ScoreSpec
from saebench.record import Score, Series
from saebench.stats import Estimate, Floats, drawn
from saebench.studies.n2g.judging import WAYS, Counts
from saebench.studies.n2g.patterns import ANY, Pattern, Trie

EXPLAINED = 0.5
_STRATA = 10
_SOURCE = "Gao et al. 2024, §4.3; explanations.py of openai/sparse_autoencoder"
_SHARES = {
    "precision": "share of the tokens where a pattern matches at which the latent fires; latents that match nowhere are left out",
    "recall": "share of random activations that patterns were not built from at which one matches",
    "f1": "2 P R / (P + R) of n2g_precision and n2g_recall of the latent; 0 where nothing matches",
}


def _specs() -> tuple[ScoreSpec, ...]:
    specs: list[ScoreSpec] = []

    def add(name: str, definition: str, better: Any = "none") -> None:
        specs.append(ScoreSpec(name=name, definition=definition, better=better, unit_n="latents", source=_SOURCE))

    for way in WAYS:
        tail, how = (
            ("", "") if way == "published" else (f"_{way}", "; a walk comes back to `*` where a known token leads nowhere")
        )
        for name, what in _SHARES.items():
            add(f"n2g_{name}{tail}", f"mean over latents: {what}{how}", "higher")
        for name in _SHARES:
            add(f"n2g_{name}_mass{tail}", f"n2g_{name}{tail} with each latent weighted by its Σ|f|", "higher")
        add(f"n2g_explained{tail}", f"share of latents with n2g_f1{tail} > {EXPLAINED}", "higher")
        add(f"n2g_recall_all{tail}", f"mean over latents: share of all activations of the second half that match{how}", "higher")
        add(f"n2g_f1_all{tail}", f"mean over latents: 2 TP / (2 TP + FP + FN) on all tokens of the second half{how}", "higher")
    add("n2g_f1_always", "mean over latents: F1 of saying that the latent always fires, 2d / (1 + d) at density d")
    add("n2g_patterns", "mean over latents: different patterns")
    add("n2g_pattern_length", "mean over latents: mean tokens of a pattern, those that may be any included")
    add("n2g_wildcards", "mean over latents: share of the tokens of its patterns that may be any")
    add("n2g_at_start", "mean over latents: share of its patterns that are bound to the start of a context")
    return tuple(specs)


SPECS = _specs()


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found about the chosen latents of one SAE."""

    latents: Int[np.ndarray, " C"]
    n_first: Int[np.ndarray, " C"]
    """Tokens of the first half at which each fires."""
    n_build: Int[np.ndarray, " C"]
    """Activations that its patterns were built from."""
    tries: Sequence[Trie]
    counts: Counts
    n_tokens: tuple[int, int]
    """Scored tokens of the halves."""
    finite: bool
    """Whether all activations were."""

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Latents that fire in both halves."""
        return (self.n_build > 0) & (self.counts.n_fires > 0)

    def status(self) -> list[str]:
        """Return of each latent ``ok``, ``dead``, or in which half it is silent."""
        words = {(True, True): "ok", (False, False): "dead", (True, False): "silent in the second half"}
        return [
            words.get((bool(a), bool(b)), "silent in the first half")
            for a, b in zip(self.n_first > 0, self.counts.n_fires > 0, strict=True)
        ]

    def density(self) -> Floats:
        """Return the share of tokens of the second half at which each latent fires."""
        return self.counts.n_fires / max(1, self.n_tokens[1])


def scores(found: Findings, *, draws: int, seed: int) -> list[Score]:
    """Return every score, with the standard error of a bootstrap over latents.

    Args:
        found: Of one SAE.
        draws: Of the bootstrap.
        seed: Likewise.
    """
    judged = found.judged
    weights = drawn(max(1, int(judged.sum())), draws, np.random.default_rng(seed))
    mass = found.counts.mass[judged]
    values: dict[str, Estimate] = {}

    def add(name: str, of: Floats, by: Floats | None = None) -> None:
        values[name] = mean_over_latents(of, by, weights) if found.finite else Estimate(value=float("nan"), n=len(of))

    for i, way in enumerate(WAYS):
        tail = "" if way == "published" else f"_{way}"
        own = {name: getattr(found.counts, name)[i][judged] for name in (*_SHARES, "recall_all", "f1_all")}
        for name in _SHARES:
            add(f"n2g_{name}{tail}", own[name])
            add(f"n2g_{name}_mass{tail}", own[name], mass)
        add(f"n2g_explained{tail}", (own["f1"] > EXPLAINED).astype(np.float64))
        for name in ("recall_all", "f1_all"):
            add(f"n2g_{name}{tail}", own[name])
    density = found.density()[judged]
    add("n2g_f1_always", 2 * density / (1 + density))
    for name, shape in shapes(found.tries).items():
        add(f"n2g_{name}", shape[judged])
    return [spec.score(values[spec.name]) for spec in SPECS]


def shapes(tries: Sequence[Trie]) -> dict[str, Floats]:
    """Return of each latent: patterns, their mean length, share of any tokens among theirs, share bound to the start (or NaN)."""

    def each(of: Callable[[list[Pattern]], float]) -> Floats:
        return np.array([of(list(trie)) if trie else np.nan for trie in tries], dtype=np.float64)

    def tokens(patterns: list[Pattern]) -> int:
        return sum(len(p.path) for p in patterns)

    return {
        "patterns": each(len),
        "pattern_length": each(lambda patterns: tokens(patterns) / len(patterns)),
        "wildcards": each(lambda patterns: sum(p.path.count(ANY) for p in patterns) / tokens(patterns)),
        "at_start": each(lambda patterns: sum(p.at_start for p in patterns) / len(patterns)),
    }


def mean_over_latents(values: Floats, by: Floats | None, weights: Floats) -> Estimate:
    """Return the mean of the values that are not NaN, with the standard error of a bootstrap.

    Args:
        values: One a latent ``[C]``.
        by: What each counts; alike if ``None``.
        weights: How often each draw has each latent ``[draws, C]``.
    """
    there = ~np.isnan(values)
    n = int(there.sum())
    if not n:
        return Estimate(value=None, n=0, reason="no latent that was chosen fires in both halves and has patterns that match")
    by = there * (1.0 if by is None else by)
    total = np.where(there, values, 0.0) * by
    sums = weights @ by
    draws = (weights @ total)[sums > 0] / sums[sums > 0]
    stderr = float(draws.std(ddof=1)) if n > 1 and len(draws) > 1 else None
    return Estimate(value=float(total.sum() / by.sum()), stderr=stderr, n=n)


def by_density(found: Findings) -> Series:
    """Return the mean F1 (matched as published) of tenths of the latents, from the rarest to the densest."""
    judged = np.flatnonzero(found.judged)
    order = judged[np.argsort(found.counts.n_fires[judged], kind="stable")]
    parts = [part for part in np.array_split(order, min(_STRATA, len(order)) or 1) if len(part)]
    f1, density = found.counts.f1[0], found.density()
    return Series(
        name="n2g_f1_by_density",
        x_name="log10 of the density",
        x=[float(np.log10(density[part]).mean()) for part in parts],
        value=[float(f1[part].mean()) for part in parts],
        stderr=[float(f1[part].std(ddof=1) / len(part) ** 0.5) if len(part) > 1 else None for part in parts],
        n=[len(part) for part in parts],
    )


def latent_rows(found: Findings, write: Callable[[Pattern], str]) -> dict[str, list[Any]]:
    """Return the table of latents; ``patterns`` holds them as text, one a line."""
    counts = found.counts
    rows: dict[str, list[Any]] = {
        "latent": found.latents.tolist(),
        "status": found.status(),
        "n_first": found.n_first.tolist(),
        "n_build": found.n_build.tolist(),
        "n_fires": counts.n_fires.tolist(),
        "mass": counts.mass.tolist(),
        "n_recall": counts.n_recall.tolist(),
    }
    for i, way in enumerate(WAYS):
        tail = "" if way == "published" else f"_{way}"
        for name in ("n_matched", "n_right", "n_recalled"):
            rows[f"{name}{tail}"] = getattr(counts, name)[i].tolist()
        for name in ("precision", "recall", "f1", "recall_all", "f1_all"):
            rows[f"{name}{tail}"] = _or_none(np.where(found.judged, getattr(counts, name)[i], np.nan))
    named = shapes(found.tries)
    rows["n_patterns"] = [len(trie) for trie in found.tries]
    rows |= {name: _or_none(named[name]) for name in ("pattern_length", "wildcards", "at_start")}
    rows["patterns"] = ["\n".join(write(pattern) for pattern in trie) for trie in found.tries]
    return rows


def pattern_rows(latents: Sequence[int], tries: Sequence[Trie], write: Callable[[Pattern], str]) -> dict[str, list[Any]]:
    """Return the table of patterns: in words, and as token ids from the last to the first (−1: any)."""
    all_ = [(latent, pattern, act) for latent, trie in zip(latents, tries, strict=True) for pattern, act in trie.items()]
    return {
        "latent": [latent for latent, _, _ in all_],
        "pattern": [write(pattern) for _, pattern, _ in all_],
        "length": [len(pattern.path) for _, pattern, _ in all_],
        "wildcards": [pattern.path.count(ANY) for _, pattern, _ in all_],
        "at_start": [pattern.at_start for _, pattern, _ in all_],
        "act": [act for _, _, act in all_],
        "tokens_from_last": [list(pattern.path) for _, pattern, _ in all_],
    }


def pattern_text(found: Findings, write: Callable[[Pattern], str]) -> str:
    """Return the patterns for reading: a block a latent, best F1 (as published) first, with the activation of each pattern."""
    counts, density, status = found.counts, found.density(), found.status()
    f1 = np.where(found.judged, counts.f1[0], -1.0)
    blocks = ["Tokens in quotes, in reading order; *: any token; ^: the start of a context; behind each: its activation."]
    for i in np.argsort(-f1, kind="stable").tolist():
        said = status[i]
        if found.judged[i]:
            precision = "none match" if np.isnan(counts.precision[0, i]) else f"precision {counts.precision[0, i]:.2f}"
            said = f"F1 {f1[i]:.2f}, {precision}, recall {counts.recall[0, i]:.2f}, fires at {density[i]:.3%} of tokens"
        lines = [f"    {write(pattern)}    {act:.3g}" for pattern, act in found.tries[i].items()]
        blocks.append("\n".join([f"latent {found.latents[i]}: {said}", *lines]))
    return "\n\n".join(blocks) + "\n"


def raw(found: Findings, more: Mapping[str, float]) -> dict[str, float | None]:
    """Return the numbers behind the scores."""
    status = found.status()
    sums = {name: getattr(found.counts, name).sum(1) for name in ("n_matched", "n_right", "n_recalled")}
    return {
        "n2g_latents": float(len(status)),
        "n2g_latents_dead": float(status.count("dead")),
        "n2g_latents_judged": float(found.judged.sum()),
        "n2g_documents": float(found.n_build.sum()),
        "n2g_tokens_first": float(found.n_tokens[0]),
        "n2g_tokens_second": float(found.n_tokens[1]),
        "n2g_fires": float(found.counts.n_fires.sum()),
        "n2g_recall_drawn": float(found.counts.n_recall.sum()),
        **{f"n2g_{name}_{way}": float(sums[name][i]) for name in sums for i, way in enumerate(WAYS)},
        **more,
    }


def _or_none(values: Floats) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]

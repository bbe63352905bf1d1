"""The leaderboard: few columns, the SAEs of each model in the order of what they cost it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saebench.record import Record
from saebench.report.select import natural
from saebench.report.table import Row, Table, make_table

RANKED_BY = "delta_ce"
"""Nats a token that the model loses when the recon takes the place of the acts: what an SAE is for, in the model's own unit, and
without an ablation in a denominator."""
COLUMNS = (
    RANKED_BY,
    "ce_recovered_zero",
    "acc_delta",
    "explained_variance",
    "l0",
    "frac_alive",
    "truth_f1_adjusted",
    "context_degradation",
)
"""Scores shown, as far as the records have them: what the model loses, in nats and in right answers; fidelity to the acts,
sparsity, latents in use; what single latents tell of a known world; how much worse it gets beyond the training context."""


def make_leaderboard(records: Sequence[Record], *, scores: Sequence[str] = (), sort: str | None = None) -> Table:
    """Return the leaderboard of ``records``: rows of one model together, best first.

    Args:
        records: What to show.
        scores: Names of the columns; :data:`COLUMNS` if empty.
        sort: Score by which rows are ordered; :data:`RANKED_BY` if ``None``. Rows without it come last.

    Raises:
        InputError: A score is asked for that no record has.
    """
    there = {score.name for record in records for score in record.scores}
    ranked_by = sort or (RANKED_BY if RANKED_BY in there else None)
    table = make_table(records, scores=scores or [name for name in COLUMNS if name in there], sort=ranked_by)
    if ranked_by is None:
        return table
    rows: list[Row] = []
    for model in sorted({record.model.name for record in records}, key=natural):
        own = [record for record in records if record.model.name == model]  # its SAEs may have been scored by a task of its own
        rows += make_table(own, sort=ranked_by if _has(own, ranked_by) else None).rows
    return replace(table, rows=tuple(rows), order=_order(table, ranked_by))


def _has(records: Sequence[Record], name: str) -> bool:
    score, _, version = name.partition("@")
    return any(s.name == score for r in records if version in ("", str(r.task.version)) for s in r.scores)


def _order(table: Table, name: str) -> str:
    score = name.partition("@")[0]
    better = _better(table.rows, score)
    direction = {"higher": ", highest first", "lower": ", lowest first"}.get(better, "")
    return f"order: {score}{direction}; sites differ in how hard they are, so compare SAEs of one site and of like l0"


def _better(rows: Sequence[Row], score: str) -> str:
    scores = (s for row in rows for record in row.records for s in record.scores)
    return next((s.better for s in scores if s.name == score), "none")

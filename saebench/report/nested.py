"""Records as one JSON list, for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from saebench.record import Record
from saebench.report.table import chosen_scores


def render(records: Sequence[Record], *, scores: Sequence[str] = ()) -> str:
    """Return ``records`` as strict JSON: a list with one object per SAE × task × seed.

    Args:
        records: What to show.
        scores: Names of scores; all if empty.
    """
    return json.dumps(to_rows(records, scores=scores), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_rows(records: Sequence[Record], *, scores: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what :func:`render` writes, as plain Python."""
    chosen = chosen_scores(records, scores)
    return [
        {
            "sae": r.sae.name,
            "sae_sha256": r.sae.sha256,
            "format": r.sae.format,
            "architecture": r.sae.architecture,
            "d_sae": r.sae.d_sae,
            "k": r.sae.k,
            "model": r.model.name,
            "site": r.sae.site,
            "task": r.task.name,
            "version": r.task.version,
            "seed": r.seed,
            "scores": {
                s.name: {"value": s.value, "stderr": s.stderr, "n": s.n, "status": s.status, "reason": s.reason}
                for s in r.scores
                if (r.task.name, r.task.version, s.name) in chosen
            },
            "series": {s.name: {"x": s.x, "value": s.value, "stderr": s.stderr, "n": s.n} for s in r.series},
        }
        for r in records
    ]

"""Records as CSV: one line per record and score, so that any tool can read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from saebench.record import Record
from saebench.report.table import chosen_scores

COLUMNS = ("sae", "sae_sha256", "format", "architecture", "d_sae", "k", "model", "site", "task", "version", "seed",
           "score", "value", "stderr", "n", "unit_n", "unit", "better", "status", "reason")  # fmt: skip
"""The header. A missing value is an empty field with a status and a reason."""


def render(records: Sequence[Record], *, scores: Sequence[str] = ()) -> str:
    """Return ``records`` as CSV with :data:`COLUMNS`.

    Args:
        records: What to show.
        scores: Names of scores; all if empty.
    """
    chosen = chosen_scores(records, scores)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for r in records:
        sae = (r.sae.name, r.sae.sha256, r.sae.format, r.sae.architecture, r.sae.d_sae, r.sae.k)
        rest = (r.model.name, r.sae.site, r.task.name, r.task.version, r.seed)
        for s in r.scores:
            if (r.task.name, r.task.version, s.name) in chosen:
                writer.writerow((*sae, *rest, s.name, s.value, s.stderr, s.n, s.unit_n, s.unit, s.better, s.status, s.reason))
    return out.getvalue()

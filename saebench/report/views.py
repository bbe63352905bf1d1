"""Plain rows with notes under them, as every command that prints a table can show them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.report.terminal import Grid, plain


def render_view(view: str, grid: Grid, rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Return rows as ``table``, ``md``, ``csv`` or ``json``.

    Args:
        view: Which.
        grid: What people see.
        rows: What programs get, one or more, all with the keys of the first.
        notes: What must be said under the table; CSV has none.
    """
    if view == "json":
        return json.dumps({"rows": list(rows), "notes": list(notes)}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if view == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()
    if view == "md":
        from saebench.report.markdown import table_lines

        return "\n".join([*table_lines(grid), "", *(f"- {note}" for note in notes)]) + "\n"
    return plain(grid) + "\n" + "".join(f"{note}\n" for note in notes)

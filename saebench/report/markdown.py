"""The table as Markdown, ready for a README or a pull request."""

from __future__ import annotations

import re

from saebench.report.table import Table
from saebench.report.terminal import Grid, clean, table_grids


def render(table: Table) -> str:
    """Return ``table`` as Markdown, values bold where they lead beyond noise (see ``Table.best``)."""
    (grid,) = table_grids(table, None)
    parts = []
    shared = table.shared_identity()
    if shared:
        parts.append(", ".join(f"{key} {_escape(value)}" for key, value in shared.items()) + "\n")
    parts += table_lines(grid)
    notes = [*table.notes()]
    if any(grid.strong):
        notes.append("bold: leads the runner-up on the same tokens by more than 1.96 standard errors of the difference")
    parts += ["", *(f"- {_escape(note)}" for note in notes), "", f"_{_escape(table.footer())}_"]
    return "\n".join(parts) + "\n"


def table_lines(grid: Grid) -> list[str]:
    """Return the lines of ``grid`` as a Markdown table, what stands out in bold."""
    lines = [_line([_escape(h) for h in grid.heads]), _line(["---:" if right else "---" for right in grid.numeric])]
    for i, row in enumerate(grid.rows):
        lines.append(_line([f"**{t}**" if (i, j) in grid.strong else _escape(t) for j, t in enumerate(row)]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*|<>\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", clean(text))

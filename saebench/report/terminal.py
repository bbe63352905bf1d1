"""Tables for people: coloured by rich on a terminal, plain aligned text in a pipe, a file, or with ``NO_COLOR``."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from saebench.report.table import Table
from saebench.textio import TextOut


class Grid(NamedTuple):
    """Texts in rows and columns: what any of our tables comes down to."""

    heads: list[str]
    rows: list[list[str]]
    numeric: list[bool]
    """Columns set flush right."""
    strong: set[tuple[int, int]]
    """Cells (row, column) that stand out."""


def table_grids(table: Table, width: int | None) -> list[Grid]:
    """Return ``table`` as one grid, or as several with the same rows where one would exceed ``width`` characters."""
    names = _names(table)
    heads, numeric = list(names[0]) if names else ["sae"], [False] * (len(names[0]) if names else 1)
    base = Grid(heads, [list(name.values()) for name in names], numeric, set())
    grids = [_copy(base)]
    for column in table.columns:
        texts = table.texts(column)
        wide = _width(grids[-1]) + 2 + max(_cells(t) for t in [table.label(column), *texts])
        if width is not None and wide > width and len(grids[-1].heads) > len(base.heads):
            grids.append(_copy(base))
        grid = grids[-1]
        best = table.best(column)
        grid.strong.update((i, len(grid.heads)) for i in best)
        grid.heads.append(table.label(column))
        grid.numeric.append(True)
        for row, text in zip(grid.rows, texts, strict=True):
            row.append(text)
    return grids


def dict_grid(rows: Sequence[Mapping[str, object]]) -> Grid:
    """Return plain rows, all with the keys of the first, as a grid."""
    heads = list(rows[0]) if rows else []
    texts = [[_plain(row[h]) for h in heads] for row in rows]
    return Grid(heads, texts, [all(isinstance(r[h], int | float) for r in rows) for h in heads], set())


def render(table: Table, *, width: int | None = None) -> str:
    """Return ``table`` with its caption, notes and footer as plain text.

    Args:
        table: What to show.
        width: Characters in a line; no limit if ``None``.
    """
    out = io.StringIO()
    _write(table, out, width, lambda grid: out.write(plain(grid)))
    return out.getvalue()


def show(table: Table, stream: TextOut) -> None:
    """Write ``table`` to ``stream``: styled and fitted to the width where it is a terminal, else plain."""
    if not is_rich(stream):
        width = shutil.get_terminal_size().columns if stream.isatty() else None
        stream.write(render(table, width=width))
        return
    _write(table, stream, shutil.get_terminal_size().columns, lambda grid: _rich(grid, stream))


def show_grid(grid: Grid, stream: TextOut) -> None:
    """Write one grid to ``stream``, styled where it is a terminal."""
    if is_rich(stream):
        _rich(grid, stream)
    else:
        stream.write(plain(grid))


def is_rich(stream: TextOut) -> bool:
    """Return whether ``stream`` is a terminal that wants colour (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain(grid: Grid) -> str:
    """Return ``grid`` as aligned text with a rule under the heads."""
    lines = [[clean(h) for h in grid.heads], *([clean(t) for t in row] for row in grid.rows)]
    widths = [max(_cells(line[i]) for line in lines) for i in range(len(grid.heads))]
    lines.insert(1, ["-" * w for w in widths])
    return "".join(
        "  ".join(_pad(text, w, right) for text, w, right in zip(line, widths, grid.numeric, strict=True)).rstrip() + "\n"
        for line in lines
    )


def clean(text: str) -> str:
    """Return ``text`` on one line and without control characters: names come from files that others wrote."""
    return "".join(c if unicodedata.category(c) not in ("Cc", "Cf") else " " for c in text)


def _write(table: Table, out: TextOut, width: int | None, put: Callable[[Grid], object]) -> None:
    shared = table.shared_identity()
    if shared:
        out.write(clean(", ".join(f"{key} {value}" for key, value in shared.items())) + "\n\n")
    for grid in table_grids(table, width):
        put(grid)
        out.write("\n")
    for line in [*table.notes(), table.footer()]:
        out.write(clean(line) + "\n")


def _names(table: Table) -> list[dict[str, str]]:
    shared = table.shared_identity()
    return [{k: v for k, v in row.identity().items() if k not in shared} for row in table.rows]


def _rich(grid: Grid, stream: TextOut) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    styled = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, right in zip(grid.heads, grid.numeric, strict=True):
        styled.add_column(Text(clean(head)), justify="right" if right else "left", overflow="fold")
    for i, row in enumerate(grid.rows):
        cells = (Text(clean(t), style="bold green" if (i, j) in grid.strong else "") for j, t in enumerate(row))
        styled.add_row(*cells)
    Console(file=cast(Any, stream)).print(styled)


def _copy(grid: Grid) -> Grid:
    return Grid(list(grid.heads), [list(row) for row in grid.rows], list(grid.numeric), set(grid.strong))


def _width(grid: Grid) -> int:
    lines = [grid.heads, *grid.rows]
    return sum(max(_cells(line[i]) for line in lines) + 2 for i in range(len(grid.heads))) - 2


def _cells(text: str) -> int:
    """Columns that ``text`` takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _cells(text))
    return space + text if right else text + space


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(v) for v in value)
    return "" if value is None else str(value)

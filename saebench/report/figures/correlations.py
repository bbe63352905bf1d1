"""Whether the same tokens suffer from every SAE: correlations of per-token ΔCE and overlap of the tails, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.report.figures.heat import heat, names_along, sae_names, sized
from saebench.report.figures.picture import Drawable, Picture, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of
from saebench.report.figures.together import Together, together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "correlations"
_MEASURES = {
    "pearson": ("Pearson correlation of ΔCE", (-1.0, 1.0), "RdBu_r"),
    "spearman": ("Spearman correlation of ΔCE", (-1.0, 1.0), "RdBu_r"),
    "overlap": ("overlap of the worst 5% of tokens", (0.0, 1.0), "viridis"),
}
"""Title, ends of the colours, colours."""
_COLUMNS = ("sae", *(f"{name}{part}" for name in _MEASURES for part in ("", "_stderr")))


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of SAEs that were run together."""
    pictures, missing = [], []
    for run in together(sources):
        rows = _rows(run)
        if rows:
            pictures.append(_picture(run, rows))
        else:
            missing.append(f"correlations of ΔCE, {task_name(run.record)}: no table {TABLE}; run the task again with --force")
    return Drawable(pictures, missing)


def _rows(run: Together) -> list[dict[str, Any]]:
    place = {name: i for i, name in enumerate(run.labels)}
    rows = []
    for i, source in enumerate(run.sources):
        if not source.has(TABLE, *_COLUMNS):
            continue
        table = source.read(TABLE, *_COLUMNS)
        for other, *values in zip(*table.values(), strict=True):
            if other in place:
                numbers = dict(zip(_COLUMNS[1:], values, strict=True))
                rows.append({"sae": run.labels[i], "other": other, **numbers, "_at": (i, place[other])})
    return rows


def _picture(run: Together, rows: Sequence[dict[str, Any]]) -> Picture:
    r = run.record
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.correlations",
        columns={key: [row[key] for row in rows] for key in rows[0] if key != "_at"},
        paint=lambda figure: _paint(figure, run, rows),
    )


def _paint(figure: Figure, run: Together, rows: Sequence[dict[str, Any]]) -> None:
    n, names = len(run.sources), sae_names(run.sources)
    sized(figure, names, panels=len(_MEASURES), rows=n, columns=n)
    title(figure, f"{title_of(run.record)}; ± 1 s.e.")
    axes = figure.subplots(1, len(_MEASURES))
    for axis, (measure, (about, limits, colours)) in zip(axes, _MEASURES.items(), strict=True):
        values, errors = np.full((n, n), np.nan), np.full((n, n), np.nan)
        for row in rows:
            values[row["_at"]], errors[row["_at"]] = row[measure], row[f"{measure}_stderr"]
        heat(axis, values, _number, errors, limits=limits, colours=colours)
        names_along(axis, names, names, with_rows=axis is axes[0])
        axis.set_title(about)


def _number(value: float, stderr: float) -> str:
    text = f"{value:.2f}".replace("-", "−")
    return text if np.isnan(stderr) else f"{text}\n± {stderr:.2f}" if stderr >= 0.005 else f"{text}\n± {stderr:.1g}"

"""Error propagation as matrices: what the splice of one SAE does to the SAEs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saebench.report.figures.heat import Floats, heat, names_along, sae_names, sized
from saebench.report.figures.picture import Drawable, Picture, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of
from saebench.report.figures.together import Together, together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "propagation"
_COLUMNS = ("sae", "metric", "clean", "spliced", "fraction", "stderr")
_METRICS = {"mse": "MSE of the later SAE", "l0": "L0 of the later SAE", "norm": "norm of the acts there"}


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of SAEs that were run together."""
    pictures, missing = [], []
    for run in together(sources):
        rows = _rows(run)
        if rows:
            pictures.append(_picture(run, rows))
        else:
            missing.append(f"propagation matrices, {task_name(run.record)}: no SAE lies behind another")
    return Drawable(pictures, missing)


def _rows(run: Together) -> list[dict[str, Any]]:
    place = {name: i for i, name in enumerate(run.labels)}
    rows = []
    for i, source in enumerate(run.sources):
        if not source.has(TABLE, *_COLUMNS):
            continue
        table = source.read(TABLE, *_COLUMNS)
        for later, *values in zip(*table.values(), strict=True):
            if later in place:
                numbers = dict(zip(_COLUMNS[1:], values, strict=True))
                rows.append({"spliced_sae": run.labels[i], "later_sae": later, **numbers, "_at": (place[later], i)})
    return rows


def _picture(run: Together, rows: Sequence[dict[str, Any]]) -> Picture:
    r = run.record
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.propagation",
        columns={key: [row[key] for row in rows] for key in rows[0] if key != "_at"},
        paint=lambda figure: _paint(figure, run, rows),
    )


def _paint(figure: Figure, run: Together, rows: Sequence[dict[str, Any]]) -> None:
    later, first = (sorted({row["_at"][axis] for row in rows}) for axis in (0, 1))
    names = sae_names(run.sources)
    sized(figure, names, panels=len(_METRICS), rows=len(later), columns=len(first))
    title(figure, f"{title_of(run.record)}: (spliced − clean) / clean, ± 1 s.e.")
    axes = figure.subplots(1, len(_METRICS))
    for axis, (metric, about) in zip(axes, _METRICS.items(), strict=True):
        values, errors = (np.full((len(later), len(first)), np.nan) for _ in range(2))
        for row in rows:
            if row["metric"] == metric:
                at = later.index(row["_at"][0]), first.index(row["_at"][1])
                values[at], errors[at] = row["fraction"], row["stderr"]
        most = _most(values)
        heat(axis, values, _percent, errors, limits=(-most, most), colours="RdBu_r")
        names_along(axis, [names[i] for i in first], [names[i] for i in later], with_rows=axis is axes[0])
        axis.set_title(about)
        axis.set_xlabel("SAE that is spliced in")
    axes[0].set_ylabel("later SAE")


def _most(values: Floats) -> float:
    known = np.abs(values[np.isfinite(values)])
    return float(known.max()) or 1e-9 if len(known) else 1.0


def _percent(value: float, stderr: float) -> str:
    """Return a fraction in percent, as exact as its error is large."""
    if value == 0 == stderr:
        return "0"  # as the L0 of a TopK SAE
    decimals = 0 if abs(value) >= 1 else 1 if abs(value) >= 0.01 else 2
    text = f"{100 * value:+.{decimals}f}%".replace("-", "−")
    return text if np.isnan(stderr) else f"{text}\n± {100 * stderr:.{decimals}f}"

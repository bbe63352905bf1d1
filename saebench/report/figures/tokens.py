"""ΔCE of the same tokens under one SAE and under another: a scatter for each pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saebench.report.figures.heat import sae_names
from saebench.report.figures.picture import COLOURS, Drawable, Picture, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of
from saebench.report.figures.together import Together, together

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TABLE = "token_delta_ce"
_ABOUT = ("context", "position", "token", "next_token", "ce_clean")
_MOST = 6
"""SAEs in one picture."""
_BINS = 8
"""Bins of a histogram between 0 and the end of what is linear, and about as many in each power of 10 beyond."""
_LINEAR = 0.1
"""Up to this ΔCE (nats) the axes are linear, beyond it logarithmic."""


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of SAEs that were run together."""
    pictures, missing = [], []
    for run in together(sources):
        holder = next((s for s in run.sources if s.has(TABLE, *_ABOUT, *run.labels)), None)
        if holder is None:
            missing.append(f"scatter of ΔCE, {task_name(run.record)}: no table {TABLE}; run the task again with --force")
            continue
        n = len(run.sources)
        chosen = sorted({round(i * (n - 1) / (_MOST - 1)) for i in range(_MOST)}) if n > _MOST else list(range(n))
        if len(chosen) < n:
            missing.append(f"scatter of ΔCE, {task_name(run.record)}: {_MOST} of {n} SAEs; choose others with --where sae=NAME")
        few = Together([run.sources[i] for i in chosen], [run.labels[i] for i in chosen])
        pictures.append(_picture(few, holder))
    return Drawable(pictures, missing)


def _picture(run: Together, holder: Source) -> Picture:
    r = run.record
    columns = holder.read(TABLE, *_ABOUT, *run.labels)
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.token_delta_ce",
        columns=columns,
        paint=lambda figure: _paint(figure, run, columns),
    )


def _paint(figure: Figure, run: Together, columns: dict[str, np.ndarray]) -> None:
    n, names = len(run.sources), sae_names(run.sources)
    values = [columns[name].astype(np.float64) for name in run.labels]
    figure.set_size_inches(max(7.0, 2.1 * n), max(6.5, 2.0 * n))
    tokens = len(values[0])
    title(
        figure, title_of(run.record), f"ΔCE of {tokens:,} predicted tokens, spliced − clean (nats); logarithmic beyond ±{_LINEAR}"
    )
    axes = figure.subplots(n, n, sharex=True, squeeze=False)
    alpha = float(np.clip(1000 / tokens, 0.2, 0.7))
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    reach = 1.3 * max(float(np.abs(known).max(initial=0.0)), 2 * _LINEAR)
    for (row, column), axis in np.ndenumerate(axes):
        if column > row:
            axis.set_visible(False)
            continue
        _scaled(axis, reach, both=row != column)
        if row == column:
            _spread(axis, values[row], reach)
            axis.set_title(names[row], fontsize=8)
        else:
            axis.scatter(values[column], values[row], s=4, alpha=alpha, color=COLOURS[0], linewidths=0)
            axis.plot([-reach, reach], [-reach, reach], color="black", linewidth=0.6, linestyle=":")
        if column == 0 and row:
            axis.set_ylabel(names[row], fontsize=7.5)
        elif row != column:
            axis.tick_params(labelleft=False)
        if row == n - 1:
            axis.set_xlabel(names[column], fontsize=7.5)


def _scaled(axis: Axes, reach: float, *, both: bool) -> None:
    """Make axes linear in the middle and logarithmic outside, with few ticks."""
    ticks = [t for t in (-10.0, -1.0, 0.0, 1.0, 10.0) if abs(t) < reach]
    for name, turned in (("x", 90), ("y", 0)) if both else (("x", 90),):
        getattr(axis, f"set_{name}scale")("symlog", linthresh=_LINEAR)
        getattr(axis, f"set_{name}lim")(-reach, reach)
        getattr(axis, f"set_{name}ticks")(ticks, [f"{t:g}".replace("-", "−") for t in ticks], fontsize=7, rotation=turned)
        getattr(axis, f"set_{name}ticks")([], minor=True)


def _spread(axis: Axes, values: np.ndarray, reach: float) -> None:
    outside = np.geomspace(_LINEAR, reach, 1 + math.ceil(_BINS * math.log10(reach / _LINEAR)))
    edges = np.concatenate([-outside[::-1], np.linspace(-_LINEAR, _LINEAR, 2 * _BINS + 1)[1:-1], outside])
    axis.hist(values[np.isfinite(values)], edges.tolist(), color=COLOURS[5])
    axis.tick_params(axis="y", labelsize=6.5)
    axis.set_ylabel("tokens", fontsize=7.5)

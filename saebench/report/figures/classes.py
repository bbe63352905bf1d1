"""ΔCE of the prompt against the recon's MSE and against Δ ln p of the answer, by what became of the example; with marginals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saebench.report.figures.examples import Examples, examples_of, with_examples
from saebench.report.figures.picture import COLOURS, Drawable, Picture, legend_below, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

Floats = NDArray[np.float64]
CLASSES = ("both", "clean only", "spliced only", "neither")
"""Passes in which an example is right, in the order of their codes."""
_LOOKS = {
    "neither": ("#9A9A9A", "x"), "both": (COLOURS[2], "o"), "clean only": (COLOURS[3], "v"), "spliced only": (COLOURS[0], "^")
}  # fmt: skip
"""Colour and marker of each, the last above the first."""
_BINS = 24


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture an SAE and set of examples."""
    pictures, missing = [], []
    for source in with_examples(sources):
        found = examples_of(source)
        if not (np.isfinite(found.delta_lnp) & np.isfinite(found.delta_ce)).any():
            missing.append(f"ΔCE by class, {task_name(source.record)}: no example has both ΔCE and Δ ln p")
            continue
        if found.mse is None:
            missing.append(
                f"ΔCE × MSE, {task_name(source.record)}: no MSE by prompt in the table of examples; run the task again"
            )
        pictures.append(_picture(found))
    return Drawable(pictures, missing)


def _picture(found: Examples) -> Picture:
    r = found.source.record
    known = np.isfinite(found.delta_lnp) & np.isfinite(found.delta_ce)
    code = np.where(found.right_clean, np.where(found.right_spliced, 0, 1), np.where(found.right_spliced, 2, 3))[known]
    columns = {
        "example": found.example[known],
        "class": np.array(CLASSES, dtype=object)[code],
        "delta_ce": found.delta_ce[known],
        "delta_lnp": found.delta_lnp[known],
    }
    if found.mse is not None:
        columns["mse"] = found.mse[known]
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.delta_ce.{found.source.slug}",
        columns=columns,
        paint=lambda figure: _paint(figure, columns, f"{r.sae.name} at {r.sae.site}", title_of(r)),
    )


def _paint(figure: Figure, columns: dict[str, np.ndarray], *about: str) -> None:
    shown = [("delta_lnp", "Δ ln p of the answer, spliced − clean (nats)", False)]
    if "mse" in columns:
        shown.insert(0, ("mse", "MSE of the recon: mean ‖x − x̂‖² over the prompt (act²)", True))
    figure.set_size_inches(6.4 * len(shown), 6.4)
    title(figure, *about)
    grid = figure.add_gridspec(
        2,
        3 * len(shown) - 1,
        height_ratios=[1, 4],
        width_ratios=[4, 1, 0.25, 4, 1][: 3 * len(shown) - 1],
        hspace=0.02,
        wspace=0.02,
    )
    classes = {name: columns["class"] == name for name in _LOOKS}
    for i, (column, what, log) in enumerate(shown):
        _panel(figure, grid, 3 * i, columns["delta_ce"], columns[column], classes, what, log=log)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend_below(figure, handles, labels)


def _panel(
    figure: Figure,
    grid: GridSpec,
    column: int,
    x: Floats,
    y: Floats,
    classes: dict[str, NDArray[np.bool_]],
    about: str,
    *,
    log: bool,
) -> None:
    axis = figure.add_subplot(grid[1, column])
    top = figure.add_subplot(grid[0, column], sharex=axis)
    side = figure.add_subplot(grid[1, column + 1], sharey=axis)
    usable = np.isfinite(y) & (y > 0) if log else np.isfinite(y)
    edges = _edges(x[usable]), _edges(np.log10(y[usable])) if log else _edges(y[usable])
    for name, which in classes.items():
        colour, marker = _LOOKS[name]
        some = which & usable
        axis.scatter(x[some], y[some], s=14, alpha=0.6, color=colour, marker=marker, linewidths=0.8 if marker == "x" else 0,
                     label=f"{name} ({int(which.sum()):,})")  # fmt: skip
        if some.any():
            top.stairs(_density(x[some], edges[0]), edges[0], color=colour)
            heights = _density(np.log10(y[some]) if log else y[some], edges[1])
            side.stairs(heights, 10 ** edges[1] if log else edges[1], color=colour, orientation="horizontal")
    axis.axvline(0, color="black", linewidth=0.8)
    if log:
        axis.set_yscale("log")
    else:
        axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel("ΔCE of the prompt, spliced − clean (nats per token)")
    axis.set_ylabel(about)
    for margin in (top, side):
        margin.tick_params(labelbottom=False, labelleft=False, length=0, which="both")
        margin.grid(visible=False)
    top.set_ylabel("share", fontsize=8)
    side.set_xlabel("share", fontsize=8)


def _edges(values: Floats) -> Floats:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    room = 0.02 * (high - low) or 0.5
    return np.linspace(low - room, high + room, _BINS + 1)


def _density(values: Floats, edges: Floats) -> Floats:
    """Return which share of the values lies in each bin, as high for a small class as for a large one."""
    return np.histogram(values, edges)[0] / len(values)

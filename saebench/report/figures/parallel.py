"""Δ ln p of the same examples at several layers: one line an example."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saebench.report.figures.examples import examples_of, with_examples
from saebench.report.figures.picture import Drawable, Picture, label, title
from saebench.report.figures.sources import Line, Source, asked, families, folder_of, grouped, task_name, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

_COLUMNS = 3
"""Panels side by side at most."""
_SIGMAS = 2.0
"""The colours reach so many standard deviations to each side."""


class _Panel(NamedTuple):
    name: str
    layers: list[int]
    example: NDArray[np.int64]
    values: NDArray[np.float64]
    """[examples, layers]"""


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of examples, with a panel for each family of SAEs of two layers or more."""
    pictures, missing = [], []
    for group in grouped(with_examples(sources), lambda s: (*asked(s.record), s.kind)):
        panels = [panel for line in families(group) if len(line.sources) > 1 and len((panel := _panel(line)).example)]
        if panels:
            pictures.append(_picture(panels, group[0]))
        else:
            missing.append(f"Δ ln p across layers, {task_name(group[0].record)}: no family of SAEs at two layers")
    return Drawable(pictures, missing)


def _panel(line: Line) -> _Panel:
    """Return the examples that are known at every layer of the line."""
    found = [examples_of(s) for s in line.sources]
    values = np.stack([one.delta_lnp for one in found], 1)
    known = np.isfinite(values).all(1)
    return _Panel(line.name, [s.layer or 0 for s in line.sources], found[0].example[known], values[known])


def _picture(panels: Sequence[_Panel], first: Source) -> Picture:
    shapes = [panel.values.shape for panel in panels]
    return Picture(
        name=f"{folder_of(first.record)}/seed{first.record.seed}.delta_lnp_layers.{first.kind}",
        columns={
            "line": np.repeat([panel.name for panel in panels], [n * layers for n, layers in shapes]),
            "example": np.concatenate([np.repeat(panel.example, len(panel.layers)) for panel in panels]),
            "layer": np.concatenate([np.tile(panel.layers, len(panel.example)) for panel in panels]),
            "delta_lnp": np.concatenate([panel.values.ravel() for panel in panels]),
        },
        paint=lambda figure: _paint(figure, panels, f"{title_of(first.record)}: {first.kind}"),
    )


def _paint(figure: Figure, panels: Sequence[_Panel], about: str) -> None:
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure.set_size_inches(max(6.5, 5.2 * columns), 4.6 * rows)
    title(figure, about)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for i, (axis, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        colours = _lines(axis, panel)
        axis.set_title(label(panel.name))
        axis.set_xticks(panel.layers)
        axis.set_xlabel("layer of the SAE")
        if i % columns == 0:
            axis.set_ylabel("Δ ln p of the answer, spliced − clean (nats)")
        figure.colorbar(colours, ax=axis, label=f"Δ ln p at layer {panel.layers[0]} (nats)", extend="both")


def _lines(axis: Axes, panel: _Panel) -> ScalarMappable:
    """Draw the lines and their mean, coloured by what they are at the first layer; return the colours."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    start = panel.values[:, 0]
    middle, spread = float(start.mean()), float(start.std()) or 1.0
    colours = ScalarMappable(Normalize(middle - _SIGMAS * spread, middle + _SIGMAS * spread), "viridis")
    order = np.random.default_rng(0).permutation(len(start))  # so that no colour lies above the others
    points = np.stack([np.broadcast_to(panel.layers, panel.values.shape), panel.values], 2)[order]
    alpha = float(np.clip(100 / len(start), 0.08, 0.6))
    axis.add_collection(LineCollection(list(points), colors=colours.to_rgba(start[order]), linewidths=0.7, alpha=alpha))
    axis.axhline(0, color="black", linewidth=0.8)
    axis.plot(panel.layers, panel.values.mean(0), "o-", color="black", markeredgecolor="white", linewidth=2, label="mean")
    axis.autoscale_view()
    axis.legend(loc="best")
    return colours

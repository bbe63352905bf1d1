"""Matrices as heat maps with the numbers in their cells, for pictures of SAE × SAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from saebench.report.figures.picture import GREY, label
from saebench.report.figures.sources import Source, names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
_CELL, _WIDEST, _PANEL = 0.62, 1.1, 3.0
"""Inches: a cell at least and at most, and a panel's width that cells are stretched to."""


def heat(
    axis: Axes,
    values: Floats,
    text: Callable[[float, float], str],
    stderr: Floats,
    *,
    limits: tuple[float, float],
    colours: str,
) -> None:
    """Draw a matrix, grey where there is nothing.

    Args:
        axis: Where.
        values: What the colours say, [row, column].
        text: What stands in a cell, of its value and standard error (NaN where there is none).
        stderr: Standard errors.
        limits: Values at the ends of the colours.
        colours: Name of matplotlib's map.
    """
    import matplotlib

    scale = matplotlib.colormaps[colours].with_extremes(bad=GREY)
    axis.imshow(np.ma.masked_invalid(values), cmap=scale, vmin=limits[0], vmax=limits[1], aspect="equal")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xticks(np.arange(values.shape[1] + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(values.shape[0] + 1) - 0.5, minor=True)
    axis.grid(which="minor", visible=True, color="white", linewidth=1, alpha=1)
    axis.tick_params(which="both", length=0)
    size = 6.5 if max(values.shape) > 5 else 8
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = scale((float(value) - limits[0]) / (limits[1] - limits[0]))
            ink = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else "black"
            said = text(float(value), float(stderr[row, column]))
            axis.text(column, row, said, ha="center", va="center", fontsize=size, color=ink)


def names_along(axis: Axes, columns: Sequence[str], rows: Sequence[str], *, with_rows: bool) -> None:
    """Write names under the columns of a matrix and, if asked for, beside its rows."""
    axis.set_xticks(range(len(columns)), columns, rotation=45, ha="right", rotation_mode="anchor", fontsize=7.5)
    axis.set_yticks(range(len(rows)), rows if with_rows else [""] * len(rows), fontsize=7.5)


def sized(figure: Figure, names: Sequence[str], *, panels: int, rows: int, columns: int) -> None:
    """Give a figure the size that matrices side by side take, their names below and beside them, titles above."""
    longest = 0.07 * max(map(len, names))
    cell = min(_WIDEST, max(_CELL, _PANEL / columns))
    figure.set_size_inches(panels * (columns * cell + 0.25) + longest + 0.6, rows * cell + 0.75 * longest + 1.45)


def sae_names(sources: Sequence[Source]) -> list[str]:
    """Return what the SAEs are called along a matrix."""
    return [label(name) for name in names_of(sources)]

"""Whether the same tokens suffer from every SAE: correlations of per-token ΔCE and overlap of the tails, as matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saebench.report.figures.heat import heat, names_along, sae_names, sized
from saebench.report.figures.picture import Drawable, title
from saebench.report.figures.sources import Source, title_of
from saebench.report.figures.together import Pair, Together, matrices

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
    lacks = f"correlations of ΔCE, {{task}}: no table {TABLE}; run the task again with --force"
    return matrices(sources, TABLE, _COLUMNS, names=("sae", "other"), paint=_paint, lacks=lacks)


def _paint(figure: Figure, run: Together, pairs: Sequence[Pair]) -> None:
    n, names = len(run.sources), sae_names(run.sources)
    sized(figure, names, panels=len(_MEASURES), rows=n, columns=n)
    title(figure, f"{title_of(run.record)}; ± 1 s.e.")
    axes = figure.subplots(1, len(_MEASURES))
    for axis, (measure, (about, limits, colours)) in zip(axes, _MEASURES.items(), strict=True):
        values, errors = np.full((n, n), np.nan), np.full((n, n), np.nan)
        for pair in pairs:
            at = pair.own, pair.other
            values[at], errors[at] = pair.values[measure], pair.values[f"{measure}_stderr"]
        heat(axis, values, _number, errors, limits=limits, colours=colours)
        names_along(axis, names, names, with_rows=axis is axes[0])
        axis.set_title(about)


def _number(value: float, stderr: float) -> str:
    text = f"{value:.2f}".replace("-", "−")
    return text if np.isnan(stderr) else f"{text}\n± {stderr:.2f}" if stderr >= 0.005 else f"{text}\n± {stderr:.1g}"

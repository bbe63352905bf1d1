"""Error propagation as matrices: what the splice of one SAE does to the SAEs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saebench.report.figures.heat import Floats, heat, names_along, sae_names, sized
from saebench.report.figures.picture import Drawable, title
from saebench.report.figures.sources import Source, title_of
from saebench.report.figures.together import Pair, Together, matrices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE = "propagation"
_COLUMNS = ("sae", "metric", "clean", "spliced", "fraction", "stderr")
_METRICS = {"mse": "MSE of the later SAE", "l0": "L0 of the later SAE", "norm": "norm of the acts there"}


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of SAEs that were run together."""
    lacks = "propagation matrices, {task}: no SAE lies behind another"
    return matrices(sources, TABLE, _COLUMNS, names=("spliced_sae", "later_sae"), paint=_paint, lacks=lacks)


def _paint(figure: Figure, run: Together, pairs: Sequence[Pair]) -> None:
    first, later = sorted({pair.own for pair in pairs}), sorted({pair.other for pair in pairs})
    names = sae_names(run.sources)
    sized(figure, names, panels=len(_METRICS), rows=len(later), columns=len(first))
    title(figure, f"{title_of(run.record)}: (spliced − clean) / clean, ± 1 s.e.")
    axes = figure.subplots(1, len(_METRICS))
    for axis, (metric, about) in zip(axes, _METRICS.items(), strict=True):
        values, errors = (np.full((len(later), len(first)), np.nan) for _ in range(2))
        for pair in pairs:
            if pair.values["metric"] == metric:
                at = later.index(pair.other), first.index(pair.own)
                values[at], errors[at] = pair.values["fraction"], pair.values["stderr"]
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

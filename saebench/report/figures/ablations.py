"""What ablating the listed latents does, against what their scores say: the causal check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saebench.report.figures.latents import TABLE
from saebench.report.figures.picture import COLOURS, Drawable, Picture, legend_below, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = ("latent", "role", "n_active", "delta_lnp_z", "ablated_delta_lnp_mean", "ablated_delta_lnp_stderr")
_LOOKS = {"helpful": (COLOURS[0], "^"), "harmful": (COLOURS[3], "v"), "control": ("#7F7F7F", "o")}


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture an SAE and set of examples."""
    pictures, missing = [], []
    for source in (s for s in sources if s.study == "cloze" and s.has(TABLE, *_COLUMNS)):
        table = source.read(TABLE, *_COLUMNS)
        ablated = np.isfinite(table["ablated_delta_lnp_mean"]) & np.isfinite(table["delta_lnp_z"])
        if ablated.any():
            pictures.append(_picture(source, {name: column[ablated] for name, column in table.items()}))
        else:
            missing.append(f"ablated latents, {task_name(source.record)}: none was ablated")
    return Drawable(pictures, missing)


def _picture(source: Source, columns: dict[str, np.ndarray]) -> Picture:
    r = source.record
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.ablated_latents.{source.slug}",
        columns=columns,
        paint=lambda figure: _paint(figure, columns, f"{r.sae.name} at {r.sae.site}", f"{title_of(r)}; bars ± 1 s.e."),
    )


def _paint(figure: Figure, columns: dict[str, np.ndarray], *about: str) -> None:
    figure.set_size_inches(7.5, 6)
    title(figure, *about)
    axis = figure.subplots()
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(0, color="black", linewidth=0.8)
    x, y, error = (columns[name] for name in _COLUMNS[3:])
    for role, (colour, marker) in _LOOKS.items():
        some = columns["role"] == role
        if some.any():
            bars = np.nan_to_num(error[some])
            axis.errorbar(x[some], y[some], bars, fmt=marker, color=colour, capsize=2, alpha=0.85,
                          label=f"{role} ({int(some.sum())})")  # fmt: skip
    for corner, ha, va in (((0.01, 0.99), "left", "top"), ((0.99, 0.01), "right", "bottom")):
        axis.annotate(
            "ablation agrees with the score", corner, xycoords="axes fraction", ha=ha, va=va, fontsize=8, color="#555555"
        )
    axis.set_xlabel("mean Δ ln p where the latent is active, in standard deviations from chance (z)")
    axis.set_ylabel("ln p of the answer, ablated − spliced (nats)")
    axis.margins(0.12)
    handles, labels = axis.get_legend_handles_labels()
    legend_below(figure, handles, labels)

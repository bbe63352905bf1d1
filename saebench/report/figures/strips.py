"""Δ ln p of every example, one strip an SAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from saebench.report.figures.examples import Examples, examples_of, with_examples
from saebench.report.figures.picture import COLOURS, SEED, Drawable, Picture, label, legend_below, title
from saebench.report.figures.sources import Source, asked, by_site, folder_of, grouped, names_of, task_name, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HALF = 0.28
"""Half the width of a strip; the SAEs stand 1 apart."""


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a set of examples."""
    pictures, missing = [], []
    for group in grouped(with_examples(sources), lambda s: asked(s.record)):
        found = [one for one in map(examples_of, by_site(group)) if np.isfinite(one.delta_lnp).any()]
        if found:
            pictures.append(_picture(found))
        else:
            missing.append(f"strips of Δ ln p, {task_name(group[0].record)}: no finite Δ ln p")
    return Drawable(pictures, missing)


def _picture(found: Sequence[Examples]) -> Picture:
    record = found[0].source.record
    known = [np.isfinite(one.delta_lnp) for one in found]
    values = [one.delta_lnp[some] for one, some in zip(found, known, strict=True)]
    sizes = [len(v) for v in values]
    saes = [one.source.record.sae for one in found]

    def repeated(each: Sequence[object]) -> np.ndarray:
        return np.repeat(np.array(each, dtype=object), sizes)

    return Picture(
        name=f"{folder_of(record)}/seed{record.seed}.delta_lnp",
        columns={
            "sae": repeated([sae.name for sae in saes]),
            "sae_sha256": repeated([sae.sha256 for sae in saes]),
            "site": repeated([sae.site for sae in saes]),
            "example": np.concatenate([one.example[some] for one, some in zip(found, known, strict=True)]),
            "delta_lnp": np.concatenate(values),
            "mean": repeated([float(v.mean()) for v in values]),
            "median": repeated([float(np.median(v)) for v in values]),
        },
        paint=lambda figure: _paint(figure, [one.source for one in found], values),
    )


def _paint(figure: Figure, sources: Sequence[Source], values: Sequence[np.ndarray]) -> None:
    figure.set_size_inches(max(6.5, 2 + 1.1 * len(values)), 6)
    title(figure, title_of(sources[0].record))
    axis = figure.subplots()
    rng = np.random.default_rng(SEED)
    axis.axhline(0, color="black", linewidth=0.8)
    size, alpha = (3, 0.15) if max(map(len, values)) > 1000 else (6, 0.35)
    for i, y in enumerate(values):
        x = i + rng.uniform(-_HALF, _HALF, len(y))
        axis.scatter(x, y, s=size, alpha=alpha, color=COLOURS[0], linewidths=0)
        (median,) = axis.plot([i - 1.2 * _HALF, i + 1.2 * _HALF], [np.median(y)] * 2, color="black", linewidth=2)
        (mean,) = axis.plot([i], [y.mean()], "D", color=COLOURS[1], markeredgecolor="black", markersize=6)
    names = [label(name) for name in names_of(sources)]
    figure.set_figheight(5.5 + 0.045 * max(map(len, names)))
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_xlim(-0.6, len(values) - 0.4)
    axis.grid(axis="x", visible=False)
    axis.set_ylabel("Δ ln p of the answer, spliced − clean (nats)")
    legend_below(figure, [median, mean], ["median", "mean"])  # pyright: ignore[reportPossiblyUnboundVariable]

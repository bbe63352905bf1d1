"""The report of a run: PNG curves and the histogram of log10 density."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from saebench.record import Series
from saebench.store import write_atomic

_CURVES = (
    ("loss", "loss", "log"),
    ("explained_variance", "explained variance", "linear"),
    ("l0", "L0", "linear"),
    ("dead_share", "share of dead latents", "linear"),
    ("lr", "learning rate", "linear"),
    ("tokens_per_second", "tokens per second", "linear"),
)


def write_report(folder: Path, rows: list[dict[str, float]], density: Series | None) -> None:
    """Write ``figures/curves.png``, and ``figures/density.png`` where a histogram is given.

    Args:
        folder: The run's folder.
        rows: Its log.
        density: ``log10_density_histogram`` on the held-out tokens.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (name, label, scale) in zip(axes.flat, _CURVES, strict=True):
        points = [(row["tokens"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), color="C0", label="training batches")
        held_out = [(row["tokens"], row[f"held_out_{name}"]) for row in rows if f"held_out_{name}" in row]
        if held_out:
            axis.plot(*zip(*held_out, strict=True), "o", color="C3", label="held-out text")
            axis.legend()
        positive = scale == "log" and all(value > 0 for _, value in points)
        axis.set(xlabel="tokens", ylabel=label, yscale="log" if positive else "linear")
    _save(figure, folder / "figures/curves.png")
    plt.close(figure)
    if density is not None:
        figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
        width = density.x[1] - density.x[0]  # pyright: ignore[reportOperatorIssue]
        axis.bar(density.x, density.value, width=width, align="edge")  # pyright: ignore[reportArgumentType]
        axis.set(xlabel="log10 density on held-out text", ylabel="latents (dead ones are left out)")
        _save(figure, folder / "figures/density.png")
        plt.close(figure)


def _save(figure: Any, path: Path) -> None:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
    write_atomic(path, data.getvalue())

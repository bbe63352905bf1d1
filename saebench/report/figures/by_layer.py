"""Accuracy and CE by layer, clean and spliced: one line a family of SAEs and seed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saebench.record import Record
from saebench.report.figures.picture import COLOURS, MARKERS, Drawable, Picture, label, legend_below, title
from saebench.report.figures.sources import Source, asked, families, folder_of, grouped, task_name, task_of
from saebench.store import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STUDIES = ("cloze",)
_SCORES = ("acc_clean", "acc_spliced", "acc_last_sentence", "acc_chance", "ce_clean", "ce_spliced")
_DODGE = 0.05
"""How far beside each other the lines of different SAEs stand, in layers."""


class _Line(NamedTuple):
    name: str
    seed: Hashable
    rows: list[dict[str, Any]]


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture a task and kind of site."""
    pictures, missing = [], []
    for group in grouped((s for s in sources if s.study in STUDIES), lambda s: (*task_of(s.record), s.kind)):
        first = group[0]
        if first.layer is None:
            missing.append(f"by layer: {first.record.sae.site} is in no layer")
            continue
        pictures.append(_picture(group))
    return Drawable(pictures, missing)


def _picture(group: Sequence[Source]) -> Picture:
    record, lines = group[0].record, _lines(group)
    rows = [row for line in lines for row in line.rows]
    return Picture(
        name=f"{folder_of(record)}/by_layer.{slug(group[0].kind)}",
        columns={key: [row[key] for row in rows] for key in rows[0]},
        paint=lambda figure: _paint(figure, lines, f"{task_name(record)}, {record.model.name}, {group[0].kind}; bars ± 1 s.e."),
    )


def _lines(group: Sequence[Source]) -> list[_Line]:
    sets = grouped(group, lambda s: asked(s.record))
    seeds = [s[0].record.seed for s in sets]
    lines = []
    for number, some in enumerate(sets):
        seed = seeds[number]
        about = "" if len(sets) == 1 else f", seed {seed}"
        if seeds.count(seed) > 1:
            about += f", {some[0].record.data.n_contexts:,} examples"
        for line in families(some):
            rows = [_row(s, line.name) for s in line.sources]
            lines.append(_Line(f"{line.name}{about}", f"clean{about}", rows))
    return lines


def _row(source: Source, line: str) -> dict[str, Any]:
    r = source.record
    row = {"sae": r.sae.name, "sae_sha256": r.sae.sha256, "site": r.sae.site, "layer": source.layer, "line": line}
    row |= {"seed": r.seed, "n": r.data.n_contexts}
    for name in _SCORES:
        row[name], row[f"{name}_stderr"] = _score(r, name)
    return row


def _score(record: Record, name: str) -> tuple[float | None, float | None]:
    found = next((score for score in record.scores if score.name == name), None)
    return (None, None) if found is None else (found.value, found.stderr)


def _paint(figure: Figure, lines: Sequence[_Line], about: str) -> None:
    figure.set_size_inches(11, 5.2)
    title(figure, about)
    axes = figure.subplots(1, 2)
    for axis, what in zip(axes, ("acc", "ce"), strict=True):
        for i, line in enumerate(lines):
            _spliced(axis, line, what, i, _DODGE * (i - (len(lines) - 1) / 2))
        _clean(axis, lines, what)
        layers = sorted({row["layer"] for line in lines for row in line.rows})
        axis.set_xticks(layers)
        axis.set_xlim(layers[0] - 0.5, layers[-1] + 0.5)
        axis.set_xlabel("layer of the SAE")
    axes[0].set_ylabel("accuracy (share of examples)")
    axes[1].set_ylabel("CE of the prompt (nats per token)")
    handles, labels = axes[0].get_legend_handles_labels()
    legend_below(figure, handles, labels)


def _spliced(axis: Axes, line: _Line, what: str, i: int, dodge: float) -> None:
    rows = [row for row in line.rows if row[f"{what}_spliced"] is not None]
    axis.errorbar(
        [row["layer"] + dodge for row in rows],
        [row[f"{what}_spliced"] for row in rows],
        [row[f"{what}_spliced_stderr"] or 0.0 for row in rows],
        color=COLOURS[i % len(COLOURS)],
        marker=MARKERS[(i // len(COLOURS) + i) % len(MARKERS)],
        capsize=2.5,
        label=label(line.name),
    )


def _clean(axis: Axes, lines: Sequence[_Line], what: str) -> None:
    """Draw what no SAE changes: a line with its band for each set of examples, and what the gap gives away."""
    firsts = [group[0] for group in grouped(lines, lambda line: line.seed)]
    dashes = ("--", "-.", ":")
    for i, line in enumerate(firsts):
        value, stderr = line.rows[0][f"{what}_clean"], line.rows[0][f"{what}_clean_stderr"]
        if value is None:
            continue
        axis.axhline(value, color="black", linestyle=dashes[i % 3], linewidth=1.2, label=label(str(line.seed)))
        if stderr and math.isfinite(stderr):
            axis.axhspan(value - stderr, value + stderr, color="black", alpha=0.1, linewidth=0)
    if what == "acc" and len(firsts) == 1:
        for name, about, dots in (
            ("acc_last_sentence", "clean, last sentence alone", (0, (1, 1))),
            ("acc_chance", "chance", (0, (1, 4))),
        ):
            value = firsts[0].rows[0][name]
            if value is not None:
                axis.axhline(value, color="black", linestyle=dots, linewidth=1, label=about)

"""SAEs that one run of the study ``propagation`` compared, in the order of their sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from saebench.record import Record
from saebench.report.figures.picture import Drawable, Picture
from saebench.report.figures.sources import Source, asked, by_site, folder_of, grouped, task_name
from saebench.store import sae_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Together(NamedTuple):
    """The records of one run; two or more."""

    sources: list[Source]
    labels: list[str]
    """What the tables call each SAE."""

    @property
    def record(self) -> Record:
        """Any of the records, for what they share."""
        return self.sources[0].record


def together(sources: Sequence[Source]) -> list[Together]:
    """Return the runs of the study of which two records or more are there."""
    own = [s for s in sources if s.study == "propagation"]
    runs = grouped(own, lambda s: (*asked(s.record), tuple(s.record.settings.get("saes_together", ()))))
    found = [by_site(run) for run in runs if len(run) > 1]
    return [Together(run, [label_of(s.record) for s in run]) for run in found]


def label_of(record: Record) -> str:
    """Return what the study's tables call an SAE."""
    return sae_label(record.sae.site, record.sae.name, record.sae.sha256)


class Pair(NamedTuple):
    """A row of a table about an SAE and another of the same run."""

    own: int
    """Which SAE of the run the table is of,"""
    other: int
    """and which one the row is about."""
    values: dict[str, Any]
    """The table's other columns."""


def pairs(run: Together, table: str, columns: Sequence[str]) -> list[Pair]:
    """Return the rows of a table; the first of the columns names the other SAE."""
    place = {label: i for i, label in enumerate(run.labels)}
    found = []
    for own, source in enumerate(run.sources):
        if not source.has(table, *columns):
            continue
        for other, *values in zip(*source.read(table, *columns).values(), strict=True):
            if other in place:
                found.append(Pair(own, place[other], dict(zip(columns[1:], values, strict=True))))
    return found


def matrices(
    sources: Sequence[Source],
    table: str,
    columns: Sequence[str],
    *,
    names: tuple[str, str],
    paint: Callable[[Figure, Together, list[Pair]], None],
    lacks: str,
) -> Drawable:
    """Return a picture of a table about pairs of SAEs for every run.

    Args:
        sources: Records.
        table: The table, which the picture is called after too.
        columns: Those that are read, the first of them with the other SAE's name.
        names: What the CSV calls an SAE and the other.
        paint: Draws it.
        lacks: What to say where a run has no such rows, behind what is drawn; ``{task}`` is its task.
    """
    pictures, missing = [], []
    for run in together(sources):
        found = pairs(run, table, columns)
        if not found:
            missing.append(lacks.format(task=task_name(run.record)))
            continue
        csv: dict[str, list[Any]] = {
            names[0]: [run.labels[pair.own] for pair in found], names[1]: [run.labels[pair.other] for pair in found]
        }  # fmt: skip
        csv |= {column: [pair.values[column] for pair in found] for column in columns[1:]}
        r = run.record
        pictures.append(
            Picture(
                name=f"{folder_of(r)}/seed{r.seed}.{table}",
                columns=csv,
                paint=lambda figure, run=run, found=found: paint(figure, run, found),
            )
        )
    return Drawable(pictures, missing)

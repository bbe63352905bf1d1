"""All pictures that some records give, written to a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from saebench.errors import InputError, RecordError
from saebench.record import Record
from saebench.report.figures import (
    ablations,
    by_layer,
    classes,
    correlations,
    examples,
    latents,
    parallel,
    propagation,
    strips,
    tokens,
)
from saebench.report.figures.picture import Drawable
from saebench.report.figures.sources import Source, open_sources
from saebench.store import write_atomic

_KINDS = {
    "cloze": (by_layer, strips, parallel, classes, latents, ablations),
    "propagation": (propagation, correlations, tokens),
}
"""The kinds of pictures, by the study whose records they are of."""
_NEEDS = {
    "cloze": "accuracy, CE and Δ ln p: no record of a cloze task (lambada_openai, storyworld_lambada, …)",
    "propagation": "propagation and ΔCE by token: no two records of one run of --task propagation (two SAEs or more)",
}
_TABLES = (examples.TABLE, latents.TABLE, propagation.TABLE, correlations.TABLE, tokens.TABLE)


class Drawn(NamedTuple):
    """What was written, and what could not be."""

    files: list[Path]
    """The pictures; beside each lies its CSV."""
    missing: list[str]
    """Pictures that were left out and what they need, a line each."""
    damaged: list[RecordError]
    """Tables that are not what their records say."""


def draw_all(files: Mapping[Path, Record], folder: Path) -> Drawn:
    """Draw everything that the records give: ``<folder>/<model>/<task>@<version>/….png``, and beside each a CSV.

    The same records give the same bytes.

    Args:
        files: Records by their files; their tables lie beside them.
        folder: Where the pictures go; those of the same names are replaced.

    Raises:
        InputError: There is nothing to draw, or the folder cannot be written.
        RecordError: There is nothing to draw because tables are missing or damaged.
    """
    sources, damaged = open_sources(files, _TABLES)
    found = drawable(sources)
    if not found.pictures:
        if damaged:
            raise damaged[0]
        raise InputError(f"nothing to draw: {'; '.join(found.missing)}")
    written, taken = [], dict[str, int]()
    for picture in found.pictures:
        again = taken[picture.name] = taken.get(picture.name, 0) + 1
        name = picture.name if again == 1 else f"{picture.name}.{again}"
        path = folder / f"{name}.png"
        write_atomic(folder / f"{name}.csv", picture.csv())
        write_atomic(path, picture.png())
        written.append(path)
    return Drawn(written, found.missing, damaged)


def drawable(sources: list[Source]) -> Drawable:
    """Return all pictures of some sources, not drawn yet, and what is missing for others, each line once."""
    pictures, missing = [], Counter[str]()
    for study, kinds in _KINDS.items():
        of_study = [s for s in sources if s.study == study]
        found = [kind.draw(of_study) for kind in kinds]
        lines = [line for one in found for line in one.missing]
        pictures += [picture for one in found for picture in one.pictures]
        missing.update(lines if lines or any(one.pictures for one in found) else [_NEEDS[study]])
    return Drawable(pictures, [line if n == 1 else f"{line} ({n} records)" for line, n in missing.items()])

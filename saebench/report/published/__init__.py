"""Numbers that others have published, to be put beside ours: one CSV and one YAML file a publication.

The CSV has the columns task, site, score, value, stderr, n, context_length, source: task and score by the names that they
have here. Imports neither torch nor transformers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib import resources

from pydantic import BaseModel, ConfigDict

from saebench.errors import InputError, did_you_mean
from saebench.tasklist import load_yaml, validate


@dataclass(frozen=True, kw_only=True)
class PublishedScore:
    """One number as it was published, under the name that the same quantity has here."""

    task: str
    site: str
    score: str
    value: float
    stderr: float | None
    """``None`` where none was published, or can be had from what was."""
    n: int | None
    context_length: int | None
    """Only records of contexts of this length are measured alike; ``None`` where the task fixes the texts."""
    source: str
    """Table, figure or file of the publication."""


class About(BaseModel):
    """What a publication measured, and what must be known when its numbers are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    title: str
    models: tuple[str, ...]
    """Names under which the model is known."""
    saes: str
    every_position: tuple[str, ...] = ()
    """Tasks whose numbers were made with position 0 replaced too, and which here leave it clean unless told otherwise."""
    notes: tuple[str, ...] = ()
    citation: str


def published_names() -> list[str]:
    """Return the names of all publications there are numbers of."""
    return sorted(file.name.removesuffix(".csv") for file in resources.files(__name__).iterdir() if file.name.endswith(".csv"))


def load_published(name: str) -> tuple[About, list[PublishedScore]]:
    """Return what a publication says; an unknown name raises ``InputError`` with the nearest ones."""
    known = published_names()
    if name not in known:
        raise InputError(f"no published numbers {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    folder = resources.files(__name__)
    about = validate(About, load_yaml(folder / f"{name}.yaml"), f"{name}.yaml")
    rows = csv.DictReader((folder / f"{name}.csv").read_text(encoding="utf-8").splitlines())
    return about, [
        PublishedScore(
            task=row["task"],
            site=row["site"],
            score=row["score"],
            value=float(row["value"]),
            stderr=float(row["stderr"]) if row["stderr"] else None,
            n=int(row["n"]) if row["n"] else None,
            context_length=int(row["context_length"]) if row["context_length"] else None,
            source=row["source"],
        )
        for row in rows
    ]

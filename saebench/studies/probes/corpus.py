"""The running text that recipes work on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from saebench.data import CorpusSpec
from saebench.data.sources import open_source, text_of
from saebench.studies.probes.recipe import RecipeOptions


class CorpusOptions(RecipeOptions):
    """Which running text a recipe works on."""

    corpus: str
    """A file, a folder or a hub id, as ``--corpus`` takes them; or ``storyworld:train``, which is generated."""
    config: str | None = None
    """Configuration of a hub data set."""
    split: str | None = None
    """Split of a hub data set; ``train`` if not given."""
    text_column: str = "text"
    """Where the text is, in rows."""
    documents: int = Field(default=100_000, ge=1)
    """Documents to read at most."""


def documents(options: CorpusOptions, *, seed: int, data_dir: Path | None) -> Iterator[str]:
    """Yield the corpus's documents, one text each.

    Raises:
        InputError: There is no such corpus, it is empty, or its rows have no text.
    """
    spec = CorpusSpec(source=options.corpus, config=options.config, split=options.split, text_column=options.text_column)
    rows = open_source(spec, seed=seed, data_dir=data_dir).rows()
    return (text_of(row, options.text_column, options.corpus) for row in itertools.islice(rows, options.documents))

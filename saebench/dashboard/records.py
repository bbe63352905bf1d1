"""What records of an SAE say of single latents: rows of the tables beside them.

| study | table | a row is |
|---|---|---|
| ``n2g`` | ``n2g`` | a latent: its patterns, and how well they do |
| ``ablation`` | ``ablated_latents`` | a latent that was taken out |
| ``probes`` | ``tasks`` | a probe task, with the latent that is best at it |
| ``cloze`` | ``latent_scores`` | a latent that is active in a prompt |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from saebench.errors import RecordError
from saebench.lm.model import LanguageModel
from saebench.record import Record
from saebench.report.figures.sources import Source, open_sources, task_name
from saebench.report.select import load_records
from saebench.sae import SAE

TABLES = {"n2g": "n2g", "ablation": "ablated_latents", "probes": "tasks", "cloze": "latent_scores"}
"""The table of each study."""


class Row(NamedTuple):
    """A row of a table, and the record that it is of."""

    record: Record
    values: dict[str, Any]

    @property
    def task(self) -> str:
        """Task, version and seed."""
        return f"{task_name(self.record)}, seed {self.record.seed}"


@dataclass(frozen=True, kw_only=True)
class Known:
    """Records of one SAE."""

    sources: list[Source]
    damaged: list[RecordError]

    def of_model(self, model: LanguageModel) -> Known:
        """Return those that were made with this model, as far as they say it by a hash, a revision or a name."""
        return Known(sources=[s for s in self.sources if _same_model(s.record, model)], damaged=self.damaged)

    def of_study(self, study: str) -> list[Source]:
        """Return the records of a study that have its table, whole."""
        return [s for s in self.sources if s.study == study and TABLES[study] in s.tables]

    def rows(self, study: str, latents: Sequence[int] | None = None) -> list[Row]:
        """Return the rows of a study's tables, those of some latents or all.

        Raises:
            RecordError: A table cannot be read.
        """
        return [Row(s.record, values) for s in self.of_study(study) for values in _read(s, TABLES[study], latents)]


def known_of(sae: SAE, folders: Sequence[Path]) -> Known:
    """Return what lies under some folders of an SAE: records whose SAE has its content and site.

    Args:
        sae: The SAE.
        folders: As ``saebench run --out`` wrote to them; with none, nothing is known.

    Raises:
        InputError: A folder does not exist, or none holds a record.
    """
    if not folders:
        return Known(sources=[], damaged=[])
    loaded = load_records(folders)
    own = [r for r in loaded.records if r.sae.sha256 == sae.sha256 and r.sae.site == sae.config.site]
    opened = open_sources(loaded.files(own), list(TABLES.values()))
    return Known(sources=opened.sources, damaged=[*loaded.damaged, *opened.damaged])


def _same_model(record: Record, model: LanguageModel) -> bool:
    about = record.model
    for theirs, ours in ((about.sha256, model.sha256), (about.revision, model.revision)):
        if theirs is not None and ours is not None:
            return theirs == ours
    return about.name == model.name


def _read(source: Source, table: str, latents: Sequence[int] | None) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = source.path.with_name(source.record.tables[table].file)
    wanted = None if latents is None else [("latent", "in", list(latents))]
    try:
        return pq.read_table(file, filters=wanted).to_pylist()
    except (OSError, pa.ArrowException):
        raise RecordError(f"{file} cannot be read; run the task again with --force, or restore it") from None

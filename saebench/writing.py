"""From what was found about one SAE to its record and the files beside it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saebench.config import RunConfig
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.metrics.base import MetricResult, finite_or_none
from saebench.plan import Item, PlannedSAE
from saebench.provenance import machine, source_commit, versions
from saebench.record import DataInfo, ModelInfo, Record, SaeInfo, Table, TaskInfo, TextFile
from saebench.store import write_atomic, write_record
from saebench.stream import centring
from saebench.studies.settings import study_of
from saebench.tasklist import StudyTask

LATENTS = "latents"
"""The table of everything that has one value a latent."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found about one SAE, and on which text."""

    results: Sequence[MetricResult]
    data: DataInfo
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables besides that of the latents: columns of one length, by name."""
    texts: Mapping[str, str] = field(default_factory=dict)


def write_outcome(
    config: RunConfig, model: LanguageModel, port: Port, item: Item, outcome: Outcome, timing: Mapping[str, float]
) -> list[str]:
    """Write one record with its tables and texts and return the names of the scores that failed.

    Raises:
        InputError: It cannot be written.
        ValueError: What a study or metric gave is not a valid record.
    """
    record = Record(
        sae=sae_info(item.sae, port),
        model=model_info(model),
        task=TaskInfo(name=item.task.name, version=item.task.version),
        seed=item.seed,
        scores=[score for r in outcome.results for score in r.scores],
        series=[series for r in outcome.results for series in r.series],
        raw={key: finite_or_none(value) for r in outcome.results for key, value in r.raw.items()},
        data=outcome.data,
        settings=item.settings
        | {"bos": _bos_rule(config, item), "residual_used": "centred" if any(centring(port, item.sae.config)) else "raw"},
        environment={"versions": versions(), **source_commit(), **machine(str(model.device)), "dtype": str(model.dtype)},
        timing=dict(timing),
        tables=_write_tables(item, outcome),
        texts={name: _write_text(item, name, text) for name, text in outcome.texts.items()},
    )
    write_record(item.path, record)
    return [score.name for score in record.scores if score.status == "failed"]


def _bos_rule(config: RunConfig, item: Item) -> str:
    own = isinstance(item.task, StudyTask) and getattr(study_of(item.task)[1], "splice_bos", False)
    return "replaced by splice and ablations" if config.splice_bos or own else "left clean by splice and ablations"


def _write_tables(item: Item, outcome: Outcome) -> dict[str, Table]:
    columns: dict[str, Any] = {name: values for r in outcome.results for name, values in r.per_latent.items()}
    tables: dict[str, Mapping[str, Any]] = dict(outcome.tables)
    if columns:
        if LATENTS in tables:
            raise ValueError(f"a table is called {LATENTS!r} beside that of the latents")
        tables[LATENTS] = {"latent": range(len(next(iter(columns.values()))))} | columns
    return {name: _write_table(item, name, columns) for name, columns in tables.items()}


def _write_table(item: Item, name: str, columns: Mapping[str, Any]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({key: pa.array(values) for key, values in columns.items()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = item.path.with_name(f"seed{item.seed}.{name}.parquet")
    write_atomic(path, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return Table(file=path.name, sha256=digest, rows=table.num_rows, columns=table.column_names)


def _write_text(item: Item, name: str, text: str) -> TextFile:
    path, data = item.path.with_name(f"seed{item.seed}.{name}.txt"), text.encode()
    write_atomic(path, data)
    return TextFile(file=path.name, sha256=hashlib.sha256(data).hexdigest())


def sae_info(sae: PlannedSAE, port: Port) -> SaeInfo:
    """Return the record's account of the SAE."""
    c = sae.config
    return SaeInfo(
        name=c.name,
        path=str(c.path),
        sha256=sae.sha256,
        format=c.format,
        architecture=c.architecture,
        d_in=c.d_in,
        d_out=c.d_out,
        d_sae=c.d_sae,
        k=c.k,
        site=port.read.name,
        site_out=port.write.name,
        normalisation=c.normalisation,
        residual=c.residual,
        context_length=c.context_length,
        dtype=sae.dtype,
        warnings=[*c.assumptions, *c.warnings],
    )


def model_info(model: LanguageModel) -> ModelInfo:
    """Return the record's account of the language model."""
    return ModelInfo(
        id=model.id,
        name=model.name,
        revision=model.revision,
        sha256=model.sha256,
        family=model.family,
        dtype=str(model.dtype).removeprefix("torch."),
    )

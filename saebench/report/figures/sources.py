"""Where the numbers of pictures come from: records, the tables beside them, and which of them belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from saebench.errors import RecordError
from saebench.record import Record
from saebench.report.select import natural
from saebench.store import sha256_file, slug

T = TypeVar("T")
Column = NDArray[Any]


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """A record, and those of its tables that are as they were written."""

    path: Path
    record: Record
    tables: Mapping[str, tuple[str, ...]]
    """Columns of each table."""

    @property
    def study(self) -> str:
        """Return the study's name; empty for metrics over a corpus."""
        return str(self.record.settings.get("study", "")).partition("@")[0]

    @property
    def layer(self) -> int | None:
        """Return the block of the site that is read."""
        found = re.match(r"blocks\.(\d+)\.", self.record.sae.site)
        return int(found[1]) if found else None

    @property
    def kind(self) -> str:
        """Return the site without its block: ``hook_resid_pre``."""
        return re.sub(r"^blocks\.\d+\.", "", self.record.sae.site)

    @property
    def slug(self) -> str:
        """Return the SAE as part of a file's name."""
        r = self.record.sae
        return f"{slug(r.site)}.{slug(r.name)}-{r.sha256[:8]}"

    def has(self, table: str, *columns: str) -> bool:
        """Return whether there is such a table with such columns."""
        return table in self.tables and set(columns) <= set(self.tables[table])

    def read(self, table: str, *columns: str) -> dict[str, Column]:
        """Return columns of a table; numbers that are null become NaN."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = _file(self.path, self.record, table)
        try:
            found = pq.ParquetFile(file).read(columns=list(columns))
        except (OSError, pa.ArrowException):
            raise RecordError(f"{file} cannot be read; run the task again with --force, or restore it") from None
        return {name: _array(found.column(name)) for name in columns}


class Opened(NamedTuple):
    """What can be drawn from."""

    sources: list[Source]
    damaged: list[RecordError]


def open_sources(files: Mapping[Path, Record], tables: Sequence[str]) -> Opened:
    """Return records with those of ``tables`` that lie beside them; of copies of one record the first.

    Args:
        files: Records by their files.
        tables: Names of tables; of each that a record names, the file's hash is compared.
    """
    sources: dict[Hashable, Source] = {}
    damaged: list[RecordError] = []
    for path, record in files.items():
        key = (*asked(record), record.sae.site, record.sae.site_out, record.sae.name, record.sae.sha256)
        if key in sources:
            continue
        whole = {}
        for name in (name for name in tables if name in record.tables):
            file, table = _file(path, record, name), record.tables[name]
            if not file.exists():
                damaged.append(RecordError(f"{file} is missing; run the task again with --force, or restore it"))
            elif sha256_file(file) != table.sha256:
                damaged.append(RecordError(f"{file} is not what {path.name} was written with; run the task again with --force"))
            else:
                whole[name] = tuple(table.columns)
        sources[key] = Source(path=path, record=record, tables=whole)
    return Opened(list(sources.values()), damaged)


def task_of(record: Record) -> tuple[Hashable, ...]:
    """Return model and task, which all that stands in one picture shares."""
    m = record.model
    return m.name, m.sha256 or m.revision or "", m.dtype, record.task.name, record.task.version


def asked(record: Record) -> tuple[Hashable, ...]:
    """Return what is the same for SAEs that were asked the same: model, task, seed and texts."""
    return (*task_of(record), record.seed, record.data.sha256, bool(record.settings.get("splice_bos", False)))


def grouped(things: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return things that share a key together, in the order in which keys come first."""
    groups: dict[Hashable, list[T]] = {}
    for thing in things:
        groups.setdefault(key(thing), []).append(thing)
    return list(groups.values())


def by_site(sources: Iterable[Source]) -> list[Source]:
    """Return sources in the order of their sites, then of their names."""
    return sorted(sources, key=lambda s: (natural(s.record.sae.site), natural(s.record.sae.name), s.record.sae.sha256))


def folder_of(record: Record) -> str:
    """Return the folder of a task's pictures: ``<model>/<task>@<version>``."""
    return f"{slug(record.model.name)}/{slug(record.task.name)}@{record.task.version}"


def task_name(record: Record) -> str:
    """Return task and version: ``lambada_openai@1``."""
    return f"{record.task.name}@{record.task.version}"


def title_of(record: Record) -> str:
    """Return what stands over a picture of one set of texts: task, model, seed and size."""
    what = "contexts" if str(record.settings.get("study", "")).startswith("propagation") else "examples"
    return f"{task_name(record)}, {record.model.name}, seed {record.seed}, {record.data.n_contexts:,} {what}"


def names_of(sources: Sequence[Source]) -> list[str]:
    """Return short names, each with its layer where the name does not tell."""
    return [
        name if s.layer is None or _family(s) != s.record.sae.name else f"{name} (layer {s.layer})"
        for name, s in zip(short_names(sources), sources, strict=True)
    ]


def short_names(sources: Sequence[Source]) -> list[str]:
    """Return a name for each SAE that no other among them has: its own, with its hash, or with its site as well."""
    names = [s.record.sae.name for s in sources]
    hashed = [f"{s.record.sae.name}-{s.record.sae.sha256[:8]}" for s in sources]
    return [
        name if names.count(name) == 1 else long if hashed.count(long) == 1 else f"{long} at {s.record.sae.site}"
        for name, long, s in zip(names, hashed, sources, strict=True)
    ]


class Line(NamedTuple):
    """SAEs of one family, layer by layer."""

    name: str
    sources: list[Source]


def families(sources: Sequence[Source]) -> list[Line]:
    """Return SAEs in families, each with at most one SAE a layer; those without a layer are left out.

    A family is what is called the same but for the layer's number. Those that are left alone in theirs and share format,
    architecture and d_sae are one family if no two of them are of one layer.
    """
    placed = [s for s in by_site(sources) if s.layer is not None]
    lines: list[Line] = []
    alone: list[Source] = []
    for group in grouped(placed, lambda s: (_family(s), s.record.sae.architecture)):
        name = _family(group[0])
        if len({s.layer for s in group}) < len(group):  # several of one name and layer
            lines += [Line(own, [s]) for own, s in zip(short_names(group), group, strict=True)]
        elif len(group) == 1:
            alone += group
        else:
            lines.append(Line(name, group))
    for group in grouped(alone, lambda s: (s.record.sae.format, s.record.sae.architecture, s.record.sae.d_sae)):
        if len(group) > 1 and len({s.layer for s in group}) == len(group):
            lines.append(Line(f"{group[0].record.sae.architecture}, d_sae {group[0].record.sae.d_sae:,}", group))
        else:
            lines += [Line(s.record.sae.name, [s]) for s in group]
    return lines


_LAYER = (
    r"(?i)((?:layers?|blocks?)[-_. ]?)0*{}(?!\d)",
    r"(?i)((?<![a-z])(?:resid|res|l|h)[-_. ]?)0*{}(?!\d)",
    r"()(?<![\d.])0*{}(?![\d.])",
)
"""Where a name tells the layer: the first of these that is found."""


def _family(source: Source) -> str:
    name = source.record.sae.name
    for pattern in _LAYER:
        found, n = re.subn(pattern.format(source.layer), r"\1*", name)
        if n:
            return found
    return name


def _array(column: Any) -> Column:
    """Return a column of Arrow as an array; its own way to one would import pandas."""
    import pyarrow.types as types

    values = column.to_pylist()
    if types.is_floating(column.type):
        return np.array(values, dtype=np.float64)
    return np.array(values, dtype=object if types.is_string(column.type) else None)


def _file(path: Path, record: Record, table: str) -> Path:
    return path.with_name(record.tables[table].file)

"""Which records a report is about: reading them, and ``--where`` filters."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from saebench.errors import InputError, RecordError, did_you_mean
from saebench.record import Record
from saebench.store import iter_records

_KEYS: dict[str, Callable[[Record], list[str]]] = {
    "sae": lambda r: [r.sae.name],
    "format": lambda r: [r.sae.format],
    "architecture": lambda r: [r.sae.architecture],
    "model": lambda r: [r.model.name, r.model.id],
    "site": lambda r: [r.sae.site],
    "task": lambda r: [r.task.name, f"{r.task.name}@{r.task.version}"],
    "seed": lambda r: [str(r.seed)],
}
"""What ``--where`` can ask for, and the texts of a record that answer it."""


class Loaded(NamedTuple):
    """What was found under some folders."""

    records: list[Record]
    damaged: list[RecordError]
    paths: list[Path]
    """The file of each record."""

    def files(self, some: Sequence[Record]) -> dict[Path, Record]:
        """Return some of ``records``, those that :func:`where` left say, by their files."""
        wanted = {id(record) for record in some}
        return {path: record for path, record in zip(self.paths, self.records, strict=True) if id(record) in wanted}


def load_records(folders: Sequence[Path]) -> Loaded:
    """Return every record under ``folders`` in a stable order, each file once, and the errors of the damaged ones.

    Raises:
        InputError: A folder does not exist, or none holds a record file.
    """
    records: dict[Path, Record] = {}
    damaged: dict[Path, RecordError] = {}
    for folder in folders:
        for path, found in iter_records(folder):
            if isinstance(found, RecordError):
                damaged[path.resolve()] = found
            else:
                records[path.resolve()] = found
    if not records and not damaged:
        names = ", ".join(str(f) for f in folders)
        raise InputError(f"no records under {names}; make some with `saebench run --sae PATH --out {folders[0]}`")
    found = sorted(records.items(), key=lambda item: order(item[1]))
    return Loaded([record for _, record in found], list(damaged.values()), [path for path, _ in found])


def where(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Return the records that meet every condition.

    Args:
        records: Where to look.
        conditions: ``key=value`` each; the value may hold ``*`` and ``?``. Two conditions on one key mean either.

    Raises:
        InputError: A condition is malformed, its key is unknown, or nothing is left.
    """
    wanted: dict[str, list[str]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals:
            raise InputError(f"--where {condition!r} is not key=value; keys: {', '.join(_KEYS)}")
        if key not in _KEYS:
            raise InputError(f"--where: unknown key {key!r}.{did_you_mean(key, _KEYS)} Keys: {', '.join(_KEYS)}.")
        wanted.setdefault(key, []).append(value)
    left = list(records)
    for key, patterns in wanted.items():
        kept = [r for r in left if any(fnmatch.fnmatchcase(t, p) for t in _KEYS[key](r) for p in patterns)]
        if not kept and left:
            there = sorted({_KEYS[key](r)[0] for r in left}, key=natural)
            raise InputError(f"no record has {key}={' or '.join(patterns)}; there are: {', '.join(there)}")
        left = kept
    return left


def order(record: Record) -> tuple[object, ...]:
    """Return the sort key that makes every view stable: model, site, SAE, seed, task."""
    r = record
    names = (r.model.name, r.sae.site, r.sae.name, r.sae.sha256, str(r.seed), r.task.name, str(r.task.version))
    return (*(natural(name) for name in names), r.data.n_tokens_scored, r.data.sha256)


def natural(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key under which ``blocks.2`` comes before ``blocks.10``."""
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p]

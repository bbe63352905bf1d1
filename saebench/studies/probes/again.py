"""Whether the probe tasks that a record lacks can be had by now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from saebench.probelist import probe_tasks
from saebench.record import Record
from saebench.studies.base import Lack
from saebench.studies.probes.examples import MissingProbe, ProbeExamples, load_examples


def lacking(
    record: Record, path: Path, tasks: Sequence[str], *, data_dir: Path | None, known: dict[Any, Any],
    why_not: Callable[[ProbeExamples], str | None],
) -> Lack:  # fmt: skip
    """Return which probe tasks a record is without, and the first of them that can be read now.

    They are read, one after the other, until one is there; what the hub does not give without a network fails at once.

    Args:
        record: Of the study ``probes``.
        path: Its file; the table of tasks lies beside it.
        tasks: What was asked for: names, patterns, files.
        data_dir: Folder of a local mirror.
        known: What was found for records that lack the same.
        why_not: What is wrong with examples that were read, or ``None``.
    """
    if not record.raw.get("probe_tasks_missing"):
        return Lack()
    import pyarrow.parquet as pq

    there = set(pq.read_table(path.with_name(record.tables["tasks"].file), columns=["task"]).column("task").to_pylist())
    missing = tuple(task.name for task in probe_tasks(tasks) if task.name not in there)
    limit = record.settings.get("limit")
    key = ("probes", tuple(tasks), missing, record.seed, limit)
    if key not in known:
        known[key] = _now(tasks, missing, seed=record.seed, limit=limit, data_dir=data_dir, why_not=why_not)
    return known[key]


def _now(
    tasks: Sequence[str], missing: Sequence[str], *, seed: int, limit: int | None, data_dir: Path | None,
    why_not: Callable[[ProbeExamples], str | None],
) -> Lack:  # fmt: skip
    reasons: list[str] = []
    for one in load_examples(tasks, seed=seed, limit=limit, data_dir=data_dir, only=missing):
        why = one.reason if isinstance(one, MissingProbe) else why_not(one)
        if why is None:
            return Lack(now=one.name)
        reasons.append(why)
    return Lack(missing=tuple(reasons))

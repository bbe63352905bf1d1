"""What a score is the mean of: one value a probe task, variable, example or document, from the table beside its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saebench.errors import InputError
from saebench.record import Record

Floats = NDArray[np.float64]
_SAE = "sae"
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False, kw_only=True)
class Items:
    """The things that a score is the mean over."""

    what: str
    """What they are: tasks, variables, examples, documents."""
    names: tuple[str, ...]
    """Which they are; those of two SAEs are the same things if the names and the record's texts are the same."""
    values: Floats
    """[n] the score of each."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Where a study leaves its items."""

    table: str
    what: str
    keys: tuple[str, ...]
    """Columns that name an item."""
    prefix: str = ""
    sources: tuple[str, ...] = ()
    """What else than the SAE has rows of its own, and a tail to its scores' names."""
    columns: Mapping[str, str] | None = None
    """Columns that are called otherwise than the score without prefix and tail."""


_OF_STUDY = {
    "probes": _Rows(
        table="tasks", what="tasks", keys=("task",), prefix="probe_", sources=("neurons", "pca", "random", "acts"),
        columns={"loss_train_min": "loss_train", "loss_train_min_permuted": "loss_train_permuted"},
    ),
    "truth": _Rows(
        table="variables", what="variables", keys=("variable",), prefix="truth_", sources=("neurons", "pca", "random")
    ),
    "cloze": _Rows(
        table="examples", what="examples", keys=("example",),
        columns={
            "acc_clean": "right_clean", "acc_spliced": "right_spliced", "acc_last_sentence": "right_last_sentence",
            "acc_5gram": "right_5gram", "acc_word_clean": "right_word_clean", "acc_word_spliced": "right_word_spliced",
            "ce_prompt_clean": "ce_clean", "ce_prompt_spliced": "ce_spliced", "ce_clean": "", "ce_spliced": "",
        },
    ),
    "lm_eval": _Rows(table="documents", what="documents", keys=("task", "document")),
}  # fmt: skip
"""``""`` stands for a score that is no mean over rows though a column is called as it is."""


def items_of(record: Record, path: Path, score: str) -> Items:
    """Return what a score of a record is the mean over.

    A score ``X_delta`` is the mean of spliced − clean by item, as is ``delta_lnp_mean``. That the mean of what is found is
    the score is checked.

    Args:
        record: Of a study that leaves rows.
        path: The record's file; its tables lie beside it.
        score: Name of a score of the record.

    Raises:
        InputError: The record has no such score, or no value for it; nothing beside it says of what it is the mean; the table
            is not there.
    """
    about = f"{score} of {record.sae.name}, {record.task.name}@{record.task.version}, seed {record.seed}"
    try:
        value = record.score(score).value
    except KeyError:
        raise InputError(f"{record.sae.name}: its record of {record.task.name} has no score {score!r}") from None
    if value is None:
        raise InputError(f"{about} has no value: {record.score(score).reason}")
    rows = _OF_STUDY.get(str(record.settings.get("study", "")).partition("@")[0])
    none = InputError(
        f"{about} is not a mean over rows that the record keeps; such are scores by probe task, variable, example or document"
    )
    if rows is None or rows.table not in record.tables:
        raise none
    source, columns = _columns(rows, score)
    table = _read(path.with_name(record.tables[rows.table].file))
    if not columns or not {*columns, *rows.keys} <= set(table):
        raise none
    chosen = [i for i, name in enumerate(table.get("source", [_SAE] * len(table[rows.keys[0]]))) if name == source]
    parts = [np.array([table[column][i] for i in chosen], dtype=np.float64) for column in columns]  # null becomes NaN
    values = parts[0] if len(parts) == 1 else parts[0] - parts[1]
    if not len(values) or not np.isclose(values.mean(), value, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise none
    names = tuple("/".join(str(table[key][i]) for key in rows.keys) for i in chosen)
    return Items(what=rows.what, names=names, values=values)


def _columns(rows: _Rows, score: str) -> tuple[str, list[str]]:
    """Return the source and the columns of a score: one, or two whose difference it is; none if it is no mean."""
    if not score.startswith(rows.prefix):
        return _SAE, []
    name, renamed = score.removeprefix(rows.prefix), rows.columns or {}
    tail = re.search(f"_({'|'.join(rows.sources)})$", name) if rows.sources else None
    if tail:
        return tail[1], [renamed.get(name[: tail.start()], name[: tail.start()])]
    if name == "delta_lnp_mean":
        return _SAE, ["lnp_spliced", "lnp_clean"]
    names = [name] if not name.endswith("_delta") else [name.removesuffix("delta") + part for part in ("spliced", "clean")]
    return _SAE, [column for one in names if (column := renamed.get(one, one))]


def _read(file: Path) -> dict[str, list[object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException):
        raise InputError(f"{file} is missing or damaged; run the task again, or restore it") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}

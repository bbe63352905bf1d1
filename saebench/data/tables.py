"""Folders written by ``save_to_disk`` and Parquet files: rows by number, without reading the rest into memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saebench.errors import InputError, first_line

_AT_ONCE = 256


class SavedTable:
    """Rows of a data set in the form of the ``datasets`` library."""

    def __init__(self, found: Any) -> None:
        self._found = found.with_format(None)  # a saved format would turn lists into tensors

    def __len__(self) -> int:
        return len(self._found)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every row, in file order."""
        yield from self._found

    def take(self, numbers: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """Yield the rows of these numbers."""
        yield from self._found.select(numbers)


class ParquetTable:
    """Rows of one or more Parquet files, in the order of their names."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __len__(self) -> int:
        return self._found.count_rows()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield every row, in file order."""
        for batch in self._found.to_batches(batch_size=_AT_ONCE):
            yield from batch.to_pylist()

    def take(self, numbers: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """Yield the rows of these numbers."""
        for start in range(0, len(numbers), _AT_ONCE):
            yield from self._found.take(numbers[start : start + _AT_ONCE]).to_pylist()


def open_table(path: Path, split: str) -> SavedTable | ParquetTable:
    """Open a folder that ``save_to_disk`` wrote, a Parquet file, or a folder of Parquet files.

    In a folder of Parquet files (or its ``data/``), those called ``<split>.parquet`` or ``<split>-….parquet`` are read;
    where no name tells a split, all of them.

    Raises:
        InputError: It is none of these, it is damaged, or it lacks the split.
    """
    if any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return _saved(path, split)
    files = [path] if path.is_file() else _parts(path, split)
    import pyarrow
    import pyarrow.dataset

    try:
        return ParquetTable(pyarrow.dataset.dataset([str(p) for p in files], format="parquet"))
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet ({first_line(error)}); write it again") from None


def _parts(folder: Path, split: str) -> list[Path]:
    files = sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder} is no corpus; give a .txt, .jsonl, .npy or .parquet file, or a folder of Parquet files or one "
            "that save_to_disk wrote"
        )
    splits = {p: m[1] for p in files if (m := re.fullmatch(r"(.+?)(?:-\d+-of-\d+.*)?\.parquet", p.name))}
    mine = [p for p in files if splits.get(p) == split]
    if not mine and any("-of-" in p.name or splits.get(p) in ("train", "test", "validation") for p in files):
        raise InputError(f"{folder} has no split {split!r}; it has {', '.join(sorted(set(splits.values())))}")
    return mine or files


def _saved(path: Path, split: str) -> SavedTable:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds for damaged folders
        raise InputError(f"{path} cannot be read as a saved data set ({first_line(error)}); write it with save_to_disk") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise InputError(f"{path} has no split {split!r}; it has {', '.join(map(str, found))}")
        found = found[split]
    return SavedTable(found)

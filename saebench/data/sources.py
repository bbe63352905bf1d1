"""From what the user names to rows of text or of token ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saebench.data.datasets import Row, load_rows, read_jsonl
from saebench.data.spec import CorpusSpec
from saebench.errors import InputError, did_you_mean


@dataclass(kw_only=True)
class Source:
    """An opened corpus: an array of ids, or rows of which the first has been looked at."""

    origin: str
    revision: str | None = None
    ids: NDArray[Any] | None = None
    """Pre-tokenised contexts ``[N, L]`` of a ``.npy`` file."""
    first: Row | None = None
    rest: Iterator[Row] = iter(())
    shuffled: bool = False
    """Whether the rows come in the seed's order already."""
    one_document: bool = False
    """A plain text file: its contexts, not its documents, are shuffled."""

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        if self.first is not None:
            yield self.first
        yield from self.rest


def open_source(spec: CorpusSpec, *, seed: int, data_dir: Path | None) -> Source:
    """Open what ``spec.source`` names.

    Raises:
        InputError: There is no such file or data set, or it is empty or damaged.
    """
    path = Path(spec.source).expanduser()
    if path.suffix == ".npy":
        return Source(origin=f"file:{path.name}", ids=_npy(path))
    if path.is_dir() and not (path / "dataset_info.json").exists() and not (path / "dataset_dict.json").exists():
        raise InputError(f"{path} is no corpus; give a .txt, .jsonl or .npy file, or a folder that save_to_disk wrote")
    if path.is_dir():
        source = _rows(_saved(path, spec.split), origin=f"file:{path.name}")
    elif path.is_file():
        source = _file(path)
    elif path.suffix in {".txt", ".jsonl", ".gz"} or spec.source.startswith((".", "/", "~")):
        raise InputError(f"no such corpus file: {path}")
    else:
        found = load_rows(
            spec.source, config=spec.config, split=spec.split, revision=spec.revision, seed=seed, data_dir=data_dir
        )
        source = _rows(found.rows, origin=found.origin, revision=found.revision)
        source.shuffled = not found.local
    if source.first is None:
        raise InputError(f"{spec.source} is empty; give a corpus with text in it")
    return source


def text_of(row: Row, column: str, source: str) -> str:
    """Return the text of a row; a missing column raises ``InputError`` that lists those there are."""
    if column not in row:
        raise InputError(f"{source} has no column {column!r}.{did_you_mean(column, row)} It has: {', '.join(map(str, row))}.")
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{source}: column {column!r} holds {type(value).__name__}, expected text")
    return value


def _rows(rows: Iterator[Row], *, origin: str, revision: str | None = None) -> Source:
    return Source(origin=origin, revision=revision, first=next(rows, None), rest=rows)


def _file(path: Path) -> Source:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _rows(read_jsonl(path), origin=f"file:{path.name}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable text ({error}); give a UTF-8 file") from None
    row = {"text": text} if text.strip() else None
    return Source(origin=f"file:{path.name}", first=row, one_document=True)


def _npy(path: Path) -> NDArray[Any]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no such corpus file: {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a whole .npy file of numbers ({error}); write it with numpy.save") from None
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{path} holds {ids.dtype} of shape {list(ids.shape)}; expected integer token ids of shape [contexts, positions]")
    if not ids.size:
        raise InputError(f"{path} is empty; give a corpus with tokens in it")
    return ids


def _saved(path: Path, split: str) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds for damaged folders
        raise InputError(f"{path} cannot be read as a saved data set ({error}); write it again with save_to_disk") from None
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise InputError(f"{path} has no split {split!r}; it has {', '.join(found)}")
        found = found[split]
    return (dict(row) for row in found)

"""From what the user names to rows of text or of token ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from saebench.data.datasets import Row, load_rows, read_jsonl
from saebench.data.spec import CorpusSpec
from saebench.data.tables import ParquetTable, SavedTable, open_table
from saebench.errors import InputError, did_you_mean

STORYWORLD = "storyworld"
"""The corpus that is generated, not read."""
Part = Literal["train", "eval"]
PARTS: tuple[Part, ...] = get_args(Part)
_BETWEEN = re.compile(r"^[ \t]*<\|endoftext\|>[ \t]*\r?$", re.MULTILINE)


@dataclass(kw_only=True)
class Source:
    """An opened corpus: an array of ids, or rows of which the first has been looked at."""

    origin: str
    revision: str | None = None
    ids: NDArray[Any] | None = None
    """Pre-tokenised contexts ``[N, L]`` of a ``.npy`` file."""
    first: Row | None = None
    rest: Iterable[Row] = field(default_factory=tuple)
    table: SavedTable | ParquetTable | None = None
    """The same rows by number, where the file allows it."""
    shuffled: bool = False
    """Whether the rows come without an end in sight, in the seed's order already: a hub stream, or the generator."""
    in_order: bool = False
    """A plain text file: its contexts, not its documents, are chosen by the seed."""

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        if self.first is not None:
            yield self.first
        yield from self.rest


def open_source(spec: CorpusSpec, *, seed: int, data_dir: Path | None) -> Source:
    """Open what ``spec.source`` names.

    Args:
        spec: What to read.
        seed: Seed of a hub stream's shuffle, or of what is generated.
        data_dir: Folder of a local mirror.

    Raises:
        InputError: There is no such file, data set or part, or it is empty or damaged.
    """
    part = storyworld_part(spec)
    if part is not None:
        from saebench.data.storyworld import generate

        rows = ({spec.text_column: document.text} for document in generate(seed, part))
        source = _rows(rows, origin=f"generated:{STORYWORLD}/{part}")
        source.shuffled = True
        return source
    path, split = Path(spec.source).expanduser(), spec.split or "train"
    if path.suffix == ".npy":
        return Source(origin=f"file:{path.name}", ids=_npy(path))
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        table = open_table(path, split)
        source = _rows(table.rows(), origin=f"file:{path.name}")
        source.table = table
    elif path.is_file():
        source = _file(path, spec.text_column)
    elif path.suffix in {".txt", ".jsonl", ".gz", ".parquet"} or spec.source.startswith((".", "/", "~")):
        raise InputError(f"no such corpus file: {path}")
    else:
        found = load_rows(spec.source, config=spec.config, split=split, revision=spec.revision, seed=seed, data_dir=data_dir)
        source = _rows(found.rows, origin=found.origin, revision=found.revision)
        source.shuffled = not found.local
    if source.first is None:
        raise InputError(f"{spec.source} is empty; give a corpus with text in it")
    return source


def storyworld_part(spec: CorpusSpec) -> Part | None:
    """Return which part of the generated corpus is named, ``None`` where another corpus is.

    The name alone always means the generator; a folder of that name is ``./storyworld``.

    Raises:
        InputError: It has no such part, or a configuration or a revision is asked of it.
    """
    name, colon, part = spec.source.partition(":")
    if name != STORYWORLD:
        return None
    if spec.config is not None or spec.revision is not None:
        raise InputError(f"{STORYWORLD} is generated and has neither configurations nor revisions; leave them out")
    part = part if colon else spec.split or "eval"
    if part not in PARTS:
        raise InputError(f"{STORYWORLD} has no part {part!r}.{did_you_mean(part, PARTS)} It has: {', '.join(PARTS)}.")
    return part


def text_of(row: Row, column: str, source: str) -> str:
    """Return the text of a row; a missing column raises ``InputError`` that lists those there are."""
    if column not in row:
        there = ", ".join(map(str, row)) or "none"
        raise InputError(f"{source} has no column {column!r}.{did_you_mean(column, row)} It has: {there}.")
    value = row[column]
    if not isinstance(value, str):
        raise InputError(f"{source}: column {column!r} holds {type(value).__name__}, expected text")
    return value


def _rows(rows: Iterator[Row], *, origin: str, revision: str | None = None) -> Source:
    return Source(origin=origin, revision=revision, first=next(rows, None), rest=rows)


def _file(path: Path, column: str) -> Source:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _rows(read_jsonl(path), origin=f"file:{path.name}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable text ({error}); give a UTF-8 file") from None
    documents = [{column: part} for part in _BETWEEN.split(text) if part.strip()]
    source = _rows(iter(documents), origin=f"file:{path.name}")
    source.in_order = True
    return source


def _npy(path: Path) -> NDArray[Any]:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"no such corpus file: {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a whole .npy file of numbers ({error}); write it with numpy.save") from None
    if not isinstance(ids, np.ndarray):
        raise InputError(f"{path} is an archive of arrays, not one array; write it with numpy.save")
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise InputError(
            f"{path} holds {ids.dtype} of shape {list(ids.shape)}; expected integer token ids of shape [contexts, positions]"
        )
    if not ids.size:
        raise InputError(f"{path} is empty; give a corpus with tokens in it")
    return ids

"""Rows of a data set named by its hub id, from a local mirror where there is one, else streamed from the hub."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import InputError, first_line

Row = dict[str, Any]
PARQUET = "refs/convert/parquet"
"""The branch where the hub keeps every data set as Parquet; the way to those whose own files are a script."""
_BUFFER = 10_000
"""Rows in the hub stream's shuffle buffer; part of what the seed means."""
_ADVICE = "Name a mirror with --data-dir, or give a text file with --corpus"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows and where they came from. ``local`` rows come in file order; hub streams are shuffled by seed, if at all."""

    rows: Iterator[Row]
    origin: str
    revision: str | None = None
    local: bool


def mirror_file(id: str, config: str | None, split: str, data_dir: Path | None) -> Path | None:
    """Return the mirror's file for a data set, or ``None``.

    The mirror is ``data_dir``, else the environment variable ``SAEBENCH_DATA``; its files are
    ``<hub id>/<config>/<split>.jsonl.gz`` (or ``.jsonl``). Without a config the only one there is taken, else
    ``default``.

    Raises:
        InputError: The folder of the mirror does not exist.
    """
    root = mirror_root(data_dir)
    if root is None:
        return None
    if not root.is_dir():
        raise InputError(f"no such folder for data: {root}; correct --data-dir or SAEBENCH_DATA")
    if config is None:
        folders = [p.name for p in (root / id).iterdir() if p.is_dir()] if (root / id).is_dir() else []
        config = folders[0] if len(folders) == 1 else "default"
    for ending in (".jsonl.gz", ".jsonl"):
        path = root / id / config / f"{split}{ending}"
        if path.is_file():
            return path
    return None


def mirror_root(data_dir: Path | None) -> Path | None:
    """Return the folder of the local mirror that is told of, if any."""
    told = os.environ.get("SAEBENCH_DATA")
    return data_dir or (Path(told) if told else None)


def load_rows(
    id: str, *, config: str | None = None, split: str = "train", revision: str | None = None, seed: int | None = 0,
    data_dir: Path | None = None, advice: str = _ADVICE,
) -> Rows:  # fmt: skip
    """Return the rows of one split.

    Args:
        id: Hub id, ``owner/name``.
        config: Configuration, where the data set has several.
        split: Name of the split.
        revision: Hub revision; the present one if ``None``; ``PARQUET`` for a data set that is a script. Rows of a mirror
            have none.
        seed: Seed of the hub stream's buffer shuffle; ``None`` leaves it in the file's order.
        data_dir: Folder of the mirror.
        advice: What to do if it is not to be had, for the message.

    Raises:
        InputError: Not an id, not in the mirror and not to be had from the hub.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-]+", id) or ".." in id:
        raise InputError(f"no corpus at {id!r}: neither a file nor a hub id like roneneldan/TinyStories")
    for kind, name in (("configuration", config), ("split", split)):
        if name is not None and (not name.strip(". ") or "/" in name or "\\" in name or ".." in name):
            raise InputError(f"{name!r} is not the name of a {kind}; it becomes part of a path, so no slashes or '..'")
    path = mirror_file(id, config, split, data_dir)
    if path is not None:
        return Rows(rows=read_jsonl(path), origin=f"mirror:{id}/{path.parent.name}/{path.name}", local=True)
    return _hub(id, config, split, revision, seed, root=mirror_root(data_dir), advice=advice)


def _hub(
    id: str, config: str | None, split: str, revision: str | None, seed: int | None, *, root: Path | None, advice: str
) -> Rows:
    import datasets
    import huggingface_hub

    def refuse(error: Exception) -> InputError:
        text = first_line(error)
        wanted = f"{id}/{config or 'default'}/{split}.jsonl.gz"
        mirror = f"{root / wanted} does not exist" if root else f"no --data-dir or SAEBENCH_DATA holds {wanted}"
        files = sorted(p.relative_to(root).as_posix() for p in (root / id).glob("*/*.jsonl*")) if root else []
        there = f"; the mirror has {', '.join(files[:6])}" if files else ""
        return InputError(
            f"cannot get the data set {id} ({config or 'default'}, {split}) from the hub ({text[:200]}), and {mirror}"
            f"{there}. {advice}"
        )

    # the library raises many kinds for missing data and missing network, at the start and in mid-stream
    try:
        # asked first: it fails at once without a network, where load_dataset tries for 20 seconds
        commit = huggingface_hub.HfApi().dataset_info(id, revision=revision, timeout=20).sha
        if revision == PARQUET:  # that branch has folders, and nothing that says which configuration they are
            files = {split: f"{config or 'default'}/{split}/*.parquet"}
            stream = datasets.load_dataset(id, data_files=files, split=split, streaming=True, revision=commit)
        else:
            stream = datasets.load_dataset(id, config, split=split, streaming=True, revision=commit)
        rows = iter(stream if seed is None else stream.shuffle(seed=seed, buffer_size=_BUFFER))
        first = next(rows, None)
    except Exception as error:
        raise refuse(error) from None

    def chained() -> Iterator[Row]:
        if first is None:
            return
        yield first
        while True:
            try:
                row = next(rows, None)
            except Exception as error:
                raise refuse(error) from None
            if row is None:
                return
            yield row

    return Rows(rows=chained(), origin=f"hub:{id}", revision=commit, local=False)


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yield the objects of a ``.jsonl`` or ``.jsonl.gz`` file; raises ``InputError`` at the first damaged line."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            for line in handle:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                    yield row
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise InputError(f"{path} is damaged at or behind line {max(number, 1)} ({error}); fetch it again") from None

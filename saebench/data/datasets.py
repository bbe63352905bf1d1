"""Rows of a data set named by its hub id, from a local mirror where there is one, else streamed from the hub."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.errors import InputError

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows and where they came from. ``local`` rows come in a fixed order; hub streams are shuffled by seed already."""

    rows: Iterator[Row]
    origin: str
    revision: str | None = None
    local: bool


def mirror_file(id: str, config: str | None, split: str, data_dir: Path | None) -> Path | None:
    """Return the mirror's file for a data set, or ``None``.

    The mirror is ``data_dir``, else the environment variable ``SAEBENCH_DATA``; its files are
    ``<hub id>/<config>/<split>.jsonl.gz`` (or ``.jsonl``). Without a config ``default`` is taken, or the only one there.
    """
    root = data_dir or (Path(os.environ["SAEBENCH_DATA"]) if os.environ.get("SAEBENCH_DATA") else None)
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


def load_rows(
    id: str, *, config: str | None = None, split: str = "train", revision: str | None = None, seed: int = 0,
    data_dir: Path | None = None,
) -> Rows:  # fmt: skip
    """Return the rows of one split.

    Args:
        id: Hub id, ``owner/name``.
        config: Configuration, where the data set has several.
        split: Name of the split.
        revision: Hub revision.
        seed: Seed of the hub stream's buffer shuffle.
        data_dir: Folder of the mirror.

    Raises:
        InputError: Not an id, not in the mirror and not to be had from the hub.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+|[\w-]+", id) or ".." in id:
        raise InputError(f"no corpus at {id!r}: neither a file nor a hub id like roneneldan/TinyStories")
    if config is not None and ("/" in config or ".." in config):
        raise InputError(f"{config!r} is not the name of a configuration")
    path = mirror_file(id, config, split, data_dir)
    if path is not None:
        return Rows(rows=read_jsonl(path), origin=f"mirror:{id}/{path.parent.name}/{path.name}", local=True)
    return _hub(id, config, split, revision, seed)


def _hub(id: str, config: str | None, split: str, revision: str | None, seed: int) -> Rows:
    import datasets

    datasets.disable_progress_bars()
    try:
        stream = datasets.load_dataset(id, config, split=split, streaming=True, revision=revision)
        shuffled = stream.shuffle(seed=seed, buffer_size=10_000)
        rows = iter(shuffled)
        first = next(rows, None)
    except Exception as error:  # the library raises many kinds for missing data and missing network
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"cannot get the data set {id} ({config or 'default'}, {split}) from the hub: {text[:200]}. Offline, give a text "
            f"file with --corpus, or a mirror with --data-dir that holds {id}/{config or 'default'}/{split}.jsonl.gz"
        ) from None

    def chained() -> Iterator[Row]:
        if first is not None:
            yield first
            yield from rows

    info = getattr(stream, "info", None)
    commit = next((m[1] for key in (getattr(info, "download_checksums", None) or {}) if (m := re.search(r"@([0-9a-f]{40})/", key))), None)
    return Rows(rows=chained(), origin=f"hub:{id}", revision=revision or commit, local=False)


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yield the objects of a ``.jsonl`` or ``.jsonl.gz`` file; raises ``InputError`` at the first damaged line."""
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("not an object")
                    yield row
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} is damaged behind line {number} ({error}); fetch it again") from None

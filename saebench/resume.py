"""Whether a finished record is the answer to what is asked now: same model, same text, same options, and nothing missing.

Names are not trusted: a folder or a file may hold something else than it did. Files are compared by what is in them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import Any

from saebench.data.datasets import mirror_file
from saebench.errors import InputError, first_line
from saebench.record import Record
from saebench.reference import MODEL, model_folder
from saebench.store import sha256_file
from saebench.tasklist import TaskCorpus

_NOT_COMPARED_BY_NAME = "model"


def same_name(model: str) -> str:
    """Return a model's name in one spelling: a folder without a slash at its end, a hub id or the bundled model as it is."""
    folder = Path(model).expanduser()
    if model == MODEL or not folder.is_dir():
        return model
    return os.path.join(".", folder) if str(folder) == MODEL else str(folder)


def corpus_identity(source: str, corpus: TaskCorpus, *, own: bool, data_dir: Path | None) -> tuple[str, str | None]:
    """Return (name, content hash) of a corpus; no hash where it comes from the hub.

    Args:
        source: Hub id, file or folder.
        corpus: The task's, which names configuration and split.
        own: Whether it is the task's own corpus.
        data_dir: Folder of a local mirror.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path.name or source, content_hash(path)
    if path.suffix or source.startswith((".", "/", "~")):
        return source, None  # there is no such file, as opening it will say
    config, split = (corpus.config, corpus.split) if own else (None, "train")
    mirror = mirror_file(source, config, split, data_dir)
    return source, None if mirror is None else content_hash(mirror)


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder, without opening any twice."""
    if path.is_file():
        return _file_hash(path, *_stamp(path))
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_hash(file, *_stamp(file))}\n".encode())
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, _changed: int, _size: int) -> str:
    return sha256_file(path)  # once for all SAEs and seeds, as long as the file is the same


def same_settings(path: Path, record: Record, wanted: dict[str, Any]) -> None:
    """Raise ``InputError`` if the record at ``path`` was made with another model, text or option than ``wanted``."""
    for key, value in wanted.items():
        had = record.settings.get(key)
        if key == _NOT_COMPARED_BY_NAME or had == value or (key == "metrics" and had is None):
            continue
        if isinstance(had, dict) and isinstance(value, dict):  # of many settings only those that are others now
            changed = [name for name in had | value if had.get(name) != value.get(name)]
            before, now = (", ".join(f"{name}={of.get(name)}" for name in changed) for of in (had, value))
            raise _refusal(path, f"{key} {before}", now)
        raise _refusal(path, f"{key}={had}", str(value))
    model = wanted.get("model")
    if model is None:
        return
    folder = model_folder(model, check=False) or Path(model)
    if folder.is_dir():
        now = _model_hash(folder, tuple((p.name, *_stamp(p)) for p in sorted(folder.iterdir()) if p.is_file()))
        if record.model.sha256 != now:
            raise _refusal(path, f"model content {_short(record.model.sha256)}", _short(now))
    elif record.model.id != model:
        raise _refusal(path, f"model={record.model.id}", model)
    else:
        commit = _hub_commit(model)
        if commit is not None and record.model.revision not in (None, commit):
            raise _refusal(path, f"revision {_short(record.model.revision)} of {model}", _short(commit))


def _refusal(path: Path, had: str, now: str) -> InputError:
    return InputError(f"{path} was made with {had}, now it is {now}; use --force to replace it or another --out to keep both")


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "from the hub"


@functools.lru_cache
def _model_hash(folder: Path, _stamps: tuple[tuple[str, int, int], ...]) -> str:
    from saebench.lm.model import hash_folder

    try:
        return hash_folder(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} is no whole model ({first_line(error)}); give the folder that save_pretrained wrote"
        ) from None


@functools.cache
def _hub_commit(model: str) -> str | None:
    """Return the commit that loading the model would give now: the hub's, or without network the cached one; else ``None``."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_OFFLINE

    from saebench.lm.model import hub_id

    try:
        if not HF_HUB_OFFLINE:
            return huggingface_hub.HfApi().model_info(hub_id(model), timeout=10).sha
    except Exception:  # no network, no such model, no access: what is cached counts
        pass
    cached = huggingface_hub.try_to_load_from_cache(hub_id(model), "config.json")
    return Path(cached).parent.name if isinstance(cached, str | os.PathLike) else None


def table_missing(path: Path, record: Record) -> str | None:
    """Return what to say if a table or text that belongs to the record at ``path`` is not there whole, else ``None``."""
    for beside in (*record.tables.values(), *record.texts.values()):
        file = path.with_name(beside.file)
        if not file.is_file():
            return f"{file} is missing; its record is run again"
        if sha256_file(file) != beside.sha256:
            return f"{file} is not what the record says; it is run again"
    return None

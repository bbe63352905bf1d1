"""Where records lie and how they are written: whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from saebench.errors import InputError, RecordError
from saebench.record import Record, parse_record


def slug(text: str) -> str:
    """Return ``text`` as one safe file name part: letters, digits, ``.``, ``_``, ``-``, ``=``."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "unnamed"


def record_path(out: Path, *, model: str, site: str, sae: str, sha256: str, task: str, version: int, seed: int) -> Path:
    """Return ``out/<model>/<site>/<sae>-<sha8>/<task>@<version>/seed<k>.json``."""
    return out / slug(model) / sae_label(site, sae, sha256) / f"{slug(task)}@{version}" / f"seed{seed}.json"


def sae_label(site: str, sae: str, sha256: str) -> str:
    """Return ``<site>/<sae>-<sha8>``: the folder of an SAE's records below that of its model, which no other SAE has."""
    return f"{slug(site)}/{slug(sae)}-{sha256[:8]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader sees the whole file or none of it.

    The bytes go to a temporary file in the same folder, are flushed to disk and renamed. A link stays a link: the file that
    it names is the one that is replaced. What is no file (a device, a pipe such as ``/dev/stdout``) is written straight into.

    Raises:
        InputError: The folder cannot be made or written, or the disk is full. No partial file stays.
    """
    named = path
    try:
        if _is_no_file(path):
            with open(path, "ab") as handle:
                handle.write(data)
            return
        path = path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError) as error:  # RuntimeError: links that go round in a circle
        raise _unwritable(named, error) from None
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritable(named, error) from None


def _is_no_file(path: Path) -> bool:
    """Return whether ``path`` is a device, a pipe or a descriptor: something to write into, never to replace."""
    if path.absolute().parts[:2] in (("/", "dev"), ("/", "proc")):
        return path.exists() and not path.is_dir()
    return path.exists() and not path.is_file() and not path.is_dir()


def _unwritable(path: Path, error: Exception) -> InputError:
    said = getattr(error, "strerror", None) or error
    return InputError(f"cannot write {path}: {said}; free space or choose another folder with --out")


def write_record(path: Path, record: Record) -> None:
    """Write ``record`` to ``path``, whole or not at all (see :func:`write_atomic`)."""
    write_atomic(path, record.to_json().encode())


def read_record(path: Path) -> Record:
    """Return the record at ``path``; raises ``RecordError`` if it cannot be read or is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path} cannot be read ({error}); delete it and run again, or restore it") from None
    return parse_record(text, origin=str(path))


def find_records(folder: Path) -> list[Path]:
    """Return the record files under ``folder``, sorted.

    Raises:
        InputError: ``folder`` does not exist.
    """
    if not folder.exists():
        raise InputError(f"no such folder: {folder}; give the folder that `saebench run --out` wrote to")
    if folder.is_file():
        return [folder]
    return sorted(p for p in folder.rglob("seed*.json") if not p.name.startswith("."))


def iter_records(folder: Path) -> Iterator[tuple[Path, Record | RecordError]]:
    """Yield (path, record or the error that reading it raised) for every record file under ``folder``."""
    for path in find_records(folder):
        try:
            yield path, read_record(path)
        except RecordError as error:
            yield path, error


def check_writable(out: Path) -> None:
    """Raise ``InputError`` now, before any work, if ``out`` cannot be made or written to."""
    probe = out / f".saebench-write-test-{os.getpid()}"
    write_atomic(probe, b"")
    probe.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hex; raises ``InputError`` if it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None

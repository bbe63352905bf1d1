"""Acts of texts on the user's own disk: made once for each model, site and text, and thrown away when room is needed.

A file is named by a hash of everything that made it, and holds a hash of what is in it. One that is damaged, or of another
making, is not believed: it is removed, and its acts are made again. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from saebench.errors import InputError
from saebench.store import write_atomic

FOLDER, SIZE = "SAEBENCH_CACHE", "SAEBENCH_CACHE_GB"
"""Environment variables: the folder (``off``: no cache), and how large it may grow."""
DEFAULT_GB = 10.0
_HASH, _ENDING = "sha256", ".safetensors"
_DAY = 86_400


class ActsCache:
    """A folder of tensors by key.

    Args:
        folder: Where it lies, or shall lie.
        limit: Bytes that all files together may take; what was not used for longest goes first.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.notes: list[str] = []
        """What the user should know: why it is not used, what was damaged."""
        self._usable = self._make()

    def _make(self) -> bool:
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            about = self.folder.stat()
        except OSError as error:
            return self._note(f"acts are not cached: {self.folder} cannot be made ({error.strerror or error})")
        if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o022):
            return self._note(f"acts are not cached: others may write into {self.folder}; set {FOLDER} to a folder of your own")
        return True

    def _note(self, text: str) -> bool:
        if text not in self.notes:
            self.notes.append(text)
        return False

    def read(self, key: str) -> dict[str, Tensor] | None:
        """Return what was written under ``key``, or ``None`` if it is not there, or not what was written."""
        if not self._usable:
            return None
        path = self._path(key)
        try:
            tensors = load(path.read_bytes())
            told = bytes(tensors.pop(_HASH).tolist())
            if told != _digest(key, tensors):
                raise ValueError("its hash is not that of its content")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            self._note(f"{path} was damaged ({error}); its acts are made again")
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return tensors

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep ``tensors`` under ``key`` if there is room; where that fails, say so in :attr:`notes` and go on."""
        if not self._usable:
            return
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size > self.limit:
            self._note(f"{size / 1e9:.1f} GB of acts are more than the cache may hold; raise {SIZE} to keep them")
            return
        own = {name: tensor.contiguous() for name, tensor in tensors.items()}
        mark = torch.tensor(list(_digest(key, own)), dtype=torch.uint8)
        try:
            self._prune(size)
            write_atomic(self._path(key), save({**own, _HASH: mark}))
        except (OSError, InputError) as error:
            self._usable = self._note(f"acts are not cached: {error}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_ENDING}"

    def _prune(self, wanted: int) -> None:
        """Remove what was not used for longest until ``wanted`` bytes fit, and what a run that was killed left half-written."""
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):
                about = path.stat()
                if path.suffix == _ENDING:
                    found.append((about.st_mtime, about.st_size, path))
                elif path.name.startswith(".") and path.suffix == ".tmp" and time.time() - about.st_mtime > _DAY:
                    path.unlink()
        total = wanted + sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def user_cache() -> ActsCache | None:
    """Return the user's cache: ``$SAEBENCH_CACHE/acts``, else ``acts`` in ``saebench`` of the user's cache folder.

    That folder is ``$XDG_CACHE_HOME`` or ``~/.cache``. It holds 10 GB at most, or ``$SAEBENCH_CACHE_GB``; ``SAEBENCH_CACHE=off``
    means none, and gives ``None``.

    Raises:
        InputError: ``SAEBENCH_CACHE_GB`` is not a number above 0.
    """
    told = os.environ.get(FOLDER, "")
    if told.lower() == "off":
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "saebench"
    text = os.environ.get(SIZE, str(DEFAULT_GB))
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not 0 < size < float("inf"):
        raise InputError(f"{SIZE}={text} is not a size; give gigabytes, such as {SIZE}=10, or {FOLDER}=off for no cache")
    return ActsCache((Path(told).expanduser() if told else home) / "acts", int(size * 1e9))


def _digest(key: str, tensors: Mapping[str, Tensor]) -> bytes:
    digest = hashlib.sha256(key.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()

"""What a path holds, as a format sees it: file names, settings, headers of tensors, and the tensors when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from saebench.errors import InputError, did_you_mean
from saebench.sae.origin import Origin
from saebench.sae.reading.containers import (
    npz_array,
    npz_headers,
    open_npz,
    open_safetensors,
    open_torch,
    stored_safetensors,
    stored_torch,
)
from saebench.sae.reading.files import one_number, read_json, read_yaml
from saebench.sae.reading.mapped import Maps
from saebench.sae.reading.stored import Header, StoredTensor
from saebench.sae.sae import SAEConfig, SAEWeights

T = TypeVar("T")
WEIGHTS = (".safetensors", ".pt", ".pth", ".npz")
_SETTINGS = (".json", ".yaml", ".yml")
_MOST_ENTRIES = 500_000
GIVEN = {
    "k": "active latents per token",
    "class": "class of the library that trained it, where its files do not name one",
    "norm_scale": "factor that acts are multiplied by before the encoder",
    "site_out": "hook name of where it writes, for a transcoder",
}
"""What ``--set KEY=VALUE`` may tell of an SAE."""


class Given:
    """What the user told about an SAE because its files cannot: texts by name, and which of them a format has asked for.

    Args:
        values: By the names of ``GIVEN``.
        known: Likewise, what the place that the files come from says; used where the user told nothing.

    Raises:
        InputError: An unknown name.
    """

    def __init__(self, values: Mapping[str, str] | None = None, known: Mapping[str, str] | None = None) -> None:
        self.values, self.known = dict(values or {}), dict(known or {})
        self.asked: set[str] = set()
        for key in self.values:
            if key not in GIVEN:
                raise InputError(f"--set {key}: no such setting of an SAE.{did_you_mean(key, GIVEN)} Known: {', '.join(GIVEN)}.")

    def get(self, key: str, kind: Callable[[str], T] = str) -> T | None:
        """Return what was told or is known of ``key``, as ``kind`` makes it of the text; ``None`` where nothing is."""
        assert key in GIVEN, key
        self.asked.add(key)
        if key not in self.values:
            return kind(self.known[key]) if key in self.known else None
        try:
            return kind(self.values[key])
        except ValueError:
            raise InputError(
                f"--set {key}={self.values[key]}: not what {GIVEN[key]} can be; give a {_KINDS.get(kind, 'text')}"
            ) from None


_KINDS: dict[Any, str] = {int: "whole number", float: "number"}


@dataclass
class Notes:
    """What a format took from convention, each with its reason, and what the user should know."""

    assumptions: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def left_out(self, file: str, names: Iterable[str]) -> None:
        """Warn of tensors that a file of weights has and its format does not know: they may change what the SAE computes."""
        odd = sorted(names)
        if odd:
            self.warnings.append(f"{file} also holds {', '.join(odd)[:200]}, which mean nothing in this format and are left out")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One SAE in files: what it is, and how its weights are read.

    ``weights`` is called when the SAE is wanted, not when it is looked at. The tensors it gets from ``Source.tensors`` are
    private maps: fold scales in place, turn matrices with ``Source.turned``.
    """

    config: SAEConfig
    weights: Callable[[], SAEWeights]


class Source:
    """The files at one path.

    Args:
        path: A folder, or a file in one.
        given: What the user told.
        part: One SAE of a file that holds several: what stands behind ``#``.
        words: Names that say where the files come from, the repository's first; the path's own parts if ``None``.
        root: Folder that links may not lead out of; the folder of ``path`` if ``None``. In a hub's cache, whose snapshots are
            links, all that belongs to the repository is allowed besides.
        origin: Where the files were fetched from, if they were.
    """

    def __init__(
        self, path: Path, *, given: Given | None = None, part: str | None = None, words: Sequence[str] | None = None,
        root: Path | None = None, origin: Origin | None = None,
    ) -> None:  # fmt: skip
        self.path, self.given, self.part = path, given or Given(), part
        self.file = path.name if path.is_file() else None
        """Name of the file that was named; ``None`` for a folder."""
        self.folder = path.parent if self.file else path
        self._words = words
        self.origin = origin
        self._root = (root or self.folder).resolve()
        self._stores = _stores(self.folder)
        self._maps = Maps()
        self.used: set[str] = set()
        """Names of the files that were asked for something."""
        self._stored: dict[str, dict[str, StoredTensor]] = {}
        self._headers: dict[str, dict[str, Header]] = {}
        self._loaded: dict[str, Any] = {}
        self._stamps: dict[str, tuple[int, ...]] = {}
        self._refused: dict[str, str] = {}
        self._settings: dict[Path, dict[str, Any]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files of the folder, sorted; the named file alone counts as weights where one was named."""
        try:
            names = sorted(one.name for one in self.folder.iterdir() if one.is_file())
        except OSError as error:
            raise InputError(f"{self.folder} cannot be read: {error.strerror}") from None
        if self.file is None:
            return tuple(names)
        return tuple(name for name in names if name == self.file or not name.endswith(WEIGHTS))

    @property
    def called(self) -> str:
        """What messages and records call it: its path, or where it was fetched from."""
        return str(self.path) if self.origin is None else self.origin.name

    def below(self, path: Path, part: str | None = None) -> Source:
        """Return the source at ``path``, which lies in this one or is it, as of the same place."""
        inner = path.relative_to(self.path).as_posix()
        words = None if self._words is None else (*self._words, *Path(inner).parts)
        origin = None if self.origin is None else self.origin.below(inner)
        return Source(path, given=self.given, part=part, words=words, root=self._root, origin=origin)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Names that may say something: ``owner/repo`` of a hub's cache, then folders, then the file's."""
        if self._words is not None:
            return tuple(self._words)
        parts = list(self.path.absolute().parts[1:])
        for at, part in enumerate(parts):
            if part.startswith("models--") and "snapshots" in parts[at : at + 2]:
                return (part.removeprefix("models--").replace("--", "/", 1), *parts[at + 3 :])
        return tuple(parts)

    def has(self, *names: str) -> bool:
        """Return whether the folder holds all these files."""
        return all(name in self.names for name in names)

    def only(self, *patterns: str) -> str | None:
        """Return the one file whose whole name matches one of these regular expressions; ``None`` if none or several do."""
        found = [name for name in self.names if any(re.fullmatch(pattern, name) for pattern in patterns)]
        return found[0] if len(found) == 1 else None

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file of the folder (``../NAME``: of the one above)."""
        return self._setting(name, read_json)

    def yaml(self, name: str) -> dict[str, Any]:
        """Return the YAML mapping in a file of the folder (``../NAME``: of the one above)."""
        return self._setting(name, read_yaml)

    def headers(self, name: str) -> dict[str, Header]:
        """Return shape and dtype of every tensor in a file of weights: at the top, or one level down as ``outer/inner``."""
        self.used.add(name)
        if name not in self._headers:
            self._headers[name] = self._once(name, lambda: self._read_headers(name))
        return self._headers[name]

    def _read_headers(self, name: str) -> dict[str, Header]:
        path = self.at(name)
        if name.endswith(".npz"):
            return npz_headers(path)
        safe = name.endswith(".safetensors")
        self._stored[name] = stored_safetensors(path) if safe else _tensors_of(self.contents(name), path)
        return {key: one.header for key, one in self._stored[name].items()}

    def array(self, name: str, key: str) -> np.ndarray:
        """Return a small tensor, named as :meth:`headers` does, as a numpy array; bfloat16 as float32.

        What settings leave out may stand in a tensor of a few numbers: these are read without torch, which takes seconds to
        import.

        Raises:
            InputError: There is none, it is large, or the file cannot be read.
        """
        headers, path = self.headers(name), self.at(name)
        self.check_unchanged()
        if key not in headers:
            raise InputError(f"{path} lacks the tensor {key!r}; it has {', '.join(sorted(headers))[:200]}")
        return npz_array(path, key) if name.endswith(".npz") else self._stored[name][key].array()

    def number(self, name: str, key: str) -> int | float:
        """Return the one number that a tensor holds.

        Raises:
            InputError: As :meth:`array`, or it holds another count.
        """
        return one_number(self.array(name, key), key, self.at(name))

    def _once(self, name: str, read: Callable[[], T]) -> T:
        """Return what ``read`` returns; a file that was refused is not read again for every format that asks."""
        if name in self._refused:
            raise InputError(self._refused[name])
        try:
            return read()
        except InputError as error:
            self._refused[name] = str(error)
            raise

    def keys(self, name: str | None) -> frozenset[str]:
        """Return the names of a file's tensors; none where there is no such file or it cannot be read."""
        if name is None:
            return frozenset()
        try:
            return frozenset(self.headers(name))
        except InputError:
            return frozenset()

    def tensors(self, name: str, inside: str | None = None, inert: Sequence[type] = ()) -> dict[str, torch.Tensor]:
        """Return the tensors of a file of weights, mapped where the container allows; they are private, change them in place.

        Args:
            name: The file.
            inside: The dictionary in a torch file that holds them, where it has one of this name.
            inert: As :meth:`contents`.
        """
        path = self.at(name)
        self.used.add(name)
        if name.endswith(".safetensors"):
            return open_safetensors(path, self._maps)
        if name.endswith(".npz"):
            return open_npz(path)
        self.check_unchanged()
        self._stamps.setdefault(name, _stamp(path))
        found = _mapping(open_torch(path, self._maps, inert=inert), path)
        inner = found if inside is None else found.get(inside, found)
        if not isinstance(inner, dict):
            raise InputError(f"{path}: {inside!r} holds a {type(inner).__name__}, expected a dictionary of tensors")
        return {key: one for key, one in inner.items() if isinstance(one, torch.Tensor)}

    def contents(self, name: str, inert: Sequence[type] = ()) -> Any:
        """Return all that a torch file holds, with ``StoredTensor`` for tensors and ``inert`` classes in the place of its own."""
        self.check_unchanged()
        self.used.add(name)
        if name not in self._loaded:
            path = self.at(name)
            self._stamps[name] = _stamp(path)
            if inert:
                self._loaded[name] = stored_torch(path, inert=inert)
                self._refused.pop(name, None)
            else:
                self._loaded[name] = self._once(name, lambda: stored_torch(path))
        return self._loaded[name]

    def mapping(self, name: str) -> dict[str, Any]:
        """Return the dictionary that a torch file holds, as :meth:`contents`.

        Raises:
            InputError: It holds something else.
        """
        return _mapping(self.contents(name), self.at(name))

    def check_unchanged(self) -> None:
        """Raise ``InputError`` if a file that is mapped is not what it was: of one that was cut the rest cannot be read."""
        for name, stamp in self._stamps.items():
            if _stamp(self.at(name)) != stamp:
                raise InputError(f"{self.at(name)} changed while it was read; try again when it is written")

    def turned(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the transpose of a matrix, contiguous, without holding a mapped one twice; the matrix is used up."""
        self.check_unchanged()
        return self._maps.turned(matrix)

    def cast(self, tensor: torch.Tensor, *, device: torch.device | str | None, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor in another dtype or on another device, without holding a mapped one twice; the first is used up."""
        self.check_unchanged()
        return self._maps.cast(tensor, device=device, dtype=dtype)

    def wide(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor in float32 if it is stored in less, as :meth:`cast`: scales are folded in afterwards."""
        return self.cast(tensor, device=None, dtype=torch.float32) if tensor.itemsize < 4 else tensor

    def at(self, name: str) -> Path:
        """Return the path of a file of the folder, or of a folder in it.

        Raises:
            InputError: It is a link that leads out of the folder.
        """
        path = self.folder / name
        try:
            real = path.resolve()
            inside = any(real.is_relative_to(root) for root in (self._root_of(path), *self._stores))
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise InputError(f"{path} is a link that leads out of {self._root}; copy the file there, or name what it links to")
        return path

    def _root_of(self, path: Path) -> Path:
        """Return what a path may not lead out of: settings, and only they, may also lie one or two folders above."""
        parts = path.relative_to(self.folder).parts
        if ".." not in parts:
            return self._root
        if parts[:-1] not in (("..",), ("..", "..")) or not path.name.endswith(_SETTINGS):
            raise ValueError(f"{path} is outside")
        return path.parent.resolve()

    def _setting(self, name: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        path = self.at(name)
        self.used.add(name)
        if path not in self._settings:
            known = {} if self.origin is None else self.origin.settings.get(name, {})
            self._settings[path] = {**read(path), **known}
        return self._settings[path]


def _stores(folder: Path) -> tuple[Path, ...]:
    """Return the folders that links of a snapshot in a hub's cache lead to: its repository's, and the store that all share."""
    parts = folder.absolute().parts
    for at in range(len(parts) - 2):
        if parts[at].startswith("models--") and parts[at + 1] == "snapshots":
            cache = Path(*parts[:at])
            shared = [cache / "blobs"] if (cache / "blobs" / ".huggingface-shared-blobs").is_file() else []
            return tuple(one.resolve() for one in (cache / parts[at], *shared))
    return ()


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what is another one when a file is: a map of one that was cut must not be read."""
    try:
        about = path.stat()
    except OSError:
        return ()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _mapping(found: Any, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, expected a dictionary of tensors")
    return found


def _tensors_of(loaded: Any, path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a torch file: those at the top, and those one level down as ``outer/inner``."""
    found: dict[str, StoredTensor] = {}
    if not isinstance(loaded, dict):
        return found
    if sum(len(value) if isinstance(value, dict) else 1 for value in loaded.values()) > _MOST_ENTRIES:
        raise InputError(f"{path} has more than {_MOST_ENTRIES} entries, too many for an SAE; it is of another kind")
    for key, value in loaded.items():
        for inner, one in value.items() if isinstance(value, dict) else ((None, value),):
            if isinstance(one, StoredTensor):
                found[str(key) if inner is None else f"{key}/{inner}"] = one
    return found

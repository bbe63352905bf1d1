"""The containers that weights lie in: safetensors, torch files, numpy archives. Sizes are checked, nothing foreign is run.

Every function raises ``InputError`` with one line that names the file. Tensors are maps of the file wherever it allows that.
Whoever replaces a file that is being read should rename a new one over it: one that is cut short in place ends the process
(SIGBUS), which no check made beforehand can prevent.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saebench.errors import InputError, first_line
from saebench.sae.reading.archives import PlainFile, members
from saebench.sae.reading.mapped import Maps
from saebench.sae.reading.stored import BYTES, Header, StoredTensor
from saebench.sae.reading.torch_files import look_torch, read_torch
from saebench.sae.reading.unpickle import Foreign

_MAX_HEADER = 2 << 20
"""Bytes of a safetensors header: more than ten thousand tensors."""
_MAX_SIZE = 1 << 48
_MAX_DIMENSIONS = 8
_KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_NUMPY_KINDS = "biufc"


def stored_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file where they lie, after checking the header against the file's size."""
    with PlainFile(path) as file:
        return _safetensors(file, path)


def open_safetensors(path: Path, maps: Maps) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, mapped."""
    from safetensors import SafetensorError, safe_open

    with PlainFile(path) as file:
        _safetensors(file, path)
        file.check_unchanged(path)
        try:
            with safe_open(path, framework="pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}
        except (SafetensorError, OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} is not a whole safetensors file ({first_line(error)}); fetch it again") from None
        file.check_unchanged(path)
    maps.add(tensors.values())
    return tensors


def _safetensors(file: PlainFile, path: Path) -> dict[str, StoredTensor]:
    size = file.bytes
    try:
        if size < 8:
            raise ValueError(f"it has {size} bytes")
        length = struct.unpack("<Q", file.read(8))[0]
        if length > size - 8:
            raise ValueError(f"the header claims {length} bytes, the file has {size}")
        if length > _MAX_HEADER:
            raise ValueError(f"the header has {length} bytes, too many for an SAE")
        header = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        found: dict[str, StoredTensor] = {}
        spans = []
        for name, one in header.items():
            if name == "__metadata__":
                continue
            about, span = _described(name, one)
            found[name] = StoredTensor(path=path, offset=8 + length + span[0], header=about)
            spans.append(span)
        at = 0
        for start, end in sorted(spans):
            if start != at:
                raise ValueError("tensors overlap or leave gaps")
            at = end
        if 8 + length + at != size:
            raise ValueError(f"the tensors need {8 + length + at} bytes, the file has {size}")
        return found
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({first_line(error)}); fetch it again") from None


def _described(name: str, about: Any) -> tuple[Header, tuple[int, int]]:
    """Return what a header says of one tensor: shape and dtype, and where it begins and ends."""
    name.encode()  # halves of a character, which JSON allows, cannot be written anywhere
    shape, kind, (start, end) = about["shape"], about["dtype"], about["data_offsets"]
    sizes = (*shape, start, end)
    if len(sizes) > _MAX_DIMENSIONS + 2 or not all(type(n) is int and 0 <= n < _MAX_SIZE for n in sizes) or end < start:
        raise ValueError(f"{name[:80]!r} has an impossible shape or place")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{name[:80]!r} is of the unknown dtype {str(kind)[:20]!r}")
    if end - start != math.prod(shape) * BYTES[_KINDS[kind]]:
        raise ValueError(f"{name[:80]!r} of shape {shape} does not fit its {end - start} bytes")
    return Header(tuple(shape), _KINDS[kind]), (start, end)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def open_torch(path: Path, maps: Maps, *, inert: Sequence[type] = (), mapped: bool = True) -> Any:
    """Return what ``torch.save`` wrote, if it is made of tensors, numbers, text, lists and dictionaries; tensors are mapped.

    A dtype is a :class:`saebench.sae.reading.pickle_parts.Dtype`, a device its name.

    Args:
        path: The file; those of before torch 1.6 are no archives and are read whole.
        maps: Is told which tensors are mapped.
        mapped: Whether tensors are maps of the file.
        inert: Classes that stand in for the file's own ones; each has the ``__module__`` and name of the one that it replaces.
    """
    return _torch(path, inert, lambda stand_ins: read_torch(path, stand_ins, maps if mapped else None))


def stored_torch(path: Path, *, inert: Sequence[type] = ()) -> Any:
    """Return the same with a :class:`saebench.sae.reading.stored.StoredTensor` in the place of each tensor.

    Args:
        path: The file.
        inert: As :func:`open_torch`.
    """
    return _torch(path, inert, lambda stand_ins: look_torch(path, stand_ins))


def _torch(path: Path, inert: Sequence[type], read: Callable[[dict[str, type]], Any]) -> Any:
    try:
        return read({f"{kind.__module__}.{kind.__qualname__}": kind for kind in inert})
    except Foreign as error:
        raise InputError(
            f"{path} is a pickle that wants to run {error.name}; refused, nothing was executed. Convert it to safetensors"
        ) from None
    except (OSError, ValueError, RuntimeError, TypeError, MemoryError) as error:
        raise InputError(
            f"{path} is not a whole torch file of plain tensors ({first_line(error)}); it is damaged or of another kind, fetch "
            "it again"
        ) from None


def load_torch(path: Path) -> dict[str, Any]:
    """Return the dictionary of tensors that ``torch.save`` wrote, in memory: the file may be replaced meanwhile."""
    loaded = open_torch(path, Maps(), mapped=False)
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return loaded


def open_npz(path: Path) -> dict[str, torch.Tensor]:
    """Return the arrays of a numpy archive as tensors, in memory; objects are refused."""
    return _arrays(path, npz_headers(path), lambda array: torch.from_numpy(np.ascontiguousarray(array)))


def _arrays(path: Path, names: Iterable[str], make: Callable[[np.ndarray], Any] = lambda array: array) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: make(archive[name]) for name in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path} is not a whole numpy archive of plain arrays ({first_line(error)}); fetch it again") from None


def npz_array(path: Path, name: str) -> np.ndarray:
    """Return one array of a numpy archive; objects are refused."""
    return _arrays(path, [name])[name]


def npz_headers(path: Path) -> dict[str, Header]:
    """Return shape and dtype of every array of a numpy archive."""
    found = {}
    names = members(path, compressed=True)
    try:
        with PlainFile(path) as file, zipfile.ZipFile(file) as archive:
            for name, member in names.items():
                if not name.endswith(".npy"):
                    raise ValueError(f"{name!r} in it is no array")
                with archive.open(name) as stream:
                    found[name.removesuffix(".npy")] = _npy(stream, name, member.size)
    except Exception as error:  # zipfile, zlib and numpy's reading of headers raise many kinds
        raise InputError(f"{path} is not a whole numpy archive of plain arrays ({first_line(error)}); fetch it again") from None
    return found


def _npy(stream: Any, name: str, size: int) -> Header:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name!r} is of version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds pickled objects")
    if dtype.kind not in _NUMPY_KINDS or not dtype.isnative:
        raise ValueError(f"{name!r} holds {dtype}, not plain numbers")
    if len(shape) > _MAX_DIMENSIONS or not all(0 <= n < _MAX_SIZE for n in shape):
        raise ValueError(f"{name!r} has an impossible shape")
    if stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"{name!r} of shape {shape} does not fit its {size} bytes")
    return Header(tuple(shape), str(dtype))

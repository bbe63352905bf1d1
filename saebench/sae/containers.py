"""The containers that weights lie in: safetensors, torch files, numpy archives. Sizes are checked, nothing foreign is run.

Every function raises ``InputError`` with one line that names the file. Tensors are maps of the file wherever it allows that.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError, first_line
from saebench.sae.mapped import Header, Maps
from saebench.sae.pickles import foreign_class

_MAX_HEADER = 100 << 20
_MAX_MEMBERS = 100_000
_MAX_PICKLE = 64 << 20
_MAX_LEGACY = 64 << 30
_SWELL, _SLACK = 4, 64 << 20
"""How many times its size, and how many bytes more, a compressed archive may unpack to: weights hardly compress."""
_KINDS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def safetensors_headers(path: Path) -> dict[str, Header]:
    """Return shape and dtype of every tensor of a safetensors file, after checking the header against the file's size."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            length = struct.unpack("<Q", handle.read(8))[0]
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"the header claims {length} bytes, the file has {size}")
            header = json.loads(handle.read(length))
        if not isinstance(header, dict):
            raise ValueError("the header is no JSON object")
        about = {name: one for name, one in header.items() if name != "__metadata__"}
        found, spans = {}, []
        for name, one in about.items():
            shape, kind, (start, end) = one["shape"], str(one["dtype"]), one["data_offsets"]
            if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
                raise ValueError(f"{name!r} has an impossible shape or place")
            if kind in _BYTES and end - start != math.prod(shape) * _BYTES[kind]:
                raise ValueError(f"{name!r} of shape {shape} does not fit its {end - start} bytes")
            spans.append((start, end))
            found[name] = Header(tuple(shape), _KINDS.get(kind, kind))
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


def open_safetensors(path: Path, maps: Maps) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, mapped."""
    from safetensors import SafetensorError, safe_open

    safetensors_headers(path)
    try:
        with safe_open(path, framework="pt") as handle:
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({first_line(error)}); fetch it again") from None
    maps.add(tensors.values())
    return tensors


def open_torch(path: Path, maps: Maps, *, inert: Sequence[type] = (), mapped: bool = True) -> Any:
    """Return what ``torch.save`` wrote, if it is made of tensors, numbers, text, lists and dictionaries; tensors are mapped.

    Args:
        path: The file; those of before torch 1.6 are no archives and are read whole.
        maps: Is told which tensors are mapped.
        mapped: Whether tensors are maps of the file.
        inert: Classes that stand in for the file's own ones; each has the ``__module__`` and name of the one that it replaces.
    """
    archive = _is_archive(path)
    if archive:
        _check_archive(path, compressed=False)
    elif path.stat().st_size > _MAX_LEGACY:
        raise InputError(f"{path} is too large for a torch file that cannot be mapped; convert it to safetensors")
    stand_ins: Any = [torch.device, *((kind, f"{kind.__module__}.{kind.__qualname__}") for kind in inert)]
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=archive and mapped)
    except Exception:  # damaged archives raise many kinds, and what torch advises then is to unpickle anything
        known = {f"{kind.__module__}.{kind.__qualname__}" for kind in inert}
        foreign = foreign_class(path, known)
        if foreign is not None:
            raise InputError(
                f"{path} is a pickle that wants to run {foreign}; refused, nothing was executed. Convert it to safetensors"
            ) from None
        raise InputError(
            f"{path} is not a whole torch file of plain tensors; it is damaged or of another kind, fetch it again"
        ) from None
    if archive and mapped:
        maps.add(_tensors(loaded))
    return loaded


def load_torch(path: Path) -> dict[str, Any]:
    """Return the dictionary of tensors that ``torch.save`` wrote, in memory: the file may be replaced meanwhile."""
    loaded = open_torch(path, Maps(), mapped=False)
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return loaded


def open_npz(path: Path) -> dict[str, Tensor]:
    """Return the arrays of a numpy archive as tensors, in memory; objects are refused."""
    import numpy as np

    _check_archive(path, compressed=True)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.ascontiguousarray(archive[name])) for name in archive.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, zipfile.BadZipFile, RuntimeError) as error:
        raise InputError(f"{path} is not a whole numpy archive of plain arrays ({first_line(error)}); fetch it again") from None


def npz_headers(path: Path) -> dict[str, Header]:
    """Return shape and dtype of every array of a numpy archive."""
    import numpy as np

    _check_archive(path, compressed=True)
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(stream)
                    if dtype.hasobject:
                        raise ValueError(f"{member.filename} holds pickled objects")
                    if math.prod(shape) * dtype.itemsize > member.file_size:
                        raise ValueError(f"{member.filename} is shorter than its shape {shape}")
                    found[member.filename.removesuffix(".npy")] = Header(tuple(shape), str(dtype))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(f"{path} is not a whole numpy archive of plain arrays ({first_line(error)}); fetch it again") from None
    return found


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({first_line(error)})") from None


def _check_archive(path: Path, *, compressed: bool) -> None:
    """Refuse archives that would unpack to much more than they are, and members that no writer of weights makes."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path} is not a whole archive ({first_line(error)}); fetch it again") from None
    size = path.stat().st_size
    if len(members) > _MAX_MEMBERS:
        raise InputError(f"{path} has {len(members)} members, too many for an SAE; it is damaged or of another kind")
    for member in members:
        if not compressed and (member.compress_type != zipfile.ZIP_STORED or member.file_size > size):
            raise InputError(f"{path}: {member.filename!r} is compressed, which torch.save never does; save it again")
        if member.filename.endswith(".pkl") and member.file_size > _MAX_PICKLE:
            raise InputError(f"{path}: {member.filename!r} is too large for a list of tensors ({member.file_size} bytes)")
    total = sum(member.file_size for member in members)
    if total > _SWELL * size + _SLACK:
        raise InputError(f"{path} would unpack from {size} to {total} bytes; weights hardly compress, so it is not opened")


def _tensors(value: Any, depth: int = 8) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if depth and isinstance(value, dict):
        return [tensor for one in value.values() for tensor in _tensors(one, depth - 1)]
    if depth and isinstance(value, list | tuple):
        return [tensor for one in value for tensor in _tensors(one, depth - 1)]
    return []

"""Reading files that somebody else wrote: headers first, sizes checked, nothing unpickled that is not a plain tensor.

Every function raises ``InputError`` with one line that names the file.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError, first_line

_MAX_HEADER = 100 << 20
_MAX_JSON = 16 << 20


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise InputError(f"{path} is too large for a configuration file ({path.stat().st_size} bytes)")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({first_line(error)}); it is damaged or incomplete, fetch it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; it is damaged or of another format")
    return data


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return tensor names and shapes from the header of a safetensors file, after checking it against the file's size."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as handle:
            length = struct.unpack("<Q", handle.read(8))[0]
            if length > min(_MAX_HEADER, size - 8):
                raise ValueError(f"the header claims {length} bytes, the file has {size}")
            header = json.loads(handle.read(length))
        end = max((int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"), default=0)
        if 8 + length + end != size:
            raise ValueError(f"the tensors need {8 + length + end} bytes, the file has {size}")
        return {k: tuple(int(n) for n in v["shape"]) for k, v in header.items() if k != "__metadata__"}
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({first_line(error)}); fetch it again") from None


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    safetensors_shapes(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole safetensors file ({first_line(error)}); fetch it again") from None


def load_torch(path: Path) -> dict[str, Any]:
    """Return the tensors of a file that ``torch.save`` wrote from a state dict; foreign classes are refused unexecuted."""
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a zip archive: the load below says what it is
        foreign = []
    if foreign:
        raise InputError(
            f"{path} is a pickle that wants to run {foreign[0]}; refused, nothing was executed. Convert it to safetensors"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged archives raise many kinds, refused classes UnpicklingError
        text = first_line(error)
        raise InputError(f"{path} cannot be read as a torch file of plain tensors ({text}); refused") from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return loaded


def take(tensors: dict[str, Tensor], key: str, path: Path) -> Tensor:
    """Return ``tensors[key]``, or say which tensor is missing."""
    if key not in tensors:
        raise InputError(f"{path} lacks the tensor {key!r}; it has {', '.join(sorted(map(str, tensors)))[:200]}")
    value = tensors[key]
    if not isinstance(value, Tensor):
        raise InputError(f"{path}: {key!r} is a {type(value).__name__}, expected a tensor")
    return value


def number(config: dict[str, Any], key: str, path: Path) -> int:
    """Return the whole number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise InputError(f"{path}: {key!r} should be a whole number, found {value!r}")
    return int(value)

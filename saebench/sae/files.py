"""Reading files that somebody else wrote: headers first, sizes checked, nothing unpickled that is not a plain tensor.

Every function raises ``InputError`` with one line that names the file.
"""

from __future__ import annotations

import json
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError, first_line
from saebench.sae.pickles import foreign_class

_MAX_HEADER = 100 << 20
_MAX_JSON = 16 << 20
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # damaged archives raise many kinds, and what torch advises then is to unpickle anything
        foreign = foreign_class(path)
        if foreign is not None:
            raise InputError(
                f"{path} is a pickle that wants to run {foreign}; refused, nothing was executed. Convert it to safetensors"
            ) from None
        raise InputError(
            f"{path} is not a whole torch file of plain tensors; it is damaged or of another kind, fetch it again"
        ) from None
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, expected a dictionary of tensors")
    return loaded


def take(tensors: dict[str, Any], key: str, path: Path, *, ndim: tuple[int, ...] | None = None) -> Tensor:
    """Return ``tensors[key]``, or say which tensor is missing or what is wrong with it.

    Args:
        tensors: By name.
        key: The name.
        path: The file, for the message.
        ndim: How many dimensions it may have; any number if ``None``.
    """
    if key not in tensors:
        raise InputError(f"{path} lacks the tensor {key!r}; it has {', '.join(sorted(map(str, tensors)))[:200]}")
    value = tensors[key]
    if not isinstance(value, Tensor):
        raise InputError(f"{path}: {key!r} is a {type(value).__name__}, expected a tensor")
    if value.dtype not in _FLOATS:
        raise InputError(
            f"{path}: {key!r} is stored as {str(value.dtype).removeprefix('torch.')}, not as float16, bfloat16, float32 or "
            "float64; undo the quantisation and save it again"
        )
    if ndim is not None and value.ndim not in ndim:
        kind = {0: "one number", 1: "a vector", 2: "a matrix"}[ndim[-1]]
        raise InputError(
            f"{path}: {key!r} should be {kind}, found shape {list(value.shape)}; the file is damaged or of another kind"
        )
    return value


def number(config: dict[str, Any], key: str, path: Path) -> int:
    """Return the whole number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise InputError(f"{path}: {key!r} should be a whole number, found {value!r}")
    return int(value)


def n_tokens(config: dict[str, Any], key: str, path: Path) -> int | None:
    """Return the number of tokens ``config[key]``, ``None`` where it is absent or null, or say what is wrong with it."""
    if config.get(key) is None:
        return None
    value = number(config, key, path)
    if value < 1:
        raise InputError(f"{path}: {key!r} should be a number of tokens, 1 or more, found {value}")
    return value


def text(config: dict[str, Any], key: str, path: Path) -> str | None:
    """Return the text ``config[key]``, ``None`` where it is absent or null, or say what is wrong with it."""
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {key!r} should be text, found {value!r}")
    return value

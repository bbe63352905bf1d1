"""Reading settings that somebody else wrote, and single values out of them.

Every function raises ``InputError`` with one line that names the file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError, first_line
from saebench.sae.mapped import Header

_MAX_JSON = 16 << 20
_MAX_YAML = 1 << 20
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


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in ``path``; tags that would make objects, and aliases, are refused."""
    import yaml

    try:
        if path.stat().st_size > _MAX_YAML:
            raise InputError(f"{path} is too large for a configuration file ({path.stat().st_size} bytes)")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has aliases, which may unfold without end")
        data = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} is not readable YAML ({first_line(error)}); it is damaged or incomplete, fetch it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no YAML mapping; it is damaged or of another format")
    return data


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


def header(headers: dict[str, Header], key: str, path: Path, *, ndim: int) -> Header:
    """Return what the file says of the tensor ``key``, or say that it is missing or of another number of dimensions."""
    if key not in headers:
        raise InputError(f"{path} lacks the tensor {key!r}; it has {', '.join(sorted(headers))[:200]}")
    found = headers[key]
    if found.ndim != ndim:
        kind = {0: "one number", 1: "a vector", 2: "a matrix", 3: "a stack of matrices"}[ndim]
        raise InputError(
            f"{path}: {key!r} should be {kind}, found shape {list(found.shape)}; the file is damaged or of another kind"
        )
    return found


def number(config: dict[str, Any], key: str, path: Path) -> int:
    """Return the whole number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise InputError(f"{path}: {key!r} should be a whole number, found {value!r}")
    return int(value)


def real(config: dict[str, Any], key: str, path: Path) -> float:
    """Return the number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key!r} should be a number, found {value!r}")
    return float(value)


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

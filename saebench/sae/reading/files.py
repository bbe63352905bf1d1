"""Reading settings that somebody else wrote, and single values out of them.

Every function raises ``InputError`` with one line that names the file.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saebench.errors import InputError, first_line
from saebench.sae.reading.archives import PlainFile
from saebench.sae.reading.stored import Header

_MAX_JSON = 2 << 20
_MAX_YAML = 128 << 10
_MAX_DEPTH, _MAX_BITS = 50, 512
_MOST = 1 << 53
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``; keys that stand there twice are refused."""
    try:
        data = _checked(json.loads(_text(path, _MAX_JSON), object_pairs_hook=_once))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not readable JSON ({first_line(error)}); it is damaged or incomplete, fetch it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no JSON object; it is damaged or of another format")
    return data


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the YAML mapping in ``path``; tags that would make objects, aliases, and keys that stand there twice are refused."""
    import yaml

    try:
        text, depth = _text(path, _MAX_YAML), 0
        for event in yaml.parse(text, Loader=_loader()):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it has aliases, which may unfold without end")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            _check_depth(depth)
        data = _checked(yaml.load(text, Loader=_loader()))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError) as error:
        raise InputError(
            f"{path} is not readable YAML ({first_line(error)}); it is damaged or incomplete, fetch it again"
        ) from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds no YAML mapping; it is damaged or of another format")
    return data


def _text(path: Path, limit: int) -> str:
    with PlainFile(path) as file:
        if file.bytes > limit:
            raise InputError(f"{path} is too large for a configuration file ({file.bytes} bytes)")
        return file.read(limit).decode("utf-8")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for at, (key, _) in enumerate(pairs) if key in dict(pairs[:at]))
        raise ValueError(f"{twice[:80]!r} stands there twice")
    return found


def _checked(data: Any) -> Any:
    """Return settings that are nested no deeper than settings are, and whose text can be written."""
    level, depth = [data], 0
    while level:
        _check_depth(depth)
        for one in level:
            if isinstance(one, str):
                one.encode()  # halves of a character that UTF-8 has not
            if isinstance(one, int) and one.bit_length() > _MAX_BITS:
                raise ValueError("it has an absurdly large number")
        parts = [(*one, *one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list | tuple)]
        level, depth = [one for some in parts for one in some], depth + 1
    return data


def _check_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # pyright: ignore[reportGeneralTypeIssues]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                raise ValueError("a key stands there twice")
            return super().construct_mapping(node, deep)

    return Loader


def take(tensors: dict[str, Any], key: str, path: Path, *, ndim: tuple[int, ...] | None = None) -> torch.Tensor:
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
    if not isinstance(value, torch.Tensor):
        raise InputError(f"{path}: {key!r} is a {type(value).__name__}, expected a tensor")
    if (kind := str(value.dtype).removeprefix("torch.")) not in _FLOATS:
        raise InputError(
            f"{path}: {key!r} is stored as {kind}, not as float16, bfloat16, float32 or "
            "float64; undo the quantisation and save it again"
        )
    if not value.numel():
        raise InputError(f"{path}: {key!r} is empty, found shape {list(value.shape)}; the file is damaged or of another kind")
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
    if not found.numel:
        raise InputError(f"{path}: {key!r} is empty, found shape {list(found.shape)}; the file is damaged or of another kind")
    if found.ndim != ndim:
        kind = {0: "one number", 1: "a vector", 2: "a matrix", 3: "a stack of matrices"}[ndim]
        raise InputError(
            f"{path}: {key!r} should be {kind}, found shape {list(found.shape)}; the file is damaged or of another kind"
        )
    return found


def one_number(array: np.ndarray, key: str, path: Path) -> int | float:
    """Return the only number of the tensor ``key``, or say that it has another count."""
    if array.size != 1:
        raise InputError(f"{path}: {key!r} should be one number, found shape {list(array.shape)}")
    return array.item()


def shown(value: object) -> str:
    """Return the first characters of a value as Python writes it, for messages."""
    return repr(value)[:100]


def number(config: dict[str, Any], key: str, path: Path) -> int:
    """Return the whole number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST or value != int(value):
        raise InputError(f"{path}: {key!r} should be a whole number, found {shown(value)}")
    return int(value)


def real(config: dict[str, Any], key: str, path: Path) -> float:
    """Return the number ``config[key]``, or say what is wrong with it."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key!r} should be a number, found {shown(value)}")
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
        raise InputError(f"{path}: {key!r} should be text, found {shown(value)}")
    return value

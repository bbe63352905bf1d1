"""Tensors as files describe them: shape, dtype and place, without torch; the numbers of small ones as numpy arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from saebench.errors import InputError
from saebench.sae.reading.archives import PlainFile

BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1, "complex64": 8, "complex128": 16, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1,
}  # fmt: skip
"""Of one number of each dtype that is read, by its name in torch."""
_SMALL = 64 << 20
"""Bytes up to which an array is small."""


class Header(NamedTuple):
    """What a file says of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, e.g. ``bfloat16``."""

    @property
    def ndim(self) -> int:
        """Return the number of dimensions."""
        return len(self.shape)

    @property
    def numel(self) -> int:
        """Return the number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredTensor:
    """A tensor that was left where it lies.

    Args:
        path: The file.
        offset: Byte of the file that its first entry begins at.
        header: Shape and dtype.
        stride: As torch has it, in entries; ``None``: row by row, without gaps.
    """

    path: Path
    offset: int
    header: Header
    stride: tuple[int, ...] | None = None

    def array(self) -> np.ndarray:
        """Return its numbers as a numpy array of the same shape; bfloat16 as float32.

        Raises:
            InputError: The file is cut, or the tensor is larger than 64 MB or of a dtype that numpy has not.
        """
        shape, kind = self.header.shape, self.header.dtype
        stride = _row_by_row(shape) if self.stride is None else self.stride
        count = sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) + 1 if self.header.numel else 0
        if kind.startswith("float8") or count * BYTES[kind] > _SMALL:
            raise InputError(f"{self.path} has a tensor of {kind} {list(shape)} where a few numbers are expected")
        with PlainFile(self.path) as file:
            file.seek(self.offset)
            data = file.read(count * BYTES[kind])
        if len(data) != count * BYTES[kind]:
            raise InputError(f"{self.path} changed while it was read; try again when it is written")
        flat = _widened(np.frombuffer(data, "<u2")) if kind == "bfloat16" else np.frombuffer(data, np.dtype(kind))
        steps = tuple(step * flat.itemsize for step in stride)
        return np.lib.stride_tricks.as_strided(flat, shape, steps) if self.header.numel else flat.reshape(shape)


def _row_by_row(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))


def _widened(halves: np.ndarray) -> np.ndarray:
    return (halves.astype("<u4") << 16).view("<f4")

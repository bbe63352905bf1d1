"""Tensors that lie in files: mapped into memory, read when they are touched, turned without holding the file twice.

A map is private: what is written to a tensor stays in memory and never reaches the file, so formats may fold scales in place.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable

import torch

_SLAB_BYTES = 8 << 20
_PAGE = mmap.PAGESIZE
_DONTNEED = 4


class Maps:
    """Which memory is a map of a file."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, tensors: Iterable[torch.Tensor]) -> None:
        """Remember that these tensors are mapped, not copied."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._ranges.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))

    def release(self, tensor: torch.Tensor) -> None:
        """Give the pages of a contiguous mapped tensor back: touched again, it is what the file holds.

        Elsewhere than on Linux, and for tensors that are not mapped, nothing happens.
        """
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        if sys.platform != "linux" or not any(low <= start and end <= high for low, high in self._ranges):
            return
        start, end = -(-start // _PAGE) * _PAGE, end // _PAGE * _PAGE
        if end > start:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _DONTNEED)

    def turned(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return the transpose of an ``[a, b]`` matrix as a contiguous ``[b, a]`` one, in the same dtype.

        Slab by slab, so that at no time both are held whole if the matrix is mapped. Use the matrix no more afterwards.
        """
        out = matrix.new_empty(matrix.shape[::-1])
        rows = max(1, _SLAB_BYTES // max(1, matrix.itemsize * matrix.shape[1]))
        for start in range(0, len(matrix), rows):
            slab = matrix[start : start + rows]
            out[:, start : start + rows] = slab.T.contiguous()  # in one piece first: half the time
            if slab.is_contiguous():
                self.release(slab)
        return out

    def cast(self, tensor: torch.Tensor, *, device: torch.device | str | None, dtype: torch.dtype) -> torch.Tensor:
        """Return the tensor in another dtype or on another device; itself if it is so already.

        Slab by slab, each given back once it is read: what a map held of the file is not kept beside the cast. Use the
        tensor no more afterwards.
        """
        where = torch.device(device) if device is not None else tensor.device
        if (tensor.dtype, tensor.device) == (dtype, where) or tensor.ndim == 0 or not tensor.is_contiguous():
            return tensor.to(device=where, dtype=dtype)
        out = torch.empty(tensor.shape, dtype=dtype, device=where)
        rows = max(1, _SLAB_BYTES * len(tensor) // max(1, tensor.nbytes))
        for start in range(0, len(tensor), rows):
            slab = tensor[start : start + rows]
            out[start : start + rows] = slab
            self.release(slab)
        return out


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return it in float32 if it is stored in less: scales are folded in afterwards, and nothing is rounded twice."""
    return tensor.float() if tensor.itemsize < 4 else tensor


def slabs(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Yield ``tensor`` in parts along its first dimension, each a contiguous part of some 8 MB."""
    if tensor.ndim == 0 or tensor.nbytes <= _SLAB_BYTES:
        yield tensor.contiguous()
        return
    rows = max(1, _SLAB_BYTES * len(tensor) // tensor.nbytes)
    for start in range(0, len(tensor), rows):
        yield tensor[start : start + rows].contiguous()


def all_finite(tensor: torch.Tensor) -> bool:
    """Return whether no entry is NaN or infinite, a slab at a time.

    A sum that is finite has finite parts only; where it is not, or overflows, every entry is looked at.
    """
    wide = torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None
    return all(bool(torch.isfinite(slab.sum(dtype=wide))) or bool(torch.isfinite(slab).all()) for slab in slabs(tensor))

"""The sparse products of :mod:`saebench.trainers.sparse` as Triton kernels, for CUDA.

Each program handles one row and all of ``D`` in blocks. The transposed product is a gathered sum over entries sorted by
latent, so that sums are made in a fixed order, without atomics: the same input gives the same bits.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from typing import Any

from torch import Tensor

triton: Any = None
tl: Any = None
with contextlib.suppress(ImportError):  # Triton comes with torch's CUDA builds only
    triton = importlib.import_module("triton")
    tl = importlib.import_module("triton.language")

_BLOCK = 128
_kernels: dict[str, Any] = {}


def usable(tensor: Tensor) -> bool:
    """Return whether these kernels can run on ``tensor``: Triton is there, and CUDA or Triton's interpreter."""
    return triton is not None and (tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")


def gathered_sum(values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
    """Return Σ values · w[indices] of each row ``[B, D]``."""
    out = w.new_empty(len(offsets) - 1, w.shape[1])
    _kernel("sum")[(len(out), _blocks(w))](values, indices, offsets, w, out, w.shape[1], BLOCK=_BLOCK)
    return out


def gathered_dots(indices: Tensor, offsets: Tensor, g: Tensor, w: Tensor) -> Tensor:
    """Return g[row] · w[index] of each entry ``[Z]``."""
    out = w.new_empty(len(indices))
    _kernel("dots")[(len(offsets) - 1,)](indices, offsets, g, w, out, w.shape[1], BLOCK=_BLOCK)
    return out


def _blocks(w: Tensor) -> int:
    return -(-w.shape[1] // _BLOCK)


def _kernel(name: str) -> Any:
    if not _kernels:
        _kernels.update(_compile())
    return _kernels[name]


def _compile() -> dict[str, Any]:
    @triton.jit
    def sum_kernel(values, indices, offsets, w, out, d, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < d
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for entry in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
            at = tl.load(indices + entry).to(tl.int64)
            total += tl.load(values + entry) * tl.load(w + at * d + column, mask=inside, other=0.0)
        tl.store(out + row * d + column, total, mask=inside)

    @triton.jit
    def dots_kernel(indices, offsets, g, w, out, d, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        for entry in range(tl.load(offsets + row), tl.load(offsets + row + 1)):
            at = tl.load(indices + entry).to(tl.int64)
            total = tl.zeros((BLOCK,), dtype=tl.float32)
            for start in range(0, d, BLOCK):
                column = start + tl.arange(0, BLOCK)
                inside = column < d
                left = tl.load(g + row * d + column, mask=inside, other=0.0)
                total += left * tl.load(w + at * d + column, mask=inside, other=0.0)
            tl.store(out + entry, tl.sum(total))

    return {"sum": sum_kernel, "dots": dots_kernel}

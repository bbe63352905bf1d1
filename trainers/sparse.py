"""Encode and decode that touch only active latents, forward and backward.

Nothing of size batch × d_sae is kept for the backward pass: of the pre-activations only the chosen ones live on. On CUDA the
products with few rows run as Triton kernels where Triton is present (:mod:`saebench.trainers.triton_kernels`).

Letters: ``B`` acts of a batch, ``D`` width, ``S`` d_sae, ``K`` active latents of a row, ``Z`` active latents of the batch,
``R`` = B + 1.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.sae.activations import top_entries

from . import triton_kernels

_CHUNK_BYTES = 64 << 20


class Active(NamedTuple):
    """The chosen latents of a batch in compressed rows; unlike :class:`saebench.sae.latents.Latents` they may be 0."""

    values: Float[Tensor, " Z"]
    indices: Int[Tensor, " Z"]
    offsets: Int[Tensor, " R"]
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    def rows(self) -> Int[Tensor, " Z"]:
        """Return the row of each entry."""
        counts = self.offsets.diff()
        return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=len(self.indices))

    def with_values(self, values: Float[Tensor, " Z"]) -> Active:
        """Return the same places with other values."""
        return Active(values, self.indices, self.offsets)


def from_rows(values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"]) -> Active:
    """Return ``K`` entries a row as :class:`Active`."""
    b, k = indices.shape
    return Active(values.reshape(-1), indices.reshape(-1), torch.arange(0, b * k + 1, k, device=indices.device))


def topk_encode(x: Float[Tensor, "B D"], w: Float[Tensor, "S D"], b: Float[Tensor, " S"], k: int) -> Active:
    """Return the ``k`` largest entries of x wᵀ + b of each row; gradients flow through the values.

    Args:
        x: Encoder inputs.
        w: Encoder, one row a latent.
        b: Encoder bias.
        k: Latents to keep.
    """

    def select() -> tuple[Tensor, Tensor, Tensor]:
        parts = [top_entries(pre, k) for pre in _pre_activations(x, w, b)]
        return from_rows(*(torch.cat(p) for p in zip(*parts, strict=True)))

    return _encode(x, w, b, select)


def batch_topk_encode(
    x: Float[Tensor, "B D"],
    w: Float[Tensor, "S D"],
    b: Float[Tensor, " S"],
    n: int,
    *,
    cut: Callable[[Float[Tensor, " Z"], int], Float[Tensor, ""]] | None = None,
) -> Active:
    """Return the ``n`` largest entries of ReLU(x wᵀ + b) of the whole batch, fewer if fewer are positive.

    Args:
        x: Encoder inputs.
        w: Encoder, one row a latent.
        b: Encoder bias.
        n: Entries to keep in all.
        cut: Given the candidates' values and ``n``, returns the smallest value to keep; for batches spread over several
            devices.
    """

    def select() -> tuple[Tensor, Tensor, Tensor]:
        values, places, at = x.new_zeros(0), torch.zeros(0, dtype=torch.long, device=x.device), 0
        bound = torch.zeros((), dtype=x.dtype, device=x.device)
        for pre in _pre_activations(x, w, b):
            flat = pre.reshape(-1)
            here = (flat > bound).nonzero()[:, 0]
            values, places = torch.cat([values, flat[here].to(x.dtype)]), torch.cat([places, here + at])
            if len(values) > n:
                best = values.topk(n, sorted=False).indices
                values, places = values[best], places[best]
                bound = values.min()
            at += flat.numel()
        if cut is not None:
            kept = values >= cut(values, n)
            values, places = values[kept], places[kept]
        places, order = places.sort()
        rows = places // len(w)
        counts = torch.bincount(rows, minlength=len(x))
        return values[order], places % len(w), torch.cat([counts.new_zeros(1), counts.cumsum(0)])

    return _encode(x, w, b, select)


def sparse_decode(active: Active, w: Float[Tensor, "S D"]) -> Float[Tensor, "B D"]:
    """Return Σ values · w[indices] of each row; only those rows of ``w`` are read, forward and backward."""
    return _Decode.apply(*active, w)  # pyright: ignore[reportReturnType]


def _pre_activations(x: Tensor, w: Tensor, b: Tensor) -> Any:
    """Yield x wᵀ + b, some rows at a time."""
    size = max(1, _CHUNK_BYTES // (4 * len(w)))
    for start in range(0, len(x), size):
        yield torch.addmm(b, x[start : start + size], w.T)


def _encode(x: Tensor, w: Tensor, b: Tensor, select: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> Active:
    return Active(*_Encode.apply(x, w, b, select))  # pyright: ignore[reportGeneralTypeIssues]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, select: Callable[[], tuple[Tensor, Tensor, Tensor]]) -> Any:
        values, indices, offsets = select()
        ctx.save_for_backward(x, w, indices, offsets)
        ctx.mark_non_differentiable(indices, offsets)
        return values.to(x.dtype), indices, offsets

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, w, indices, offsets = ctx.saved_tensors
        active = Active(grads[0].contiguous(), indices, offsets)
        grad_b = torch.zeros(len(w), dtype=x.dtype, device=x.device).index_add_(0, indices, active.values)
        grad_x = _gathered_sum(active, w) if ctx.needs_input_grad[0] else None
        return grad_x, _transposed_product(active, x, len(w)), grad_b, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, offsets: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, offsets, w)
        return _gathered_sum(Active(values, indices, offsets), w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, Tensor]:
        g = grads[0].contiguous()
        values, indices, offsets, w = ctx.saved_tensors
        active = Active(values, indices, offsets)
        return _gathered_dots(active, g, w), None, None, _transposed_product(active, g, len(w))


def _gathered_sum(active: Active, w: Float[Tensor, "S D"]) -> Float[Tensor, "B D"]:
    """Return Σ values · w[indices] of each row."""
    if triton_kernels.usable(w):
        return triton_kernels.gathered_sum(*active, w)
    values, indices, offsets = active
    return torch.nn.functional.embedding_bag(
        indices, w, offsets, mode="sum", per_sample_weights=values.to(w.dtype), include_last_offset=True
    )


def _gathered_dots(active: Active, g: Float[Tensor, "B D"], w: Float[Tensor, "S D"]) -> Float[Tensor, " Z"]:
    """Return g[row] · w[index] of each entry."""
    if triton_kernels.usable(w):
        return triton_kernels.gathered_dots(*active[1:], g, w)
    _quiet_once()
    pattern = torch.sparse_csr_tensor(
        active.offsets, active.indices, torch.zeros_like(active.values), (len(g), len(w)), check_invariants=False
    )
    return torch.sparse.sampled_addmm(pattern, g, w.T, beta=0.0).values()


@functools.cache
def _quiet_once() -> None:
    """Let torch say once, unheard, that compressed tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False)


def _transposed_product(active: Active, dense: Float[Tensor, "B D"], rows: int) -> Float[Tensor, "S D"]:
    """Return Gᵀ @ dense with G the sparse [B, S] matrix of the active latents."""
    if triton_kernels.usable(dense):
        return triton_kernels.transposed_product(*active, dense, rows)
    at = torch.stack([active.indices, active.rows()])
    return torch.sparse.mm(torch.sparse_coo_tensor(at, active.values, (rows, len(dense)), check_invariants=False), dense)

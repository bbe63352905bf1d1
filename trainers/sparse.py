"""Encode and decode that touch only active latents, forward and backward.

Nothing of size batch × d_sae is kept for the backward pass: of the pre-activations only the chosen ones live on. On CUDA the
sparse products run as Triton kernels where Triton is present (:mod:`saebench.trainers.triton_kernels`).

Letters: ``B`` acts of a batch, ``D`` width, ``S`` d_sae, ``K`` active latents of a row, ``Z`` active latents of the batch,
``R`` = B + 1, ``T`` = S + 1.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.sae.activations import top_entries

from . import triton_kernels

F = TypeVar("F", bound=Callable[..., Any])

_CHUNK_BYTES = 192 << 20
"""Of pre-activations that exist at a time."""
_CHUNK_LATENTS = 2048
"""Latents of one matrix product on the CPU: fewer make it slow, more push the encoder out of the cache."""


def _eager(function: F) -> F:
    """Keep a function out of ``torch.compile``."""
    return torch.compiler.disable(function)  # pyright: ignore[reportReturnType]


class Places:
    """Which latents of which rows were chosen, in compressed rows, and the same by latent, found when first asked for.

    Args:
        indices: The latent of each entry.
        offsets: Row ``i`` has the entries ``offsets[i]`` to ``offsets[i + 1]``.
    """

    def __init__(self, indices: Int[Tensor, " Z"], offsets: Int[Tensor, " R"]) -> None:
        self.indices, self.offsets = indices, offsets
        self._by_latent: tuple[Tensor, Tensor, Tensor] | None = None

    def by_latent(self, d_sae: int) -> tuple[Int[Tensor, " Z"], Int[Tensor, " Z"], Int[Tensor, " T"]]:
        """Return (order of the entries by latent, their rows in that order, where each latent's begin)."""
        if self._by_latent is None:
            counts, n = self.offsets.diff(), len(self.indices)
            rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts, output_size=n)
            order = self.indices.argsort(stable=True)
            starts = torch.searchsorted(self.indices[order], torch.arange(d_sae + 1, device=order.device))
            self._by_latent = order, rows[order], starts
        return self._by_latent


class Active(NamedTuple):
    """The chosen latents of a batch; unlike those of :class:`saebench.sae.latents.Latents` they may be 0."""

    values: Float[Tensor, " Z"]
    places: Places

    @property
    def indices(self) -> Int[Tensor, " Z"]:
        """The latent of each entry."""
        return self.places.indices

    def with_values(self, values: Float[Tensor, " Z"]) -> Active:
        """Return the same places with other values."""
        return Active(values, self.places)


def from_rows(values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"]) -> Active:
    """Return ``K`` entries a row as :class:`Active`."""
    b, k = indices.shape
    return Active(values.reshape(-1), Places(indices.reshape(-1), torch.arange(0, b * k + 1, k, device=indices.device)))


@_eager
def topk_encode(x: Float[Tensor, "B D"], w: Float[Tensor, "S D"], b: Float[Tensor, " S"], k: int) -> Active:
    """Return the ``k`` largest entries of x wᵀ + b of each row; gradients flow through the values.

    Args:
        x: Encoder inputs.
        w: Encoder, one row a latent.
        b: Encoder bias.
        k: Latents to keep.
    """

    def select() -> tuple[Tensor, Places]:
        parts = [top_entries(pre, k) for pre in _pre_activations(x, w, b)]
        return from_rows(*(torch.cat(p) for p in zip(*parts, strict=True)))

    return _encode(x, w, b, select)


@_eager
def batch_topk_encode(
    x: Float[Tensor, "B D"],
    w: Float[Tensor, "S D"],
    b: Float[Tensor, " S"],
    n: int,
    *,
    kept: Callable[[Tensor, int], Tensor] | None = None,
) -> Active:
    """Return the ``n`` largest entries of ReLU(x wᵀ + b) of the whole batch, fewer if fewer are positive.

    Args:
        x: Encoder inputs.
        w: Encoder, one row a latent.
        b: Encoder bias.
        n: Entries to keep in all.
        kept: Given the candidates' values and ``n``, returns which of them stay; for batches spread over several processes.
    """

    def select() -> tuple[Tensor, Places]:
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
        if kept is not None:
            stay = kept(values, n)
            values, places = values[stay], places[stay]
        places, order = places.sort()
        rows = places // len(w)
        counts = torch.bincount(rows, minlength=len(x))
        return values[order], Places(places % len(w), torch.cat([counts.new_zeros(1), counts.cumsum(0)]))

    return _encode(x, w, b, select)


@_eager
def sparse_decode(active: Active, w: Float[Tensor, "S D"]) -> Float[Tensor, "B D"]:
    """Return Σ values · w[indices] of each row; only those rows of ``w`` are read, forward and backward."""
    return _Decode.apply(active.values, active.places, w)  # pyright: ignore[reportReturnType]


def _pre_activations(x: Tensor, w: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield x wᵀ + b, some rows at a time; what was yielded before is overwritten."""
    if torch.is_autocast_enabled(x.device.type):
        x, w, b = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, w, b))
    parts = -(-len(x) * len(w) * x.dtype.itemsize // _CHUNK_BYTES)
    size = max(1, -(-len(x) // max(1, parts)))
    step = _CHUNK_LATENTS if x.device.type == "cpu" else len(w)
    room = x.new_empty(min(size, len(x)), len(w))
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        pre = room[: len(rows)]
        for first in range(0, len(w), step):
            own = slice(first, first + step)
            torch.addmm(b[own], rows, w[own].T, out=pre[:, own])
        yield pre


def _encode(x: Tensor, w: Tensor, b: Tensor, select: Callable[[], tuple[Tensor, Places]]) -> Active:
    found: list[Places] = []
    values = _Encode.apply(x, w, b, select, found)
    return Active(values, found[0])  # pyright: ignore[reportArgumentType]


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, select: Callable[[], Any], found: list[Places]) -> Tensor:
        values, places = select()
        found.append(places)
        ctx.save_for_backward(x, w)
        ctx.places = places
        return values.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, w = ctx.saved_tensors
        active = Active(grads[0].contiguous(), ctx.places)
        grad_b = torch.zeros(len(w), dtype=x.dtype, device=x.device).index_add_(0, active.indices, active.values)
        grad_x = _gathered_sum(active.values, active.indices, active.places.offsets, w) if ctx.needs_input_grad[0] else None
        return grad_x, _transposed_product(active, x, len(w)), grad_b, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Places, w: Tensor) -> Tensor:
        ctx.save_for_backward(values, w)
        ctx.places = places
        return _gathered_sum(values, places.indices, places.offsets, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        g = grads[0].contiguous()
        values, w = ctx.saved_tensors
        return _gathered_dots(ctx.places, g, w), None, _transposed_product(Active(values, ctx.places), g, len(w))


def _gathered_sum(
    values: Float[Tensor, " Z"], indices: Int[Tensor, " Z"], offsets: Int[Tensor, " R"], w: Float[Tensor, "S D"]
) -> Float[Tensor, "B D"]:
    """Return Σ values · w[indices] of each row."""
    if triton_kernels.usable(w):
        return triton_kernels.gathered_sum(values, indices, offsets, w)
    return torch.nn.functional.embedding_bag(
        indices, w, offsets, mode="sum", per_sample_weights=values.to(w.dtype), include_last_offset=True
    )


def _gathered_dots(places: Places, g: Float[Tensor, "B D"], w: Float[Tensor, "S D"]) -> Float[Tensor, " Z"]:
    """Return g[row] · w[index] of each entry."""
    if triton_kernels.usable(w):
        return triton_kernels.gathered_dots(places.indices, places.offsets, g, w)
    _quiet_once()
    zeros = g.new_zeros(len(places.indices))
    pattern = torch.sparse_csr_tensor(places.offsets, places.indices, zeros, (len(g), len(w)), check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, g, w.T, beta=0.0).values()


@functools.cache
def _quiet_once() -> None:
    """Let torch say once, unheard, that compressed tensors are in beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1), (1, 1), check_invariants=False)


def _transposed_product(active: Active, dense: Float[Tensor, "B D"], d_sae: int) -> Float[Tensor, "S D"]:
    """Return Gᵀ @ dense with G the sparse [B, S] matrix of the active latents; sums are made in a fixed order."""
    order, rows, starts = active.places.by_latent(d_sae)
    return _gathered_sum(active.values[order], rows, starts, dense)

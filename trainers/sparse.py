"""Encode and decode that touch only active latents, forward and backward.

Nothing of size batch × d_sae is kept for the backward pass: of the pre-activations only the chosen ones live on.

Letters: ``B`` acts of a batch, ``D`` width, ``S`` d_sae, ``K`` active latents.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.sae.activations import top_entries

_CHUNK_BYTES = 64 << 20


def _transposed_product(
    values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], dense: Float[Tensor, "B D"], rows: int
) -> Float[Tensor, "S D"]:
    """Return Gᵀ @ dense with G the sparse [B, S] matrix of ``values`` at ``indices``."""
    b, k = indices.shape
    at = torch.stack([indices.reshape(-1), torch.arange(b, device=indices.device).repeat_interleave(k)])
    return torch.sparse.mm(torch.sparse_coo_tensor(at, values.reshape(-1), (rows, b), check_invariants=False), dense)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, k: int) -> tuple[Tensor, Tensor]:
        size = max(1, _CHUNK_BYTES // (4 * len(w)))
        parts = [top_entries(torch.addmm(b, x[i : i + size], w.T), k) for i in range(0, len(x), size)]
        values, indices = (torch.cat(p) for p in zip(*parts, strict=True))
        ctx.save_for_backward(x, w, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        g = grads[0].contiguous()
        x, w, indices = ctx.saved_tensors
        grad_w = _transposed_product(g, indices, x, len(w))
        grad_b = torch.zeros(len(w), dtype=g.dtype, device=g.device).index_add_(0, indices.reshape(-1), g.reshape(-1))
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.nn.functional.embedding_bag(indices, w, per_sample_weights=g, mode="sum")
        return grad_x, grad_w, grad_b, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(values, indices, w)
        return torch.nn.functional.embedding_bag(indices, w, per_sample_weights=values, mode="sum")

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        g = grads[0].contiguous()
        values, indices, w = ctx.saved_tensors
        size = max(1, _CHUNK_BYTES // (4 * indices.shape[1] * w.shape[1]))
        parts = [torch.bmm(w[indices[i : i + size]], g[i : i + size, :, None])[..., 0] for i in range(0, len(g), size)]
        return torch.cat(parts), None, _transposed_product(values, indices, g, len(w))


def topk_encode(
    x: Float[Tensor, "B D"], w: Float[Tensor, "S D"], b: Float[Tensor, " S"], k: int
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """Return the ``k`` largest entries of x wᵀ + b of each row, and where they are; gradients flow through the values.

    Args:
        x: Encoder inputs.
        w: Encoder, one row a latent.
        b: Encoder bias.
        k: Latents to keep.
    """
    return _Encode.apply(x, w, b, k)  # pyright: ignore[reportReturnType]


def sparse_decode(values: Float[Tensor, "B K"], indices: Int[Tensor, "B K"], w: Float[Tensor, "S D"]) -> Float[Tensor, "B D"]:
    """Return Σ_k values · w[indices]; only those rows are read, forward and backward.

    Args:
        values: Latents.
        indices: Which latents.
        w: Decoder, one row a latent.
    """
    return _Decode.apply(values, indices, w)  # pyright: ignore[reportReturnType]

"""The sparse operations against dense autograd."""

from __future__ import annotations

import pytest
import torch

from saebench.trainers import sparse
from saebench.trainers.sparse import sparse_decode, topk_encode


def dense(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor, k: int) -> torch.Tensor:
    pre = x @ w.T + b
    kept = torch.zeros_like(pre).scatter_(1, pre.detach().topk(k, 1).indices, 1.0)
    return (pre * kept) @ v


@pytest.mark.parametrize("chunk", [1, 1 << 30])
def test_forward_and_gradients_equal_dense_autograd(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_CHUNK_BYTES", chunk)
    g = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in ((9, 5), (16, 5), (16,), (16, 5))
    ]
    x, w, b, v = inputs
    ours = sparse_decode(topk_encode(x, w, b, 3), v)
    theirs = dense(x, w, b, v, 3)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=g, dtype=torch.float64)
    for mine, right in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, right)

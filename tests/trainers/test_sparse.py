"""The sparse operations against dense autograd."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from saebench.trainers import sparse
from saebench.trainers.sparse import batch_topk_encode, sparse_decode, topk_encode


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


@pytest.mark.parametrize(("chunk", "n"), [(1, 20), (1 << 30, 20), (1, 1000)])
def test_the_largest_of_a_whole_batch_equal_dense_autograd(chunk: int, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "_CHUNK_BYTES", chunk)
    g = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*shape, generator=g, dtype=torch.float64, requires_grad=True) for shape in ((9, 5), (16, 5), (16,), (16, 5))
    ]
    x, w, b, v = inputs
    active = batch_topk_encode(x, w, b, n)
    pre = x @ w.T + b
    flat = pre.detach().relu().reshape(-1)
    best = flat.topk(min(n, int((flat > 0).sum()))).indices
    kept = torch.zeros_like(flat).index_fill_(0, best, 1.0).view_as(pre)
    assert len(active.values) == len(best)
    ours, theirs = sparse_decode(active, v), (pre * kept) @ v
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=g, dtype=torch.float64)
    for mine, right in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(mine, right)


def test_nothing_of_batch_times_d_sae_is_kept_for_the_backward_pass() -> None:
    x, w = torch.randn(64, 8), torch.randn(4096, 8, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        sparse_decode(topk_encode(x, w, torch.zeros(4096, requires_grad=True), 4), w).sum()
    assert max(kept) == w.numel() < 64 * 4096


TRITON = """
import torch
from saebench.trainers import sparse, triton_kernels as kernels
assert kernels.usable(torch.zeros(1))
g = torch.Generator().manual_seed(0)
offsets = torch.tensor([0, 3, 3, 7, 12])
indices, values = torch.randint(0, 40, (12,), generator=g), torch.randn(12, generator=g)
w, x = torch.randn(40, 150, generator=g), torch.randn(4, 150, generator=g)
active = sparse.Active(values, sparse.Places(indices, offsets))

def all_three():
    return (
        sparse._gathered_sum(values, indices, offsets, w),
        sparse._gathered_dots(active.places, x, w),
        sparse._transposed_product(active, x, 40),
    )

found = all_three()
kernels.triton = None
plain = all_three()
for one, other in zip(found, plain):
    torch.testing.assert_close(one, other)
"""


def test_the_triton_kernels_give_the_plain_numbers_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's CUDA builds")
    done = subprocess.run(
        [sys.executable, "-c", TRITON], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]

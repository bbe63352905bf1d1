"""The same training on CUDA: near the CPU's numbers, Triton's kernels like torch's own, and no waiting inside a step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saebench.sae import load_sae
from saebench.trainers import sparse, triton_kernels
from saebench.trainers.ranks import Ranks
from saebench.trainers.run import train
from saebench.trainers.settings import runs_of
from saebench.trainers.trainee import Trainee
from tests.trainers.world import values

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize(("recipe", "more"), [("topk", {"k": 3, "lr": 1e-3}), ("relu-l1", {})])
def test_cuda_stays_near_the_cpu(world: Path, tmp_path: Path, recipe: str, more: dict[str, float]) -> None:
    train(recipe, values(world, tmp_path / "cpu", **more))
    train(recipe, values(world, tmp_path / "cuda", **more) | {"device": "cuda"})
    one, other = load_sae(tmp_path / "cpu"), load_sae(tmp_path / "cuda")
    for name, tensor in one.weights.items():
        torch.testing.assert_close(getattr(other.weights, name).cpu(), tensor, rtol=1e-2, atol=1e-3)


def test_triton_and_torch_agree() -> None:
    g = torch.Generator().manual_seed(0)
    x, w, v = torch.randn(64, 96, generator=g), torch.randn(512, 96, generator=g), torch.randn(512, 96, generator=g)
    found = []
    for device in ("cpu", "cuda"):
        leaves = [t.to(device).requires_grad_() for t in (x, w, v)]
        bias = torch.zeros(512, device=device, requires_grad=True)
        assert triton_kernels.usable(leaves[0]) == (device == "cuda" and triton_kernels.triton is not None)
        out = sparse.sparse_decode(sparse.topk_encode(leaves[0], leaves[1], bias, 8), leaves[2])
        out.square().sum().backward()
        found.append([out, *(t.grad for t in (*leaves, bias))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-3, atol=1e-3)


def test_a_step_does_not_wait_for_the_device() -> None:
    given = {"model": "-", "site": "-", "corpus": "-", "out": "-", "d_sae": 512, "k": 8, "batch_size": 256, "ema": 0.9}
    [run] = runs_of("topk", given | {"grad_clip": 1.0, "dead_refresh_steps": 1000})
    acts = torch.randn(256, 96, device="cuda")
    trainee = Trainee(run, acts, torch.device("cuda"), Ranks())
    trainee.learn(acts)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainee.learn(acts)
    finally:
        torch.cuda.set_sync_debug_mode("default")

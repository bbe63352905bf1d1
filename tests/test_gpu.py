"""The same scores on a GPU as on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import saebench
from tests.test_run import world  # noqa: F401  (a fixture)

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def test_scores_agree_with_the_cpu(world: Path, tmp_path: Path) -> None:  # noqa: F811
    paths = [world / f"sae{i}" for i in range(3)]
    common = {"model": str(world / "model"), "corpus": str(world / "tokens.npy")}
    cpu = saebench.evaluate(paths, device="cpu", out=tmp_path / "cpu", **common)
    gpu = saebench.evaluate(paths, device="cuda", out=tmp_path / "gpu", **common)
    for a, b in zip(cpu, gpu, strict=True):
        assert b.environment["device"].startswith("cuda")
        for score in a.scores:
            value = b.score(score.name).value
            assert (score.value is None) == (value is None), score.name
            if value is not None:
                assert value == pytest.approx(score.value, rel=1e-3, abs=1e-4), score.name

"""Two gloo processes against one: data parallel, and latents split over the processes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from saebench.sae import load_sae
from saebench.trainers.ranks import Ranks
from saebench.trainers.run import train
from tests.trainers.world import values

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "data-topk": ("topk", {"k": 3, "lr": 1e-3, "ema": 0.9, "dead_after_tokens": 200, "grad_clip": 0.01}),
    "data-batchtopk": ("batchtopk", {"k": 3, "lr": 1e-3, "dead_after_tokens": 200}),
    "data-ghost": ("relu-l1", {"dead": "ghost", "dead_after_tokens": 192, "l1": 0.3}),
    "data-resample": ("relu-l1", {"dead": "resample", "dead_after_tokens": 192, "resample_every": 9, "l1": 0.3}),
    "latents-topk": ("topk", {"k": 3, "lr": 1e-3, "ema": 0.9, "dead_after_tokens": 200, "grad_clip": 0.01}),
    "latents-multi": ("topk", {"k": 3, "multi_k": 8, "lr": 1e-3, "dead_after_tokens": 200}),
    "latents-narrow": ("topk", {"k": 20, "multi_k": 30, "lr": 1e-3}),
    "latents-orthogonal": ("topk", {"k": 3, "lr": 1e-3, "orthogonality": 1.0, "orthogonality_rows": 12}),
}
BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "bad-width": ("topk", {"k": 3, "split": "latents", "d_sae": 31}, "d_sae=31"),
    "bad-recipe": ("relu-l1", {"split": "latents"}, "cannot split its latents"),
    "bad-batch": ("topk", {"k": 3, "batch_size": 63}, "batch_size=63"),
    "bad-parts": ("topk", {"k": 3, "accumulate": 64}, "accumulate=64"),
}


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)


def as_yaml(given: Any) -> str:
    return yaml.safe_dump(json.loads(json.dumps(given, default=str)))


@pytest.fixture(scope="module")
def two(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes make, in one start of them; ``said.json`` holds what was refused."""
    folder = tmp_path_factory.mktemp("two")
    jobs = {
        name: (recipe, values(world, folder / name, split=name.split("-")[0], **settings))
        for name, (recipe, settings) in CASES.items()
    } | {name: (recipe, values(world, folder / name, **settings)) for name, (recipe, settings, _) in BAD.items()}
    (folder / "jobs.yaml").write_text(as_yaml(jobs))
    done = torchrun(str(Path(__file__).parent / "in_two_processes.py"), str(folder / "jobs.yaml"), str(folder / "said.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_make_the_sae_of_one(world: Path, tmp_path: Path, two: Path, name: str) -> None:
    recipe, settings = CASES[name]
    train(recipe, values(world, tmp_path, **settings))
    one, other = load_sae(tmp_path), load_sae(two / name)
    for part, tensor in one.weights.items():
        torch.testing.assert_close(getattr(other.weights, part), tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=part: f"{n}: {m}")
    logs = [list(csv.DictReader((folder / "metrics.csv").open())) for folder in (tmp_path, two / name)]
    assert len(logs[0]) == len(logs[1])
    for left, right in zip(*logs, strict=True):
        for column in ("loss", "explained_variance", "l0", "dead_share"):
            assert float(left[column]) == pytest.approx(float(right[column]), rel=1e-5, abs=1e-5), column
    assert not list((two / name).glob("checkpoint*"))


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_divide_or_cannot_be_split_is_refused(two: Path, name: str) -> None:
    assert BAD[name][2] in json.loads((two / "said.json").read_text())[name]


def test_the_command_itself_under_torchrun(world: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(as_yaml(values(world, tmp_path / "out", k=3, tokens=640)))
    done = torchrun("-m", "saebench", "train", "topk", "--config", str(tmp_path / "one.yaml"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_sae(tmp_path / "out").config.k == 3
    assert done.stderr.count("written to") + done.stdout.count("written to") == 1, "one process speaks"


def test_alone_nothing_is_sent() -> None:
    ranks = Ranks()
    x = torch.randn(4, 3)
    assert ranks.mean(x) is x
    assert ranks.share(x) is x
    assert ranks.sum_latents(x) is x
    assert ranks.any(x[0] > 0).equal(x[0] > 0)
    assert ranks.among_best(x, 2).all()
    assert ranks.gather_rows(x) is x

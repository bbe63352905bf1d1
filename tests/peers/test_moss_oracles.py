"""Llama Scope, its R1 distill, the attention SAEs: sae_lens' own loaders as a second opinion where it and the authors agree."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.sae import load_sae

pytestmark = pytest.mark.peers

CASES = {"llama_scope": "openmoss_v1", "r1_distill": "openmoss_v2", "attention": "neel_nanda"}


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with files of each kind, and what sae_lens makes of them in its own environment."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("moss")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_moss.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", CASES)
def test_sae_lens_agrees_to_1e_5(name: str, oracles: Path) -> None:
    told = np.load(oracles / name / "oracle.npz")
    sae = load_sae(oracles / name / (oracles / name / "sae.txt").read_text())
    assert sae.config.format == CASES[name]
    acts = torch.from_numpy(told["acts"])
    latents = sae.encode(acts)
    assert (told["latents"] != 0).any()
    assert (told["latents"] == 0).any()
    assert relative(latents.to_dense().numpy(), told["latents"]) < 1e-5
    assert (latents.l0().numpy() == (told["latents"] != 0).sum(1)).all()
    assert relative(sae.reconstruct(acts).numpy(), told["recon"]) < 1e-5

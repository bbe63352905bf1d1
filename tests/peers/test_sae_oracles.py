"""Encode and decode equal to the real libraries' own, for every kind of SAE they write."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.sae import load_sae

pytestmark = pytest.mark.peers

KINDS = 26


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders written by sae_lens, dictionary_learning and sparsify in their own environment."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("oracles")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_oracles.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_every_kind_agrees_to_1e_5(oracles: Path) -> None:
    files = sorted(oracles.rglob("oracle.npz"))
    assert len(files) == KINDS
    for file in files:
        told = np.load(file)
        sae = load_sae(file.parent)
        acts = torch.from_numpy(told["acts"])
        latents = sae.encode(acts)
        assert (told["latents"] != 0).any(), file
        assert relative(latents.to_dense().numpy(), told["latents"]) < 1e-5, file.parent
        assert relative(sae.reconstruct(acts).numpy(), told["recon"]) < 1e-5, file.parent
        assert relative(sae.decode(latents, acts).numpy(), told["recon"]) < 1e-5, file.parent
        assert (latents.l0().numpy() == (told["latents"] != 0).sum(1)).all(), file.parent

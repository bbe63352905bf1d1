"""Encode and decode of circuit-tracer's transcoders equal to what sae_lens makes of the same tensors."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.sae import load_sae

pytestmark = pytest.mark.peers

SETS = {
    "mwhanna": "transcoder",
    "skip": "skip_transcoder",
    "skip-first-revision": "skip_transcoder",
    "jumprelu": "jumprelu_transcoder",
}


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets written in the environment of sae_lens, each with what it makes of them."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("transcoders")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_transcoders.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", SETS)
def test_sae_lens_agrees_to_1e_5(name: str, oracles: Path) -> None:
    sae, told = load_sae(oracles / name / "layer_2.safetensors"), np.load(oracles / name / "oracle.npz")
    x = torch.from_numpy(told["acts"])
    latents = sae.encode(x)
    assert (told["latents"] != 0).any()
    assert relative(latents.to_dense().numpy(), told["latents"]) < 1e-5
    assert (latents.l0().numpy() == (told["latents"] != 0).sum(1)).all()
    assert relative(sae.reconstruct(x).numpy(), told["recon"]) < 1e-5
    assert relative(sae.decode(latents, x).numpy(), told["recon"]) < 1e-5
    assert (sae.config.architecture, sae.config.site) == (SETS[name], "blocks.2.mlp.hook_in")

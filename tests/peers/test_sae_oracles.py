"""Encode and decode equal to the real libraries' own, for every kind of SAE they write."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae

pytestmark = pytest.mark.peers

KINDS = 141


@pytest.fixture(scope="module")
def oracles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders written by sae_lens, dictionary_learning and sparsify in their own environment."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("oracles")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_oracles.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def wrong_with(file: Path) -> list[str]:
    """Return in what way the SAE that ``oracle.npz`` tells of, as it is loaded here, is not what its library makes of it."""
    told, how = np.load(file), json.loads(file.with_suffix(".json").read_text())
    path, given = file.parent / how["load"], how["given"]
    sae, acts, latents = load_sae(path, given=given), torch.from_numpy(told["acts"]), told["latents"]
    found = sae.encode(acts)
    about = inspect_sae(path, given=given, hash=False)
    wrong = {
        "no latent fires": not (latents != 0).any(),
        "sizes": (about["d_in"], about["d_sae"]) != (acts.shape[1], latents.shape[1]),
        "latents": relative(found.to_dense().numpy(), latents) >= 1e-5,
        "which latents": bool((found.l0().numpy() != (latents != 0).sum(1)).any()),
        "recon": relative(sae.reconstruct(acts).numpy(), told["recon"]) >= 1e-5,
        "decode": relative(sae.decode(found, acts).numpy(), told["recon"]) >= 1e-5,
        "tensors of its library that are called unknown": any("left out" in line for line in sae.config.warnings),
    }
    return [f"{file.parent.relative_to(file.parents[1])}: {what}" for what, is_so in wrong.items() if is_so]


def test_every_kind_agrees_to_1e_5(oracles: Path) -> None:
    files = sorted(oracles.rglob("oracle.npz"))
    assert len(files) == KINDS
    assert [line for file in files for line in wrong_with(file)] == []

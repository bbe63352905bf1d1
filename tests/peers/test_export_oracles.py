"""What ``export_sae`` writes is loaded by the real libraries, whose encode and decode equal ours, for every combination."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.sae.export import export_sae
from tests.sae.export_cases import SUPPORTED, acts

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exports of every supported combination, each with ``oracle.npz``: what the real library makes of it."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    root = tmp_path_factory.mktemp("exports")
    np.save(root / "acts.npy", acts().numpy())
    listed = [f"{to}\t{name}\t{export_sae(sae, root / name, to)}" for name, (to, sae) in SUPPORTED.items()]
    (root / "list.tsv").write_text("\n".join(listed))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("read_exports.py")
    done = subprocess.run([python, str(script), str(root)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return root


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("name", SUPPORTED)
def test_the_real_library_agrees_to_1e_5(name: str, told: Path) -> None:
    _, sae = SUPPORTED[name]
    theirs = np.load(told / name / "oracle.npz")
    x = torch.from_numpy(np.load(told / "acts.npy"))
    latents = sae.encode(x)
    assert (theirs["latents"] != 0).any()
    assert relative(theirs["latents"], latents.to_dense().numpy()) < 1e-5
    assert (latents.l0().numpy() == (theirs["latents"] != 0).sum(1)).all()
    assert relative(theirs["recon"], sae.reconstruct(x).numpy()) < 1e-5

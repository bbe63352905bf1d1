"""Published releases of single files: encode, decode, model and site equal to what sae_lens' own loaders make of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saebench.sae import load_sae

pytestmark = pytest.mark.peers

KINDS = {"gemma_scope": 5, "gemma_scope_2": 20, "goodfire": 2, "deepseek_r1": 1, "qwen_scope": 2, "neel_nanda": 1}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What was written, and what sae_lens makes of it, in its own environment."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("releases")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_releases.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((folder / "oracles.json").read_text())
    for row in found:
        row["numbers"] = folder / row["numbers"]
    return found


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_every_file_agrees_to_1e_5(rows: list[dict[str, Any]]) -> None:
    formats: list[str] = []
    for row in rows:
        told, sae = np.load(row["numbers"]), load_sae(row["path"])
        x = torch.from_numpy(told["acts"])
        latents = sae.encode(x)
        formats.append(sae.config.format)
        assert (told["latents"] != 0).any() and (told["latents"] == 0).any(), row
        assert relative(latents.to_dense().numpy(), told["latents"]) < 1e-5, row
        recon = told["recon"]
        if row["hook"] == "hook_embed":  # sae_lens scales the decoder of an embedding SAE by √D and forgets its bias
            recon = recon + (1 - x.shape[1] ** -0.5) * sae.weights.b_dec.numpy()
        assert relative(sae.reconstruct(x).numpy(), recon) < 1e-5, row
        assert relative(sae.decode(latents, x).numpy(), recon) < 1e-5, row
        assert (latents.l0().numpy() == (told["latents"] != 0).sum(1)).all(), row
    assert {name: formats.count(name) for name in KINDS} == KINDS


def test_models_and_sites_are_the_same_but_for_what_transcoders_read(rows: list[dict[str, Any]]) -> None:
    """sae_lens calls it hook_mlp_in, which in TransformerLens stands before the norm; the release says behind it."""
    for row in rows:
        c = load_sae(row["path"]).config
        assert c.model_id in (row["model"], f"google/{row['model']}"), row
        assert c.site == row["hook"].replace("hook_mlp_in", "mlp.hook_in").replace("hook_embed", "blocks.0.hook_resid_pre"), row
        assert c.site_out == row["hook_out"], row
        if c.format.startswith("gemma_scope"):
            assert (c.architecture, c.context_length, c.prepend_bos) == (row["architecture"], row["context"], row["bos"]), row

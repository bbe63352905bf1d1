"""Peak memory of loading is the file's size and little more: nothing is held twice, whatever is folded or turned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.sae.hostile import lens_settings

D, S = 512, 26_000
OVER, SLACK = 1.2, 24 << 20
"""A slab of 8 MB, its transpose and what checks it for NaN are held besides, whatever the size; the rest is a margin."""
LOAD = """
import sys
from pathlib import Path
from saebench.registry import FORMATS
from saebench.sae import load_sae
list(FORMATS.items())
def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
sae = load_sae(sys.argv[1])
print(memory("VmHWM") - before, memory("VmRSS") - before)
"""


def write(kind: str, folder: Path) -> Path:
    folder.mkdir()
    g = torch.Generator().manual_seed(0)
    big = torch.randn(S, D, generator=g)
    turned, bias, offset = big.T.contiguous(), torch.randn(S, generator=g), torch.randn(D, generator=g)
    if kind.startswith("sae_lens"):
        save_file({"W_enc": turned, "b_enc": bias, "W_dec": big, "b_dec": offset}, folder / "sae_weights.safetensors")
        cfg = lens_settings(d_in=D, d_sae=S, rescale_acts_by_decoder_norm=kind.endswith("topk"), architecture=kind.split()[1])
        (folder / "cfg.json").write_text(json.dumps(cfg))
    elif kind == "sparsify":
        tensors = {"encoder.weight": big, "encoder.bias": bias, "W_dec": big.clone(), "b_dec": offset}
        save_file(tensors, folder / "sae.safetensors")
        (folder / "cfg.json").write_text(json.dumps({"k": 4, "d_in": D, "num_latents": S, "expansion_factor": 32}))
    elif kind == "mats":
        state = {"W_enc": turned, "b_enc": bias, "W_dec": big, "b_dec": offset, "scaling_factor": bias.abs() + 0.1}
        cfg = {"hook_point": "blocks.1.hook_resid_pre", "model_name": "gpt2", "d_in": D, "d_sae": S}
        torch.save({"cfg": cfg, "state_dict": state}, folder / "final_sparse_autoencoder_gpt2.pt")
    else:
        tensors = {"encoder.weight": big, "encoder.bias": bias, "decoder.weight": turned, "bias": offset}
        torch.save(tensors, folder / "ae.pt")
        trainer = {"dict_class": "AutoEncoder", "activation_dim": D, "dict_size": S, "layer": 0}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux' /proc")
@pytest.mark.parametrize("kind", ["sae_lens standard", "sae_lens topk", "sparsify", "dictionary_learning", "mats"])
def test_peak_is_the_files_size(tmp_path: Path, kind: str) -> None:
    folder = write(kind, tmp_path / "layers.3")
    size = sum(one.stat().st_size for one in folder.iterdir())
    assert size > 100e6
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    peak, kept = map(int, done.stdout.split())
    peak = max(peak, kept)  # the kernel's two counters may differ by a page
    assert 0.9 * size < kept, "the weights are not all there, so their peak says nothing"
    assert peak < OVER * size + SLACK, f"peak {peak / size:.2f} times the file"

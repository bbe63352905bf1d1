"""Tensors that lie in files: what was read of a map is given back when a matrix is turned or cast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saebench.sae import load_sae
from saebench.sae.reading.containers import open_safetensors
from saebench.sae.reading.mapped import Maps
from tests.sae.hostile import lens_settings

D, S = 512, 26_000
LINUX = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="maps are listed in Linux' /proc")


def resident(path: Path) -> int:
    """Return how many bytes of a file's maps are in memory."""
    total, own = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            own = rest.endswith(str(path))
        elif own and name == "Rss:":
            total += int(rest.split()[0]) * 1024
    return total


@pytest.fixture
def file(tmp_path: Path) -> Path:
    matrix = torch.randn(S, D, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file({"matrix": matrix, "bias": torch.ones(3)}, tmp_path / "one.safetensors")
    return tmp_path / "one.safetensors"


@LINUX
@pytest.mark.parametrize("what", ["cast", "turned"])
def test_what_was_read_is_given_back(file: Path, what: str) -> None:
    maps = Maps()
    matrix = open_safetensors(file, maps)["matrix"]
    expected = matrix.float().clone()
    assert resident(file) > 0.5 * matrix.nbytes
    if what == "cast":
        assert torch.equal(maps.cast(matrix, device=None, dtype=torch.float32), expected)
    else:
        assert torch.equal(maps.turned(matrix).float(), expected.T)
    assert resident(file) < 0.1 * matrix.nbytes


def test_a_cast_of_anything_else_is_a_plain_one(file: Path) -> None:
    maps = Maps()
    tensors = open_safetensors(file, maps)
    for one in (tensors["bias"], tensors["matrix"].T, torch.tensor(2.0), torch.zeros(0, 4), torch.arange(6).view(2, 3)):
        assert torch.equal(maps.cast(one, device="cpu", dtype=torch.float64), one.double())
    bias = tensors["bias"]
    assert maps.cast(bias, device=None, dtype=torch.float32) is bias  # it is so already: still a map
    copied = bias.clone()
    maps.cast(copied, device=None, dtype=torch.bfloat16)
    assert torch.equal(copied, torch.ones(3))  # only maps are given back


@LINUX
@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_a_loaded_sae_of_another_dtype_keeps_nothing_of_its_file(tmp_path: Path, architecture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = {"W_enc": (D, S), "b_enc": (S,), "W_dec": (S, D), "b_dec": (D,)}
    saved = {name: torch.randn(*shape, generator=generator).bfloat16() for name, shape in weights.items()}
    save_file(saved, tmp_path / "sae_weights.safetensors")
    cfg = lens_settings(d_in=D, d_sae=S, rescale_acts_by_decoder_norm=architecture == "topk", architecture=architecture)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    sae = load_sae(tmp_path)
    assert sae.dtype == torch.float32 and resident(tmp_path / "sae_weights.safetensors") < 1 << 20
    if architecture == "standard":
        assert torch.equal(sae.W_dec, saved["W_dec"].float())
        kept = load_sae(tmp_path, dtype=torch.bfloat16)
        assert torch.equal(kept.W_enc, saved["W_enc"]) and kept.sha256 == sae.sha256

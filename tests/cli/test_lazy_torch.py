"""``inspect`` reads headers and settings, for which no torch is loaded: nothing that takes seconds to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sae.formats.cases import D
from tests.sae.formats.fixtures import FIXTURES, Written, write_fixture
from tests.sae.formats.sae_lens_cases import cfg_of

HEAVY = {
    "torch", "safetensors", "transformers", "transformer_lens", "datasets", "pandas", "pyarrow", "scipy", "matplotlib", "sklearn",
}  # fmt: skip
KINDS = (
    "sae_lens", "native", "dictionary_learning", "dictionary_learning, legacy torch", "gemma_scope", "gemma_scope, compressed",
    "mats",
)  # fmt: skip
ONE_BY_ONE = """
import json, sys
from saebench.cli import main
for name, words in json.loads(sys.argv[1]).items():
    code = main(["inspect", "--headers-only", *words])
    if code or "torch._C" in sys.modules:
        sys.exit(f"{name}: exit code {code}, torch was loaded or the SAE not shown")
"""
LATER = """
import sys
from saebench.cli.lazy_torch import put_off_torch
put_off_torch()
import torch
import torch as again
assert again is torch is sys.modules["torch"] and "torch._C" not in sys.modules
import torch.nn.functional
from torch import Tensor
assert isinstance(torch.nn.functional.relu(torch.ones(2)), Tensor) and type(torch).__name__ == "module"
"""


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


def words_of(written: Written) -> list[str]:
    return [written.path, *(word for key, value in (written.given or {}).items() for word in ("--set", f"{key}={value}"))]


def imported(*words: str) -> set[str]:
    """Return the modules that ``saebench inspect`` imports."""
    done = python("-X", "importtime", "-m", "saebench", "inspect", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_is_read_without_torch(kind: str, tmp_path: Path):
    found = packages(imported("--headers-only", *words_of(write_fixture(kind, tmp_path))))
    assert "saebench" in found and not found & HEAVY


def test_no_format_needs_torch_for_headers(tmp_path: Path):
    """Formats import each other's modules once, so one process does for all; the first one that loads torch is named."""
    saes = {name: words_of(write_fixture(name, tmp_path / str(at))) for at, name in enumerate(FIXTURES)}
    done = python("-c", ONE_BY_ONE, json.dumps(saes))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("architecture") == len(FIXTURES)


def test_large_weights_are_not_read_unasked(tmp_path: Path):
    """A file with a hole in it, larger than what is hashed by itself."""
    d_sae = (129 << 20) // (8 * D)
    shapes, at = {"W_enc": [D, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, D], "b_dec": [D]}, 0
    header = {}
    for key, shape in shapes.items():
        size = 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(tmp_path / "sae_weights.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    (tmp_path / "cfg.json").write_text(json.dumps(cfg_of("standard", d_sae=d_sae)))
    assert not packages(imported(str(tmp_path))) & HEAVY


def test_a_folder_of_several_is_listed_without_torch(tmp_path: Path):
    for name in ("one", "two"):
        write_fixture("sae_lens", tmp_path / name)
    assert not packages(imported(str(tmp_path))) & (HEAVY - {"pandas", "pyarrow"})


def test_small_weights_are_read_with_it(tmp_path: Path):
    """What the other tests look for is there where weights are read."""
    assert "torch._C" in imported(*words_of(write_fixture("sae_lens", tmp_path)))


def test_it_is_torch_once_it_is_used():
    done = python("-c", LATER)
    assert done.returncode == 0, done.stderr[-2000:]

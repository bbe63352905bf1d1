"""Six SAEs that three libraries trained score here what they score through their own libraries."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from saebench.api import evaluate
from tests.test_core_independent import SAES, tokens_file

pytestmark = pytest.mark.peers
__all__ = ["tokens_file"]


def test_six_saes_score_as_through_their_own_libraries(shared_dir: Path, tokens_file: Path, tmp_path: Path) -> None:
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    model, saes = shared_dir / "models/stories260K", shared_dir / "saes/stories260K"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"SPARSIFY_DISABLE_TRITON": "1", "HF_HUB_OFFLINE": "1"}
    script, out = Path(__file__).with_name("score_six.py"), tmp_path / "theirs.json"
    done = subprocess.run(
        [python, str(script), str(tokens_file), str(model), str(saes), str(out), json.dumps(SAES)],
        capture_output=True, text=True, env=env, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = json.loads(out.read_text())
    records = evaluate(
        [str(saes / name) for name in SAES], model=str(model), corpus=str(tokens_file), out=tmp_path / "ours", device="cpu"
    )
    for name, record in zip(SAES, records, strict=True):
        ours = {score.name: score.value for score in record.scores}
        for score in ("explained_variance", "ce_clean", "ce_spliced", "l0"):
            assert ours[score] == pytest.approx(theirs[name][score], abs=1e-4), (name, score)

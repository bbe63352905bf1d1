"""The suite ``sae-probes`` is that of the package: same data sets, same texts, labels and splits, in the same order."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saebench.probelist import probe_tasks
from saebench.studies.probes.examples import ProbeExamples, load_examples

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the package does, in its own environment."""
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    folder = tmp_path_factory.mktemp("probes")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("write_probes.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads((folder / "probes.json").read_text())


def digest(found: ProbeExamples, which: np.ndarray) -> str:
    texts, labels = (
        [text for text, mine in zip(found.texts, which, strict=True) if mine],
        found.labels[which].astype(int).tolist(),
    )
    return hashlib.sha256(json.dumps([texts, labels]).encode()).hexdigest()


def test_all_113_are_read_and_dealt_as_the_package_does(told: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    at = SimpleNamespace(submodule_search_locations=[told["folder"]])
    monkeypatch.setattr("saebench.studies.probes.package.importlib.util.find_spec", lambda name: at)
    assert {task.name for task in probe_tasks(["sae-probes/*"])} == {f"sae-probes/{tag}" for tag in told["datasets"]}
    for seed in (0, 1):
        for found in load_examples(["sae-probes/*"], seed=seed, data_dir=tmp_path):
            assert isinstance(found, ProbeExamples), found
            ours = [digest(found, found.is_train), digest(found, ~found.is_train)]
            assert ours == told["data"][found.name.removeprefix("sae-probes/")][seed], found.name

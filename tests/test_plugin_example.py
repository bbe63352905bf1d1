"""The plug-in that docs/plugins.md shows, installed offline beside saebench and used by the command line."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from saebench.check import CHECKS
from saebench.store import find_records, read_record
from tests.lm.families import build

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "docs/examples/acorn"


class Installed:
    """A folder that pip has installed the example into, and an SAE of its format."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sae = folder / "my-acorn"

    def python(self, *words: str, code: int = 0) -> str:
        """Run Python with the plug-in installed and return what it printed."""
        found = os.environ.get("PYTHONPATH")
        path = str(self.folder / "site") + (os.pathsep + found if found else "")
        env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *words], env=env, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def saebench(self, *words: str, code: int = 0) -> str:
        """Run the command."""
        return self.python("-m", "saebench", *words, code=code)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    for module in ("pip", "setuptools"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"installing the example offline needs {module} in this environment")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
    ]
    here = Installed(folder)
    here.python(*install, "--target", str(folder / "site"), str(folder / "source"))
    here.python("-m", "saebench_acorn.lab", str(here.sae))
    return here


def test_what_pip_installs_is_the_package_alone(installed: Installed):
    there = {path.name for path in (installed.folder / "site").iterdir()}
    assert {"saebench_acorn", "saebench_acorn-1.0.dist-info"} <= there
    assert not any(name.startswith("saebench_harness") for name in there)
    told = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert set(told) == {"saebench.formats", "saebench.metrics", "saebench.studies", "saebench.trainers"}


@pytest.mark.parametrize(
    ("what", "key", "name"),
    [
        ("formats", "format", "acorn"),
        ("metrics", "metric", "effective_l0"),
        ("studies", "study", "repeats"),
        ("recipes", "recipe", "relu-half"),
    ],
)
def test_saebench_lists_it(installed: Installed, what: str, key: str, name: str):
    rows = {row[key]: row for row in json.loads(installed.saebench("list", what, "--json"))}
    assert name in rows and rows[name]["about"], "found by its entry point, with a headline"


def test_inspect_says_what_it_is(installed: Installed):
    about = json.loads(installed.saebench("inspect", str(installed.sae), "--json"))
    told = (about["format"], about["site"], about["model_id"], about["k"], about["normalisation"])
    assert told == ("acorn", "blocks.1.hook_resid_pre", "acorn/tiny", 3, "constant_scale")


def test_every_check_passes(installed: Installed):
    data = json.loads(installed.saebench("check", str(installed.sae), "--acts", str(installed.sae / "acts.npy"), "--json"))
    assert data["ok"] and data["format"] == "acorn"
    assert {row["check"] for row in data["checks"] if row["status"] == "pass"} == set(CHECKS) - {"oracle", "thresholds"}
    (installed.folder / "broken").mkdir()
    (installed.folder / "broken/acorn.json").write_text('{"acorn": 2}')
    shutil.copy(installed.sae / "weights.npz", installed.folder / "broken")
    assert installed.saebench("check", "broken", code=2) == ""


def test_an_sae_of_its_format_loads_as_the_laboratory_has_it(installed: Installed):
    code = """
import sys, numpy, torch
from saebench import load_sae
from saebench_acorn.lab import example
theirs, x = example()
ours = load_sae(sys.argv[1])
latents = theirs.encode(x)
assert numpy.abs(ours.encode(torch.from_numpy(x)).to_dense().numpy() - latents).max() < 1e-5
assert numpy.abs(ours.reconstruct(torch.from_numpy(x)).numpy() - theirs.decode(latents)).max() < 1e-4
"""
    installed.python("-c", code, str(installed.sae))


def test_its_own_tests_pass(installed: Installed):
    tests = installed.folder / "source/tests"
    assert " passed" in installed.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests))


def test_its_metric_study_and_recipe_work_in_real_runs(installed: Installed):
    here = installed.folder
    build("llama", str(here / "model"))
    tokens = np.random.default_rng(0).integers(4, 90, (24, 20))
    tokens[:, 0] = 1
    np.save(here / "tokens.npy", tokens)
    common = ["--model", "model", "--corpus", "tokens.npy", "--device", "cpu"]
    sizes = {"d_sae": 32, "tokens": 64 * 40, "batch_size": 64, "context_length": 20, "eval_contexts": 4, "buffer_tokens": 200}
    settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    installed.saebench(
        "train",
        "relu-half",
        *common,
        "--site",
        "blocks.1.hook_resid_pre",
        "--out",
        "trained",
        *settings,
        "--set",
        "tensorboard=false",
    )
    tasks = [word for name in ("effective_l0", "repeats") for word in ("--task", str(here / f"source/tasks/{name}.yaml"))]
    installed.saebench("run", "--sae", "trained", *common, *tasks, "--out", "out")
    records = {record.task.name: record for record in map(read_record, find_records(here / "out"))}
    effective, l0 = (records["effective_l0"].score(name).value for name in ("effective_l0", "l0"))
    assert effective is not None and l0 is not None and 0 < effective <= l0
    first, second = (records["repeats"].score(f"repeats_fvu_{half}").value for half in ("first", "second"))
    assert first is not None and second is not None and 0 < first < 2 and 0 < second < 2

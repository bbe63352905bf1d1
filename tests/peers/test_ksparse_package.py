"""On one SAE the protocol ``sae_probes`` gives what the package gives, far within what another seed of the package gives."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.reference import ROOT
from saebench.sae import SAE, load_sae
from saebench.sae.export import export_sae
from saebench.studies.base import StudySetting
from saebench.studies.probes import Probes, ProbesSettings
from saebench.studies.probes import study as study_module
from saebench.studies.probes.acts import Encoded, Reader, TextActs, encode
from saebench.studies.probes.ksparse import KSparse
from saebench.studies.probes.package import package_rows

pytestmark = pytest.mark.peers

OWN = "117_us_state_FL"
SETS = (
    OWN, "118_us_state_CA", "119_us_state_TX", "24_headline_isiran", "130_temp_cat_Frequency", "131_temp_cat_Typical Time",
    "132_temp_cat_Event Ordering", "133_context_type_Causality", "134_context_type_Belief_states",
    "135_context_type_Event_duration",
)  # fmt: skip
KS = {"l1": [1, 2, 5, 16], "l2": [5, 16]}
SEEDS = (42, 43, 44)
BASELINE = ("117_us_state_FL", "135_context_type_Event_duration")


@pytest.fixture(scope="module")
def sae() -> SAE:
    return load_sae(ROOT / "saes/topk-layer1")


@pytest.fixture(scope="module")
def port(sae: SAE) -> Port:
    return Port(load_model(str(ROOT / "model"), device="cpu"), str(sae.config.site))


@pytest.fixture(scope="module")
def python() -> str:
    python = os.environ.get("SAEBENCH_PEERS_PYTHON")
    if not python:
        pytest.skip("SAEBENCH_PEERS_PYTHON does not name the interpreter of an environment with the peers (see CONTRIBUTING)")
    return python


@pytest.fixture(scope="module")
def known(port: Port, python: str) -> Any:
    """The acts of every row of the data sets, by token ids, and by data set in the package's order; where the package lies."""
    told = "import importlib.util as u; print(u.find_spec('sae_probes').submodule_search_locations[0])"
    where = subprocess.run([python, "-c", told], capture_output=True, text=True, check=True, timeout=300).stdout.strip()
    by_ids: dict[tuple[int, ...], torch.Tensor] = {}
    by_set: dict[str, torch.Tensor] = {}
    reader = Reader(port, "last")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saebench.studies.probes.package.importlib.util.find_spec", lambda _: _spec(where))
        for name in SETS:
            encoded = encode([row["prompt"] for row in package_rows(name, None, None)[0]], port)
            by_set[name] = reader(encoded).acts
            by_ids |= {tuple(ids): acts for ids, acts in zip(encoded.ids, by_set[name], strict=True)}
    return SimpleNamespace(ids=by_ids, sets=by_set, spec=_spec(where))


def _spec(where: str) -> Any:
    return SimpleNamespace(submodule_search_locations=[where])


@pytest.fixture(scope="module")
def folder(sae: SAE, known: Any, python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package makes of the same SAE, in its own environment."""
    folder = tmp_path_factory.mktemp("k-sparse")
    acts = folder / "acts/model_activations_reference"
    acts.mkdir(parents=True)
    for name in SETS[1:]:
        torch.save(known.sets[name].clone(), acts / f"{name}_{sae.config.site}.pt")
    export_sae(sae, folder / "sae", "saelens")
    asked = {
        "model": str(ROOT / "model"), "hook": str(sae.config.site), "own": OWN, "sets": SETS, "ks": KS, "seeds": SEEDS,
        "baseline": BASELINE,
    }  # fmt: skip
    (folder / "asked.json").write_text(json.dumps(asked))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("score_probes.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, env=env, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def both(folder: Path, sae: SAE, port: Port, known: Any) -> dict[tuple[str, int, str, int | None], tuple[Any, Any]]:
    """By (penalty, k, data set, seed): a row of ours and one of the package's; k = 0 are the acts."""
    theirs = json.loads((folder / "theirs.json").read_text())
    by = {(row["reg_type"], row["k"], row["dataset"], row["seed"]): row for row in theirs["probes"]}
    by |= {("l2", 0, row["dataset"], row["seed"]): row for row in theirs["baseline"]}
    found = {}
    none = KSparse(auc=0.0, auc_stderr=0.0, acc=0.0, f1=0.0, auc_held_out=None, c=1.0, n_weights=0)

    class Known(Reader):
        def __call__(self, encoded: Encoded) -> TextActs:
            acts = torch.stack([known.ids[tuple(ids)] for ids in encoded.ids])
            return TextActs(acts=acts, offsets=np.arange(len(acts) + 1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("saebench.studies.probes.package.importlib.util.find_spec", lambda _: known.spec)
        patch.setattr(study_module, "Reader", Known)
        patch.setenv("SAEBENCH_CACHE", "off")
        runs = [(SEEDS[0], "l2", [1], BASELINE), *((seed, norm, ks, SETS) for seed in SEEDS for norm, ks in KS.items())]
        for seed, norm, ks, sets in runs:
            if sets is SETS:  # the baseline takes longest, and is compared on two data sets
                patch.setattr(study_module, "dense", lambda *_: none)
            settings = ProbesSettings.model_validate(
                {"tasks": [f"sae-probes/{name}" for name in sets], "protocol": "sae_probes", "ks": ks, "norm": norm}
            )
            [result] = Probes(StudySetting(port=port, seed=seed - 42), settings).run([sae])
            columns = result.tables["tasks"]
            for values in zip(*columns.values(), strict=True):
                row = dict(zip(columns, values, strict=True))
                key = (norm if row["k"] else "l2", row["k"] or 0, row["task"].removeprefix("sae-probes/"), seed)
                if key in by and key not in found:
                    found[key] = row, by[key]
    assert len(found) == len(by) == len(SETS) * len(SEEDS) * 6 + len(BASELINE)
    return found


def test_the_package_reads_the_same_acts(folder: Path, sae: SAE, known: Any):
    theirs = torch.load(folder / f"acts/model_activations_reference/{OWN}_{sae.config.site}.pt", weights_only=True)
    assert theirs.shape == known.sets[OWN].shape
    assert (theirs - known.sets[OWN]).norm() < 1e-5 * theirs.norm()


def test_scores_equal_the_packages_within_its_reseed_noise(both: Any):
    for norm, ks in KS.items():
        for k in ks:
            pairs = [[both[norm, k, name, seed] for seed in SEEDS] for name in SETS]
            for ours, theirs in (("auc", "test_auc"), ("acc", "test_acc"), ("f1", "test_f1")):
                own = np.array([[one[ours] for one, _ in row] for row in pairs], dtype=float)
                other = np.array([[one[theirs] for _, one in row] for row in pairs])
                noise = other.std(1, ddof=1)
                assert (np.abs(own.mean(1) - other.mean(1)) <= noise + 1e-3).all(), (norm, k, ours)
                assert abs(own.mean() - other.mean()) <= other.mean(0).std(ddof=1), (norm, k, ours)
                assert np.median(np.abs(own - other)) < 1e-4 and noise.mean() > 5e-3, (norm, k, ours)


def test_the_same_latents_are_taken_and_mostly_the_same_penalty(both: Any):
    own, theirs = zip(*(pair for (_, k, _, _), pair in both.items() if k), strict=True)
    shared = [len(set(a["latents"]) & set(b["indices"])) / a["k"] for a, b in zip(own, theirs, strict=True)]
    assert np.mean(shared) > 0.99
    held_out = [abs(a["auc_held_out"] - b["val_auc"]) for a, b in zip(own, theirs, strict=True)]
    assert np.median(held_out) < 1e-6 and np.max(held_out) < 0.02


def test_the_baseline_is_the_packages(both: Any):
    for name in BASELINE:
        ours, theirs = both["l2", 0, name, 42]
        assert ours["auc"] == pytest.approx(theirs["test_auc"], abs=2e-3)
        assert ours["acc"] == pytest.approx(theirs["test_acc"], abs=0.02)

"""A sweep: many SAEs on one stream of acts, and one run's failure that takes nothing from the others."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from saebench.cli import main
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import BlockStack
from saebench.sae import load_sae
from saebench.trainers.loop import Loop
from saebench.trainers.run import train
from saebench.trainers.settings import runs_of
from tests.trainers.world import SITE, values


def shared(world: Path, out: Path, **more: Any) -> dict[str, Any]:
    found = values(world, out, **more)
    found.pop("d_sae")
    return found


def test_a_sweep_is_the_product_of_its_lists_and_each_run_is_named_after_what_differs(world: Path, tmp_path: Path) -> None:
    recipes = [
        {"recipe": "topk", "k": [2, 4], "d_sae": [16, 32], "lr": 1e-3},
        {"recipe": "matryoshka", "k": 2, "d_sae": 32, "widths": [8, 32]},
        {"recipe": "matryoshka", "k": 2, "d_sae": 32, "widths": [[4, 32], [16, 32]]},
    ]
    runs = runs_of(None, shared(world, tmp_path, recipes=recipes, seed=[0, 1]))
    assert len(runs) == 2 * (4 + 1 + 2)
    names = [run.config.out.name for run in runs]
    assert len(set(names)) == len(names)
    assert any(name.startswith("topk_") and "k-4" in name and "d_sae-16" in name and "seed-1" in name for name in names), names
    assert {run.config.out.parent for run in runs} == {tmp_path}


def test_an_sae_of_a_sweep_is_the_one_it_would_have_been_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards = []
    real = BlockStack.prefix
    monkeypatch.setattr(BlockStack, "prefix", lambda self, *a: forwards.append(1) or real(self, *a))
    train("topk", values(world, tmp_path / "alone", k=3, lr=1e-3))
    alone = len(forwards)
    recipes = [{"recipe": "topk", "k": 3, "d_sae": 32, "lr": 1e-3}, {"recipe": "relu-l1", "d_sae": [16, 32]}]
    saes = train(None, shared(world, tmp_path / "sweep", recipes=recipes))
    assert len(saes) == 3
    assert len(forwards) - alone <= alone + 2 * 2 * 8, "one stream for all; only evaluations are the runs' own"
    [folder] = (tmp_path / "sweep").glob("topk*")
    for name, tensor in load_sae(tmp_path / "alone").weights.items():
        assert torch.equal(tensor, getattr(load_sae(folder).weights, name)), name


def test_sites_share_the_forward_and_a_stopped_sweep_goes_on_to_the_same_bytes(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given(out: Path) -> dict[str, Any]:
        recipes = [{"recipe": "topk", "k": 3, "d_sae": 32, "lr": 1e-3}]
        return shared(world, out, recipes=recipes) | {"site": [SITE, "blocks.2.hook_resid_pre"]}

    train(None, given(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_told_to_stop", lambda self, _stop: self.step >= 17)
        with pytest.raises(KeyboardInterrupt):
            train(None, given(tmp_path / "stopped"))
    train(None, given(tmp_path / "stopped"))
    found = sorted(p.parent.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("sae.safetensors"))
    assert len(found) == 2
    for folder in found:
        assert load_sae(tmp_path / "whole" / folder).sha256 == load_sae(tmp_path / "stopped" / folder).sha256
        assert load_sae(tmp_path / "whole" / folder).config.site in str(folder)


def test_one_run_that_breaks_is_named_and_the_others_are_finished(world: Path, tmp_path: Path) -> None:
    recipes = [{"recipe": "relu-l1", "d_sae": 16, "lr": [1e-3, 1e30]}]
    with pytest.raises(IncompleteError, match=r"lr-1e30.*at step \d+"):
        train(None, shared(world, tmp_path, recipes=recipes))
    good, bad = tmp_path / "relu-l1_lr-0.001", tmp_path / "relu-l1_lr-1e30"
    assert load_sae(good).config.d_sae == 16
    assert not (bad / "sae.safetensors").exists()
    assert list(csv.DictReader((good / "metrics.csv").open()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"recipes": []}, "list of mappings"),
        ({"recipes": [{"k": 3}]}, "list of mappings"),
        ({"recipes": [{"recipe": "topkk"}]}, "topk"),
        ({"recipes": [{"recipe": "topk", "kk": 3}]}, "unknown setting 'kk'"),
        ({"recipes": [{"recipe": "topk", "batch_size": 3}]}, "shared by all runs"),
        ({"batch_size": [3, 4], "recipes": [{"recipe": "topk"}]}, "shared by all runs"),
        ({"recipes": [{"recipe": "topk", "k": 3}, {"recipe": "topk", "k": 3}]}, "twice"),
    ],
)
def test_bad_sweeps_are_refused(world: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        runs_of(None, shared(world, tmp_path) | change)


def test_a_sweep_from_the_command_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = shared(world, tmp_path / "out", recipes=[{"recipe": "topk", "k": [2, 3], "d_sae": 16}], tokens=640)
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({k: str(v) if isinstance(v, Path) else v for k, v in told.items()}))
    assert main(["train", "--config", str(file)]) == 0
    said = capsys.readouterr()
    folders = sorted(p.parent for p in (tmp_path / "out").glob("*/sae.safetensors"))
    assert len(folders) == 2
    assert "2 SAEs written" in said.out + said.err
    assert all(f"--sae {folder}" in said.out + said.err for folder in folders), "a command that can be run as it stands"
    assert main(["train", "topk", "--config", str(file)]) == 2
    assert "lists recipes already" in capsys.readouterr().err
    assert main(["train", "--model", "x", "--corpus", "y", "--site", "z", "--out", str(tmp_path / "n")]) == 2
    assert "no recipe given" in capsys.readouterr().err

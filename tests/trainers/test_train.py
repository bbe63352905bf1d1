"""``saebench train`` end to end on a tiny model: output, resume to the bit, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saebench.cli import main
from saebench.errors import IncompleteError, InputError
from saebench.sae import load_sae
from saebench.trainers.loop import Loop
from saebench.trainers.run import train
from tests.trainers.world import values

RECIPES = {
    "topk": {"k": 3, "lr": 1e-3, "ema": 0.9, "dead_after_tokens": 400, "orthogonality": 0.1, "orthogonality_rows": 8},
    "relu-l1": {"dead": "resample", "resample_every": 9, "dead_after_tokens": 192, "l1": 0.3},
    "relu-april": {"ema": 0.9},
    "batchtopk": {"k": 3, "lr": 1e-3, "dead_after_tokens": 400},
    "matryoshka": {"k": 3, "lr": 1e-3},
    "jumprelu": {"penalty": "tanh", "lr": 1e-3},
    "gated": {"lr": 1e-3},
    "panneal": {"dead": "ghost", "dead_after_tokens": 192, "l1": 0.3},
    "stacked": {"lr": 1e-3},
}


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_stopped_at_any_step_and_resumed_gives_the_same_bytes(
    world: Path, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe, values(world, tmp_path / "whole", **RECIPES[recipe]))
    for stop in (3, 16, 39) if recipe in ("topk", "relu-l1") else (23,):
        out = tmp_path / f"stopped-{stop}"
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_told_to_stop", lambda self, _stop, at=stop: self.step == at)
            with pytest.raises(KeyboardInterrupt):
                train(recipe, values(world, out, **RECIPES[recipe]))
        assert (out / "checkpoint.pt").exists()
        train(recipe, values(world, out, **RECIPES[recipe]))
        whole, resumed = (load_file(folder / "sae.safetensors") for folder in (tmp_path / "whole", out))
        for name, tensor in whole.items():
            assert torch.equal(tensor, resumed[name]), (stop, name)
        curves = [_curve(folder) for folder in (tmp_path / "whole", out)]
        assert curves[0] == curves[1]
        assert not (out / "checkpoint.pt").exists()


def _curve(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in rows]


def test_the_folder_is_an_sae_with_the_config_that_made_it(world: Path, tmp_path: Path) -> None:
    words = [
        f"--set={k}={v}"
        for k, v in values(world, tmp_path / "x", k=3, lr=1e-3).items()
        if k not in ("model", "site", "corpus", "out")
    ]
    named = ["--model", str(world / "model"), "--site", "blocks.1.hook_resid_pre", "--corpus", str(world / "tokens.npy")]
    assert main(["train", "topk", *named, "--out", str(tmp_path / "x"), *words]) == 0
    sae = load_sae(tmp_path / "x")
    assert (sae.config.architecture, sae.config.k, sae.config.site) == ("topk", 3, "blocks.1.hook_resid_pre")
    assert sae.config.context_length == 16
    told = json.loads((tmp_path / "x/config.json").read_text())["training"]
    assert told["settings"]["k"] == 3
    assert told["run"]["tokens"] == 64 * 40
    assert told["versions"]["torch"] == torch.__version__
    rows = _curve(tmp_path / "x")
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["lr"]) == 1e-3
    assert float(rows[-1]["held_out_explained_variance"]) > 0
    run = [
        "run",
        "--sae",
        str(tmp_path / "x"),
        "--corpus",
        str(world / "tokens.npy"),
        "--out",
        str(tmp_path / "r"),
        "--device",
        "cpu",
    ]
    assert main(run) == 0


def test_bad_input_is_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--model", str(world / "model"), "--site", "blocks.1.hook_resid_pre", "--corpus", str(world / "tokens.npy")]
    small = ["--set", "context_length=16", "--set", "eval_contexts=8", "--set", "d_sae=32", "--out", str(tmp_path / "o")]
    cases = [
        (["train", "topkk", *named, *small], "topk"),
        (["train", "topk", *named, *small, "--set", "d_saee=3"], "d_sae"),
        (["train", "topk", *named, *small, "--set", "k=33"], "d_sae=32"),
        (["train", "topk", *named, *small, "--set", "k=three"], "k"),
        (["train", "topk", *named, *small, "--set", "k"], "key=value"),
        (["train", "topk", *named, *small, "--set", "tokens=0"], "tokens"),
        (["train", "topk", *named[:4], *small], "--corpus"),
        (["train", "topk", *named, *small, "--set", "eval_contexts=60"], "more text"),
        (["train", "topk", *named, *small, "--config", str(tmp_path / "absent.yaml")], "absent.yaml"),
    ]
    for words, said in cases:
        assert main(words) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in lines[-1], (words, lines)
        assert "Traceback" not in "".join(lines)


def test_a_checkpoint_of_another_run_or_text_is_refused(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_told_to_stop", lambda self, _stop: self.step >= 10)
        with pytest.raises(KeyboardInterrupt):
            train("topk", values(world, tmp_path / "x", k=3))
    with pytest.raises(InputError, match="other settings"):
        train("topk", values(world, tmp_path / "x", k=4))
    tokens = np.load(world / "tokens.npy")
    tokens[3, 5] = 50
    np.save(tmp_path / "tokens.npy", tokens)
    other = values(world, tmp_path / "y", k=3, corpus=str(tmp_path / "tokens.npy"))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_told_to_stop", lambda self, _stop: self.step >= 10)
        with pytest.raises(KeyboardInterrupt):
            train("topk", other)
    tokens[3, 5] = 51
    np.save(tmp_path / "tokens.npy", tokens)
    with pytest.raises(InputError, match="other text"):
        train("topk", other)


def test_a_loss_that_is_not_finite_stops_with_the_step_and_the_checkpoint(world: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"step \d+.*checkpoint"):
        train("relu-l1", values(world, tmp_path / "x", lr=1e30))


def test_a_finished_folder_is_not_trained_over(world: Path, tmp_path: Path) -> None:
    train("topk", values(world, tmp_path / "x", k=3))
    with pytest.raises(InputError, match="finished"):
        train("topk", values(world, tmp_path / "x", k=3))

"""``saebench check`` as people call it: on what ships, on what three libraries wrote, on files of acts, and on nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saebench import api
from saebench.check import CHECKS, Report, check_sae
from saebench.cli import main
from saebench.errors import InputError
from saebench.reference import sae_names
from saebench.sae import load_sae, save_native
from tests.check.cases import SITE, acts, good, jump

SHARED = [
    "saelens-topk", "saelens-relu", "saelens-batchtopk", "dictionary_learning/trainer_0", "dictionary_learning/trainer_1",
    "sparsify/layers.2",
]  # fmt: skip


def said(report: Report) -> str:
    """Return the report after checking that nothing fails and that all but thresholds was tried."""
    assert report.ok, report
    assert {row.check for row in report.of("skipped")} <= {"thresholds"}, report
    return str(report)


@pytest.mark.parametrize("name", sae_names())
def test_what_ships_passes(name: str):
    report = check_sae(f"reference:{name}")
    assert report.ok and not report.of("warn"), report
    assert {row.check for row in report.of("skipped")} - {"thresholds"} == {n for n, one in CHECKS.items() if "acts" in one.needs}


@pytest.mark.parametrize("name", sae_names())
def test_what_ships_passes_on_the_model_that_ships(name: str):
    report = check_sae(f"reference:{name}", model="reference", contexts=4, device="cpu")
    assert not report.of("warn"), said(report)
    assert report.acts == "reference over storyworld"


@pytest.mark.parametrize("name", SHARED)
def test_what_three_libraries_wrote_passes(name: str, shared_dir: Path):
    if not (shared_dir / "saes").is_dir():
        pytest.skip(f"no SAEs in {shared_dir}")
    report = check_sae(
        shared_dir / "saes/stories260K" / name, model=str(shared_dir / "models/stories260K"),
        corpus="roneneldan/TinyStories", data_dir=shared_dir / "data", contexts=4, device="cpu",
    )  # fmt: skip
    assert said(report)
    assert {row.check for row in report.of("warn")} <= {"site"}, report


def test_the_command_prints_a_table_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = save_native(good(), tmp_path / "mine")
    np.save(tmp_path / "acts.npy", acts().numpy())
    assert main(["check", str(folder), "--acts", str(tmp_path / "acts.npy")]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [name for name in CHECKS if name != "oracle"]
    assert lines[0].split() == ["check", "result", "found"]
    assert printed.err.strip().endswith("29 pass, 0 warn, 0 fail, 1 skipped")


def test_without_acts_it_says_what_is_skipped_and_which_model_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(save_native(good(model_id="org/model"), tmp_path / "mine")), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    skipped = {row["check"]: row["found"] for row in data["checks"] if row["status"] == "skipped"}
    assert {"l0", "alive", "explained_variance", "norm_ratio", "input_space"} <= skipped.keys()
    assert "--model" in skipped["l0"] and "org/model" in skipped["l0"] and "--acts" in skipped["l0"]
    assert data["ok"] is True and data["acts"] is None and data["counts"]["skipped"] == len(skipped)
    assert all(row["means"] for row in data["checks"])


def test_a_failure_is_exit_code_1_and_its_meaning_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = save_native(jump(torch.tensor(-1.0)), tmp_path / "mine")
    assert main(["check", str(folder)]) == 1
    assert "thresholds: Thresholds are above 0" in capsys.readouterr().out
    assert main(["check", str(folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_those_that_are_selected_are_checked_one_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save_native(good(), tmp_path / "a/layer_1")
    save_native(jump(torch.tensor(-1.0)), tmp_path / "a/layer_2")
    save_native(good(), tmp_path / "a/other")
    assert main(["check", str(tmp_path / "a"), "--select", "layer_*"]) == 1
    printed = capsys.readouterr()
    assert [line.split()[-1] for line in printed.out.splitlines() if line.startswith(str(tmp_path))] == [
        str(tmp_path / "a/layer_1"), str(tmp_path / "a/layer_2"),
    ]  # fmt: skip
    assert len(printed.err.splitlines()) == 2
    assert main(["check", str(tmp_path / "a"), "--select", "o*", "--json"]) == 0
    assert [row["ok"] for row in json.loads(capsys.readouterr().out)] == [True]
    assert main(["check", str(tmp_path / "a")]) == 2
    assert "3 SAEs" in capsys.readouterr().err


def test_the_model_is_loaded_once_for_all_that_are_selected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    from saebench.lm import model

    loads, load = [], model.load_model
    monkeypatch.setattr(model, "load_model", lambda *args, **options: loads.append(args) or load(*args, **options))
    monkeypatch.setattr(api, "load_model", lambda *_, **__: pytest.fail("loaded again"))
    for name, shipped in (("a", "topk-layer3"), ("b", "relu-l1-layer3")):
        save_native(load_sae(f"reference:{shipped}"), tmp_path / name)
    words = ["check", str(tmp_path), "--select", "*", "--model", "reference", "--limit", "2", "--device", "cpu", "--json"]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["acts"] for row in data] == ["reference over storyworld"] * 2 and loads == [("reference",)]


@pytest.mark.parametrize("words", [["nowhere"], ["reference:nobody"], [".", "--set", "k"], [".", "--acts", "nowhere.npy"]])
def test_what_is_no_sae_is_exit_code_2_and_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    if "--acts" in words:
        save_native(good(), tmp_path)
    assert main(["check", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1


def test_acts_may_be_contexts_and_bring_a_target(tmp_path: Path):
    x = acts(40).view(4, 10, -1)
    save_file({"acts": x, "target": x.clone()}, tmp_path / "acts.safetensors")
    report = check_sae(save_native(good(), tmp_path / "mine"), acts=tmp_path / "acts.safetensors")
    assert "36 tokens (acts.safetensors)" in report["l0"].found, "position 0 of every context is left out"
    assert report.ok, report


@pytest.mark.parametrize("content", [b"", b"no numbers", b"\x93NUMPY\x01\x00v\x00{'descr'"])
def test_damaged_acts_are_named_and_no_pickle_is_recommended(content: bytes, tmp_path: Path):
    (tmp_path / "acts.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"acts\.npy is not a whole \.npy file of numbers; write it with numpy\.save") as refused:
        check_sae(good(), acts=tmp_path / "acts.npy")
    assert "pickle" not in str(refused.value)


def test_the_residual_stream_can_be_told(tmp_path: Path):
    folder = save_native(good(), tmp_path / "mine")
    shifted = acts() + torch.linspace(0, 5, 600)[:, None]
    assert not check_sae(folder, acts=shifted).ok
    assert check_sae(folder, acts=shifted, residual="centred").ok
    told = check_sae(save_native(good(site=None), tmp_path / "other"), site=SITE)
    assert told["site"].status == "pass", told

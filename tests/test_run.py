"""The runner end to end, through the command line, on a tiny model: records, resume, kills, and every kind of bad input."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.cli import main
from saebench.sae import save_native
from saebench.store import find_records, read_record
from tests.lm.families import build
from tests.metrics.conftest import random_sae


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, three SAEs at two sites, and tokens."""
    folder = tmp_path_factory.mktemp("world")
    build("llama", str(folder / "model"))
    for seed, site in enumerate(["blocks.1.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"]):
        save_native(random_sae(seed=seed, site=site), folder / f"sae{seed}")
    tokens = np.random.default_rng(0).integers(4, 90, (12, 20))
    tokens[:, 0] = 1
    np.save(folder / "tokens.npy", tokens)
    return folder


def words(world: Path, out: Path, *more: str, saes: tuple[str, ...] = ("sae0", "sae1", "sae2")) -> list[str]:
    named = [w for name in saes for w in ("--sae", str(world / name))]
    common = ["--model", str(world / "model"), "--corpus", str(world / "tokens.npy"), "--device", "cpu", "--task", "core"]
    return ["run", *named, *common, "--out", str(out), *more]


def scores(out: Path) -> dict[str, object]:
    """Return everything measured, by record, as it stands in the files."""
    kept = ("scores", "series", "raw", "data", "settings")
    return {str(p.relative_to(out)): {k: json.loads(p.read_text())[k] for k in kept} for p in find_records(out)}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was said on standard error, after checking that it is one line and no traceback."""
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1, said
    assert said[0].startswith("saebench: ")
    assert "Traceback" not in said[0]
    return said[0]


def test_a_run_writes_whole_records_with_provenance_and_tables(world: Path, tmp_path: Path) -> None:
    assert main(words(world, tmp_path, "--seed", "0", "--seed", "3", "--limit", "8")) == 0
    paths = find_records(tmp_path)
    assert len(paths) == 6
    record = read_record(paths[0])
    assert record.model.family == "llama"
    assert record.model.sha256
    assert record.environment["versions"]["torch"]
    assert record.data.n_contexts == 8
    assert record.settings["limit"] == 8
    assert "left clean" in record.settings["bos"]
    assert record.settings["residual_used"] == "raw"
    import pyarrow.parquet as pq

    table = pq.read_table(paths[0].with_name(record.tables["latents"].file))
    assert table.num_rows == 40
    assert {"latent", "density", "consistent_activation_heuristic", "max_decoder_cosine"} <= set(table.column_names)
    hashes = {read_record(p).data.sha256 for p in paths}
    assert len(hashes) == 2, "two seeds choose two samples of contexts"


def test_centring_that_would_change_the_model_is_left_out_and_the_record_says_so(world: Path, tmp_path: Path) -> None:
    """Only LayerNorm makes the centred stream the same stream; this model has RMSNorm."""
    assert main(words(world, tmp_path, "--residual", "centred", saes=("sae0",))) == 0
    record = read_record(find_records(tmp_path)[0])
    assert (record.sae.residual, record.settings["residual_used"]) == ("centred", "raw")


def test_finished_work_is_not_done_again_unless_forced(world: Path, tmp_path: Path) -> None:
    assert main(words(world, tmp_path)) == 0
    before = {p: p.stat().st_mtime_ns for p in find_records(tmp_path)}
    assert main(words(world, tmp_path)) == 0
    assert {p: p.stat().st_mtime_ns for p in find_records(tmp_path)} == before
    assert main(words(world, tmp_path, "--force")) == 0
    assert all(p.stat().st_mtime_ns > t for p, t in before.items())


def test_a_record_made_with_other_settings_is_not_taken_for_this_one(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(world, tmp_path, "--limit", "4")) == 0
    capsys.readouterr()
    assert main(words(world, tmp_path)) == 2
    assert "--force" in one_line(capsys)


def test_a_corpus_file_that_has_changed_is_noticed_one_that_has_moved_is_not(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.npy").write_bytes((world / "tokens.npy").read_bytes())
    out = tmp_path / "out"
    assert main(words(world, out, "--corpus", str(tmp_path / "a/t.npy"))) == 0
    before = scores(out)
    assert main(words(world, out, "--corpus", str(tmp_path / "b/t.npy"))) == 0
    tokens = np.load(tmp_path / "b/t.npy")
    tokens[0, 3] = 11
    np.save(tmp_path / "b/t.npy", tokens)
    capsys.readouterr()
    assert main(words(world, out, "--corpus", str(tmp_path / "b/t.npy"))) == 2
    assert "corpus_file_sha256" in one_line(capsys)
    assert scores(out) == before


def test_a_damaged_record_is_run_again(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(world, tmp_path)) == 0
    whole = scores(tmp_path)
    path = find_records(tmp_path)[1]
    path.write_text(path.read_text()[:500])
    assert main(words(world, tmp_path)) == 0
    assert "run again" in capsys.readouterr().err
    assert scores(tmp_path) == whole


def test_an_interrupted_run_completes_to_the_same_bytes(world: Path, tmp_path: Path) -> None:
    assert main(words(world, tmp_path / "whole")) == 0
    assert main(words(world, tmp_path / "parts", saes=("sae1",))) == 0
    assert main(words(world, tmp_path / "parts")) == 0
    assert json.dumps(scores(tmp_path / "parts")) == json.dumps(scores(tmp_path / "whole"))


@pytest.mark.parametrize("stop", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed_at_any_moment_only_whole_records_remain(world: Path, tmp_path: Path, stop: signal.Signals) -> None:
    assert main(words(world, tmp_path / "whole")) == 0
    out = tmp_path / "killed"
    for wait_for in (0, 1):  # once somewhere before the first record, once right after it
        process = subprocess.Popen(
            [sys.executable, "-m", "saebench", *words(world, out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if out.exists() and len(list(out.rglob("seed*.json"))) >= wait_for and (wait_for or list(out.rglob("*"))):
                break
            time.sleep(0.002)
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said
        if stop == signal.SIGINT and process.returncode:
            assert process.returncode == 130
        for path in find_records(out) if out.exists() else []:
            read_record(path)
    assert main(words(world, out)) == 0
    assert scores(out) == scores(tmp_path / "whole")


def test_an_sae_is_warned_of_once_and_not_for_every_seed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--site", "blocks.1.hook_resid_post", "--seed", "0", "--seed", "1", "--dry-run", "--json")
    assert main(words(world, tmp_path / "out", *more, saes=("sae0", "sae1"))) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == 4
    assert [line.split(":")[0] for line in err.splitlines() if "overridden by blocks.1.hook_resid_post" in line] == [
        "sae0",
        "sae1",
    ]


def test_dry_run_computes_and_writes_nothing(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(world, tmp_path / "out", "--dry-run", "--json")) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["to do"] * 3
    assert not (tmp_path / "out").exists()


def test_report_json_has_the_agreed_shape(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(world, tmp_path)) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3
    for row in rows:
        assert {"sae", "format", "architecture", "model", "site", "task", "seed", "scores", "series"} <= set(row)
        assert {"value", "stderr", "n"} <= set(row["scores"]["explained_variance"])
        assert len(row["series"]["delta_ce_by_position"]["value"]) == 20


# ---- bad input: one line, the right code, nothing lost


def test_input_that_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row: what replaces what on the command line, and what the line must say."""
    (tmp_path / "empty.txt").write_text("  \n")
    (tmp_path / "nothing").mkdir()
    model, tokens, sae = str(world / "model"), str(world / "tokens.npy"), str(world / "sae0")
    cases = [
        (["--sae", "/no/such"], ["no such file"]),
        (["--sae", str(tmp_path / "nothing")], ["is no SAE of a known format", ".safetensors", ".npz", "folder below it"]),
        (["--model", "/no/such"], ["no model at"]),
        (["--model", str(tmp_path / "nothing")], ["config.json"]),
        (["--site", "blocks.1.hook_resid_pree"], ["hook_resid_pre"]),
        (["--site", "blocks.7.hook_resid_pre"], ["blocks are 0 to 2"]),
        (["--site", "blocks.1.mlp.hook_post"], ["24", "40"]),
        (["--corpus", str(tmp_path / "empty.txt")], ["empty"]),
        (["--corpus", str(tmp_path / "absent.npy")], ["absent.npy"]),
        (["--context-length", "65"], ["65", "64"]),
        (["--corpus", __file__, "--context-length", "65"], ["65", "64"]),
        (["--task", "cores"], ["core"]),
        (["--device", "gpu9"], ["device"]),
        (["--dtype", "float12"], ["dtype"]),
        (["--limit", "0"], ["limit"]),
        (["--format", "sparsfy"], ["sparsify"]),
        (["--out", "/proc/nothing"], ["--out"]),
    ]
    base = {
        "--sae": sae,
        "--model": model,
        "--corpus": tokens,
        "--task": "core",
        "--out": str(tmp_path / "out"),
        "--device": "cpu",
    }
    for changed, expected in cases:
        options = base | dict(zip(changed[::2], changed[1::2], strict=True))
        assert main(["run", *[w for pair in options.items() for w in pair]]) == 2, changed
        said = capsys.readouterr().err.strip().splitlines()
        assert "Traceback" not in "".join(said)
        assert len([s for s in said if s.startswith("saebench: ")]) >= 1
        for text in expected:
            assert text in said[-1], (changed, said)
    assert not list(tmp_path.rglob("seed*.json"))


def copy_sae(world: Path, to: Path) -> Path:
    to.mkdir()
    for name in ("config.json", "sae.safetensors"):
        (to / name).write_bytes((world / "sae0" / name).read_bytes())
    return to


def test_nan_weights_are_named(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_sae(world, tmp_path / "nan")
    tensors = load_file(folder / "sae.safetensors")
    tensors["W_dec"][3, 2] = float("nan")
    save_file(tensors, folder / "sae.safetensors")
    assert main(words(tmp_path, tmp_path / "out", "--model", str(world / "model"), saes=("nan",))) == 2
    assert "W_dec" in one_line(capsys)


def test_truncated_and_corrupt_files(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {name: (world / "sae0" / name).read_bytes() for name in ("config.json", "sae.safetensors")}
    folder = copy_sae(world, tmp_path / "cut")
    for name, data in whole.items():
        for sixteenth in range(16):
            (folder / name).write_bytes(data[: len(data) * sixteenth // 16])
            assert main(["inspect", str(folder)]) == 2
            one_line(capsys)
        (folder / name).write_bytes(data)
    assert main(["inspect", str(folder)]) == 0


def test_a_pickle_with_foreign_classes_is_refused_unexecuted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/executed",)

    torch.save({"encoder.weight": Bomb()}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}}')
    assert main(["inspect", str(tmp_path)]) == 2
    assert "system" in one_line(capsys)
    assert not (tmp_path / "executed").exists()


def test_full_disk_loses_nothing_that_was_finished(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(words(world, tmp_path, saes=("sae0",))) == 0
    before = scores(tmp_path)
    real = os.fsync
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:  # the test write at the start still fits
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert main(words(world, tmp_path)) == 3
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert "No space left" in said
    assert "Traceback" not in said
    assert scores(tmp_path) == before
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]
    assert main(words(world, tmp_path)) == 0
    assert len(find_records(tmp_path)) == 3


def test_passes_are_split_to_fit_and_the_scores_stay(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(words(world, tmp_path / "whole")) == 0
    monkeypatch.setattr("saebench.run._sae_budget", lambda _device: 1)
    assert main(words(world, tmp_path / "split")) == 0
    assert scores(tmp_path / "split") == scores(tmp_path / "whole")
    in_pass = [read_record(p).timing["saes_in_pass"] for p in find_records(tmp_path / "split")]
    assert in_pass == [1.0, 1.0, 1.0]


def test_one_record_that_cannot_be_written_does_not_lose_its_neighbours(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from saebench import writing

    real, calls = writing.write_record, []

    def write(path: Path, record: object) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise OSError("the disk said no")
        real(path, record)

    monkeypatch.setattr(writing, "write_record", write)
    assert main(words(world, tmp_path)) == 3
    assert "the disk said no" in capsys.readouterr().err
    assert len(find_records(tmp_path)) == 2


def test_one_failing_site_does_not_take_the_other_down(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from saebench.stream import Pass

    real = Pass.run

    def run(self: Pass, *args: object) -> object:
        if self.port.read.name == "blocks.1.hook_resid_pre":
            raise MemoryError("out of memory")
        return real(self, *args)

    monkeypatch.setattr(Pass, "run", run)
    assert main(words(world, tmp_path)) == 3
    said = capsys.readouterr().err
    assert said.count("out of memory") == 2
    assert len(find_records(tmp_path)) == 1
    monkeypatch.undo()
    assert main(words(world, tmp_path)) == 0
    assert len(find_records(tmp_path)) == 3

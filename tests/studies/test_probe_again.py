"""Probes that lacked data are run again once they are there, and not before; what a record says of where its texts are from."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saebench.cli import main
from saebench.sae import save_native
from saebench.store import find_records, read_record
from tests.data.words import write_jsonl
from tests.lm.families import build
from tests.metrics.conftest import random_sae
from tests.studies.cloze_cases import words
from tests.studies.test_probe_examples import task

TASK = (
    "{{name: mine, version: 1, description: d, study: probes, settings: {{bootstrap: 4, tasks: [{}]}}, citation: c, licence: l}}"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setenv("SAEBENCH_CACHE", "off")
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("again") / "gpt2"
    build("gpt2", str(folder))
    return str(folder)


def rows(shift: int, n: int = 60) -> list[dict[str, object]]:
    return [{"text": words(4 + (i * 7 + shift) % 90, 4 + (i * 3 + shift) % 80, 5 + i), "kind": i % 2} for i in range(n)]


def command(folder: Path, model: str, *probes: str, saes: int = 1) -> list[str]:
    """The words of a run of these probe tasks, on data under ``folder/mirror``."""
    (folder / "mirror").mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(TASK.format(", ".join(probes)))
    out = ["run", "--task", str(folder / "mine.yaml"), "--model", model, "--device", "cpu", "--out", str(folder / "out")]
    for number in range(saes):
        save_native(random_sae(seed=number), folder / f"sae{number}")
        out += ["--sae", str(folder / f"sae{number}")]
    return [*out, "--data-dir", str(folder / "mirror")]


def give(folder: Path, data: str, some: list[dict[str, object]]) -> None:
    write_jsonl(folder / "mirror/o" / data / "default/train.jsonl", some)


def test_it_is_run_again_once_what_was_missing_is_there(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]):
    asked = command(tmp_path, model, task(tmp_path, "a", "a"), task(tmp_path, "b", "b"), task(tmp_path, "c", "c"), saes=2)
    give(tmp_path, "a", rows(0))
    assert main(asked) == 3
    said = capsys.readouterr().err
    assert "mine: mine/b: cannot get the data set o/b" in said and "mine: mine/c: cannot get the data set o/c" in said
    before = {path: path.read_bytes() for path in find_records(tmp_path / "out")}
    assert len(before) == 2
    assert main(asked) == 3  # still not there: the records stay, and what is missing is said again, once
    said = capsys.readouterr().err
    assert said.count("mine/b: cannot get the data set o/b") == 1 and said.count("mine/c: cannot get") == 1
    assert {path: path.read_bytes() for path in find_records(tmp_path / "out")} == before
    give(tmp_path, "c", rows(5))
    assert main(asked) == 3
    assert "is without mine/c, which can be had now; it is run again" in capsys.readouterr().err
    for path in before:
        record = read_record(path)
        assert record.score("probe_loss").n == 2 and record.raw["probe_tasks_missing"] == 1
        assert set(pq.read_table(path.with_name("seed0.tasks.parquet")).column("task").to_pylist()) == {"mine/a", "mine/c"}
    give(tmp_path, "b", rows(9))
    assert main(asked) == 0
    whole = {path: path.read_bytes() for path in find_records(tmp_path / "out")}
    assert main(asked) == 0 and "is without" not in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.read_bytes() for path in find_records(tmp_path / "out")} == whole


def test_data_that_are_there_and_of_no_use_do_not_start_it_again(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]):
    asked = command(tmp_path, model, task(tmp_path, "a", "a"), task(tmp_path, "b", "b"))
    give(tmp_path, "a", rows(0))
    give(tmp_path, "b", [row | {"kind": 1} for row in rows(0)])
    assert main(asked) == 3
    [path] = find_records(tmp_path / "out")
    before = os.stat(path).st_mtime_ns
    assert main(asked) == 3 and os.stat(path).st_mtime_ns == before
    assert "all 60 texts are of the positive class" in capsys.readouterr().err


def test_texts_left_out_of_many_tasks_are_one_line(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]):
    twice = [*rows(0), *rows(0)[:3], rows(0)[3] | {"kind": 0}]
    for data in "ab":
        give(tmp_path, data, twice)
    give(tmp_path, "c", rows(5))
    assert main(command(tmp_path, model, *(task(tmp_path, name, name) for name in "abc"))) == 0
    said = capsys.readouterr().err
    assert "2 of 3 probe tasks have texts twice, which count once, or with both labels, which are left out" in said
    assert "stand there twice" not in said
    [path] = find_records(tmp_path / "out")
    table = pq.read_table(path.with_name("seed0.tasks.parquet")).to_pylist()
    notes = {row["task"]: row["notes"] for row in table}
    assert notes["mine/a"].startswith("mine/a: 4 of 64 texts stand there twice or more; counted once; mine/a: 1 texts have both")
    assert notes["mine/c"] == ""
    assert main([*command(tmp_path, model, task(tmp_path, "a", "a")), "--force"]) == 0
    assert "mine/a: 4 of 64 texts stand there twice or more" in capsys.readouterr().err


COMMITS = {"main": "1" * 40, "refs/convert/parquet": "2" * 40}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files of data sets as the hub lays them out, one folder a commit; only these commits can be read."""
    root = tmp_path / "hub"
    real = datasets.load_dataset

    def info(_: object, id: str, *, revision: str | None = None, timeout: float | None = None) -> SimpleNamespace:
        return SimpleNamespace(sha=COMMITS[revision or "main"])

    def load(id: str, *names: object, revision: str, **how: object) -> object:
        return real(str(root / id / revision), *names, **how)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", info)
    monkeypatch.setattr("datasets.load_dataset", load)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for number, (id, commit, file) in enumerate(
        (("o/plain", "1", "data/train-00000-of-00001.parquet"), ("o/script", "2", "default/train/0000.parquet"))
    ):
        path = root / id / (commit * 40) / file
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows(number)), path)
    return root


def test_the_record_keeps_the_commit_that_was_read(tmp_path: Path, model: str, hub: Path):
    assert hub.is_dir()
    plain = task(tmp_path, "plain", "plain")
    script = task(tmp_path, "script", sources="[{hub: o/script, split: train, revision: refs/convert/parquet}]")
    give(tmp_path, "mirrored", rows(3))
    assert main(command(tmp_path, model, plain, script, task(tmp_path, "mirrored", "mirrored"))) == 0
    [path] = find_records(tmp_path / "out")
    assert read_record(path).data.revision == f"hub:o/plain@{'1' * 40}, hub:o/script@{'2' * 40}"
    found = {
        row["task"]: (row["origin"], row["revision"]) for row in pq.read_table(path.with_name("seed0.tasks.parquet")).to_pylist()
    }
    assert found == {
        "mine/plain": ("hub:o/plain", "1" * 40),
        "mine/script": ("hub:o/script", "2" * 40),
        "mine/mirrored": ("mirror:o/mirrored/default/train.jsonl", None),
    }

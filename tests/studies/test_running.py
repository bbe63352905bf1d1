"""Studies through the command line: planned, written, resumed, refused and reported like everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from saebench.cli import main
from saebench.registry import STUDIES
from saebench.sae import save_native
from saebench.store import find_records, read_record
from saebench.studies.base import AnyStudy
from saebench.studies.cloze import Cloze
from tests.lm.families import build
from tests.metrics.conftest import random_sae

TASK = """
name: gaps
version: 1
description: d
study: cloze
settings: {examples: storyworld_lambada, answer: last_word, n: 4, ngram_words: 0}
citation: none
licence: MIT
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    build("gpt2", str(folder / "model"))
    for seed in range(2):
        save_native(random_sae(seed=seed), folder / f"sae{seed}")
    return folder


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "gaps.yaml").write_text(TASK)
    return tmp_path / "gaps.yaml"


def words(world: Path, out: Path, *tasks: Path | str, more: tuple[str, ...] = ()) -> list[str]:
    named = [w for task in tasks for w in ("--task", str(task))]
    saes = [w for i in range(2) for w in ("--sae", str(world / f"sae{i}"))]
    return ["run", *saes, *named, "--model", str(world / "model"), "--device", "cpu", "--out", str(out), *more]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("saebench: "), said
    return said[0]


def test_a_study_leaves_records_and_tables_and_is_done_once(world: Path, task: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(words(world, out, task, more=("--seed", "0", "--seed", "1"))) == 0
    paths = find_records(out)
    assert len(paths) == 4
    record = read_record(paths[0])
    assert record.settings["study"] == f"cloze@{Cloze.version}"
    told = {key: record.settings["settings"][key] for key in ("examples", "answer", "n", "ngram_words")}
    assert told == {"examples": "storyworld_lambada", "answer": "last_word", "n": 4, "ngram_words": 0}
    assert (record.data.corpus, record.data.n_contexts) == ("storyworld:lambada", 4)
    table = record.tables["examples"]
    rows = pq.read_table(paths[0].with_name(table.file))
    assert rows.num_rows == table.rows == 4 and {"lnp_clean", "lnp_spliced", "right_clean"} <= set(rows.column_names)
    assert len({read_record(p).data.sha256 for p in paths}) == 2, "two seeds choose two sets of examples"
    before = {p: p.stat().st_mtime_ns for p in paths}
    assert main(words(world, out, task, more=("--seed", "0", "--seed", "1"))) == 0
    assert {p: p.stat().st_mtime_ns for p in find_records(out)} == before
    paths[0].with_name(table.file).unlink()
    assert main(words(world, out, task, more=("--seed", "0", "--seed", "1"))) == 0
    assert [p for p in paths if p.stat().st_mtime_ns != before[p]] == paths[:1]


@pytest.mark.parametrize(
    ("changed", "limit", "named"),
    [
        (TASK.replace("n: 4", "n: 3"), (), "made with settings n=4, now it is n=3;"),
        (TASK, ("--limit", "2"), "limit="),
        (TASK, ("--splice-bos",), "splice_bos="),
    ],
)
def test_a_record_of_other_settings_does_not_count(
    world: Path, task: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: str, limit: tuple[str, ...], named: str
) -> None:
    assert main(words(world, tmp_path / "out", task)) == 0
    task.write_text(changed)
    capsys.readouterr()
    assert main(words(world, tmp_path / "out", task, more=limit)) == 2
    assert named in (said := one_line(capsys)) and "--force" in said


def test_a_newer_study_does_not_take_the_old_ones_record(world: Path, task: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert main(words(world, tmp_path / "out", task)) == 0
    monkeypatch.setattr(Cloze, "version", 7)
    capsys.readouterr()
    assert main(words(world, tmp_path / "out", task)) == 2
    assert "study=cloze@2, now it is cloze@7" in one_line(capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK.replace("study: cloze", "study: clozed"), "unknown study 'clozed'. Did you mean 'cloze'?"),
        (TASK.replace("ngram_words", "ngram_word"), "unknown key 'ngram_word'. Did you mean 'ngram_words'?"),
        (TASK.replace("last_word", "lastword"), "task 'gaps', settings: answer: Input should be 'last_word', 'candidates' or"),
        (TASK.replace("n: 4", "n: 1"), "task 'gaps', settings: n: Input should be greater than or equal to 2"),
        (TASK.replace("study:", "studdy:"), "unknown key 'studdy'. Did you mean 'study'?"),
        (TASK + "setting: {}\n", "unknown key 'setting'. Did you mean 'settings'"),
        (TASK + "metrics: [sparsity]\n", "either a study or metrics over a corpus; leave out 'metrics' or 'study'"),
    ],
)
def test_a_mistake_in_a_task_file_is_one_line_and_nothing_starts(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "gaps.yaml").write_text(text)
    assert main(words(world, tmp_path / "out", tmp_path / "gaps.yaml")) == 2
    assert message in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--corpus", "--context-length"])
def test_options_that_nothing_would_heed_are_refused(world: Path, task: Path, tmp_path: Path, capsys, option: str) -> None:
    assert main(words(world, tmp_path / "out", task, more=(option, "16"))) == 2
    assert f"{option} does not apply to gaps" in one_line(capsys)


def test_what_fails_is_named_and_the_rest_goes_on(world: Path, task: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def fails(self: Any, saes: Any) -> Any:
        raise RuntimeError("the texts are gone")

    streaming = tmp_path / "stream.yaml"
    streaming.write_text(
        "name: stream\nversion: 1\ndescription: d\nmetrics: [sparsity]\ncitation: c\nlicence: l\n"
        "corpus: {source: storyworld, n_contexts: 2, context_length: 16}\n"
    )
    monkeypatch.setattr(Cloze, "run", fails)
    assert main(words(world, tmp_path / "out", task, streaming)) == 3
    assert {read_record(p).task.name for p in find_records(tmp_path / "out")} == {"stream"}
    said = capsys.readouterr().err
    assert said.count("× gaps × seed 0: RuntimeError: the texts are gone") == 2
    monkeypatch.undo()
    assert main(words(world, tmp_path / "out", task, streaming)) == 0
    assert len(find_records(tmp_path / "out")) == 4


def test_fewer_examples_than_asked_for_are_said(world: Path, task: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out", task, more=("--limit", "9"))) == 0
    assert "gaps gives only 4 examples of the 9 that --limit asks for" in capsys.readouterr().err


def test_the_plan_is_shown_without_running(world: Path, task: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out", task, more=("--dry-run", "--json"))) == 0
    assert {row["task"] for row in json.loads(capsys.readouterr().out)} == {"gaps@1"}


def test_studies_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "studies", "--json"]) == 0
    rows = {row["study"]: row for row in json.loads(capsys.readouterr().out)}
    assert "acc_spliced" in rows["cloze"]["scores"]
    for study, cls in STUDIES.items():
        assert issubclass(cls, AnyStudy) and cls.name == study
        names = [spec.name for spec in cls.specs]
        assert len(set(names)) == len(names) > 0
    assert main(["show", "study", "cloze"]) == 0
    text = capsys.readouterr().out
    for part in ("cloze, version 2", "settings:", "ngram_words: 500000 unless", "acc_delta", "McNemar 1947"):
        assert part in text
    assert main(["show", "metric", "acc_spliced"]) == 0
    assert capsys.readouterr().out.startswith("cloze, version 2")
    assert main(["show", "study", "cloz"]) == 2
    assert "unknown study 'cloz'. Did you mean 'cloze'?" in one_line(capsys)
    assert main(["show", "task", "storyworld_cbt"]) == 0
    assert "study: cloze" in capsys.readouterr().out
    assert main(["list", "tasks"]) == 0
    assert "storyworld_cbt" in capsys.readouterr().out

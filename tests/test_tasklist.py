from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, model_validator

from saebench.errors import InputError
from saebench.studies.settings import study_of
from saebench.tasklist import (
    StreamTask,
    StudyTask,
    all_suites,
    all_tasks,
    load_suite,
    load_task,
    read_suites,
    read_tasks,
    validate,
)

_TASK = """
name: t
version: 1
description: d
metrics: [m]
corpus: {source: a/b, n_contexts: 2}
citation: c
licence: l
"""


def test_what_ships_is_valid_and_consistent():
    tasks = all_tasks()
    for suite in all_suites().values():
        assert set(suite.tasks) <= set(tasks)
    assert load_task("core").version == 1
    assert load_suite("quick").limit == 16
    assert load_suite("full").limit is None


def test_a_file_is_all_it_takes(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(_TASK)
    assert list(read_tasks(tmp_path)) == ["t"]
    assert read_tasks(tmp_path)["t"].corpus.split == "train"


def test_the_key_study_makes_a_study(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(_TASK)
    head = "name: s\nversion: 1\ndescription: d\ncitation: c\nlicence: l\n"
    (tmp_path / "s.yaml").write_text(head + "study: x\nsettings: {a: 1}\n")
    found = read_tasks(tmp_path)
    assert isinstance(found["t"], StreamTask) and isinstance(found["s"], StudyTask)
    assert found["s"].settings == {"a": 1}
    for task in all_tasks().values():
        if isinstance(task, StudyTask):
            study_of(task)  # raises for what the study does not take


def test_what_any_model_is_scored_on_is_not_made_up_text():
    for name in ("quick", "standard", "full"):
        assert load_suite(name).tasks == ("core",)
    assert load_suite("storyworld").tasks == load_suite("storyworld-quick").tasks


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_TASK + "metricks: [m]\n", r"t\.yaml: unknown key 'metricks'\. Did you mean 'metrics'\?"),
        (_TASK.replace("source", "sorce"), r"corpus\.(source|sorce)"),
        (_TASK.replace("version: 1", "version: 0"), r"version: Input should be greater"),
        (_TASK.replace("licence: l", ""), r"licence: Field required"),
        (_TASK + "version: 2\n", "'version' is given twice"),
        ("- a\n", "must hold key: value pairs"),
        ("a: [\n", r"t\.yaml cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_tasks(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_wrong_as_a_whole_names_no_key():
    class Pair(BaseModel):
        low: int
        high: int

        @model_validator(mode="after")
        def _ordered(self) -> Pair:
            raise ValueError("high lies below low")

    with pytest.raises(InputError) as caught:
        validate(Pair, {"low": 2, "high": 1}, "task 'mine', settings")
    assert str(caught.value) == "task 'mine', settings: high lies below low"


def test_two_files_cannot_define_one_task(tmp_path: Path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(_TASK)
    with pytest.raises(InputError, match=r"a\.yaml and b\.yaml both define task 't'"):
        read_tasks(tmp_path)


def test_a_suite_with_an_unknown_key(tmp_path: Path):
    (tmp_path / "suites.yaml").write_text("quick: {description: d, tasks: [t], limits: 3}\n")
    with pytest.raises(InputError, match=r"suites\.yaml, quick: unknown key 'limits'\. Did you mean 'limit'\?"):
        read_suites(tmp_path)


def test_unknown_names():
    with pytest.raises(InputError, match=r"unknown task 'cores'\. Did you mean 'core'"):
        load_task("cores")
    with pytest.raises(InputError, match=r"unknown suite 'quik'\. Did you mean 'quick'"):
        load_suite("quik")

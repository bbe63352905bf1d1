from __future__ import annotations

from collections import Counter
from importlib import resources
from pathlib import Path

import pytest

from saebench.errors import InputError
from saebench.probelist import MARKS, all_probe_tasks, probe_task, probe_tasks, read_probe_tasks

TASK = """\
name: mine/t
version: 1
description: d
sources: [{hub: o/d}]
label: kind == 1
classes: [a, b]
n_train: 10
n_test: 10
licence: MIT
citation: none
"""


def test_the_61_are_61_one_file_each():
    tasks = {name: task for name, task in all_probe_tasks().items() if name.startswith("gao61/")}
    numbers = [task.gao61.number for task in tasks.values() if task.gao61 is not None]
    assert sorted(numbers) == list(range(1, 62))
    folder = resources.files("saebench.tasks") / "probes"
    assert all((folder / f"{name.removeprefix('gao61/')}.yaml").is_file() for name in tasks)
    marks = Counter(task.gao61.mark for task in tasks.values() if task.gao61 is not None)
    # reference: three rows that name Gao et al.; the languages, the four news classes and base64 from memory; GPT-2 nearby
    assert marks == {"noted": 3, "placed": 43, "adjacent": 1, "remembered": 14}
    assert set(marks) <= set(MARKS)


def test_the_groups_have_the_sizes_of_the_table():
    names = [name.removeprefix("gao61/") for name in all_probe_tasks() if name.startswith("gao61/")]
    by_kind = Counter(name.split("_")[0] for name in names)
    assert (by_kind["wikidata"], by_kind["phrase"], by_kind["europarl"], by_kind["ag"]) == (9, 21, 9, 4)


def test_the_other_suites():
    suites = Counter(name.split("/")[0] for name in all_probe_tasks())
    assert suites["sae-probes"] == 113 and suites["storyworld"] >= 24 and suites["flores"] == 9
    assert all(task.split == "sae-probes" for name, task in all_probe_tasks().items() if name.startswith("sae-probes/"))


def test_every_task_can_be_cited_and_stand_ins_exist():
    for name, task in all_probe_tasks().items():
        assert task.citation.lstrip().startswith(("@", "none")), name
        assert task.stand_in is None or task.stand_in in all_probe_tasks(), name
        assert "<each>" not in task.model_dump_json(), name


def test_names_patterns_and_order():
    assert [task.name for task in probe_tasks(["gao61/sciq", "gao61/sc*", "storyworld/tense"])] == [
        "gao61/sciq",
        "storyworld/tense",
    ]
    assert len(probe_tasks(["gao61/phrase_*"])) == 21
    with pytest.raises(InputError, match=r"unknown probe task 'gao61/sciqq'\. Did you mean 'gao61/sciq'"):
        probe_tasks(["gao61/sciqq"])
    with pytest.raises(InputError, match=r"There are: .*gao61/\*.*sae-probes/\*"):
        probe_tasks(["nosuch/*"])
    with pytest.raises(InputError, match="no probe tasks are named"):
        probe_tasks([])
    with pytest.raises(InputError, match="is 4 probe tasks"):
        probe_task("gao61/ag_news_*")


def test_a_file_of_ones_own(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(TASK)
    assert probe_task(str(tmp_path / "t.yaml")).name == "mine/t"
    (tmp_path / "u.yaml").write_text(TASK.replace("mine/t", "gao61/sciq"))
    with pytest.raises(InputError, match=r"'gao61/sciq' comes with saebench; give yours another name"):
        probe_tasks([str(tmp_path / "u.yaml")])
    (tmp_path / "v.yaml").write_text(TASK.replace("description: d", "description: e"))
    with pytest.raises(InputError, match="two probe tasks are called 'mine/t'"):
        probe_tasks([str(tmp_path / "t.yaml"), str(tmp_path / "v.yaml")])
    with pytest.raises(InputError, match=r"w\.yaml cannot be read"):
        probe_tasks([str(tmp_path / "w.yaml")])


def test_two_files_cannot_define_one_task(tmp_path: Path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(TASK)
    with pytest.raises(InputError, match=r"a\.yaml and b\.yaml both define probe task 'mine/t'"):
        read_probe_tasks(tmp_path)


def test_one_file_can_define_many(tmp_path: Path):
    many = TASK.replace("mine/t", "mine/<each>").replace("kind == 1", "kind == '<each>'") + "each: [x, y]\n"
    (tmp_path / "a.yaml").write_text(many)
    found = read_probe_tasks(tmp_path)
    assert list(found) == ["mine/x", "mine/y"] and found["mine/y"].label == "kind == 'y'"
    (tmp_path / "a.yaml").write_text(many.replace("[x, y]", "[x, x]"))
    with pytest.raises(InputError, match=r"both define probe task 'mine/x'"):
        read_probe_tasks(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK + "lable: x\n", r"t\.yaml: unknown key 'lable'\. Did you mean 'label'"),
        (TASK.replace("hub: o/d", "hub: o/d, spilt: x"), r"unknown key 'sources\.0\.spilt'\. Did you mean 'split'"),
        (TASK.replace("hub: o/d", "split: train"), r"exactly one of hub, sae_probes and recipe; it has none"),
        (TASK.replace("hub: o/d", "hub: o/d, recipe: r"), r"it has hub and recipe"),
        (TASK.replace("hub: o/d", "recipe: r, config: c"), r"config is for a hub data set"),
        (TASK.replace("hub: o/d", "hub: o/d, options: {a: 1}"), r"options are for a recipe"),
        (TASK.replace("label: kind == 1\n", ""), r"either label, or both positive and negative"),
        (TASK + "positive: '[a]'\n", r"either label, or both positive and negative"),
        (TASK.replace("kind == 1", "kind =="), r"label: .*does not parse"),
        (TASK.replace("kind == 1", "'{{ kind }}'"), r"label: .*leave out the braces"),
        (TASK + "text: '{{ a'\n", r"text: .*does not parse"),
        (TASK.replace("mine/t", "t"), r"'t' is not <suite>/<task>"),
        (TASK.replace("mine/t", "../t"), r"is not <suite>/<task>"),
        (TASK.replace("licence: MIT\n", ""), r"licence: Field required"),
        (TASK + "each: [x]\n", r"the name must have <each> in it"),
        (TASK + "each: []\n", r"each: must be a list of words"),
        (TASK + "version: 2\n", r"'version' is given twice"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, text: str, message: str):
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_probe_tasks(tmp_path)
    assert "\n" not in str(caught.value) and "t.yaml" in str(caught.value)

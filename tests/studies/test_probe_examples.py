from __future__ import annotations

import numpy as np
import pytest

from saebench.errors import InputError
from saebench.studies.probes.examples import MissingProbe, ProbeExamples, load_examples
from tests.data.words import write_jsonl

HEAD = """\
name: mine/{name}
version: 1
description: d
sources: [{{hub: o/{data}, split: train}}]
label: kind == 1
classes: ['no', 'yes']
n_train: 10
n_test: 10
licence: MIT
citation: none
"""


def task(folder, name="t", data="d", *, more="", **changes):
    text = HEAD.format(name=name, data=data) + more
    for key, value in changes.items():
        lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
        text = "\n".join([*lines, *([] if value is None else [f"{key}: {value}"])]) + "\n"
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return str(file)


def one(patterns, **how):
    (found,) = load_examples([patterns] if isinstance(patterns, str) else patterns, **how)
    return found


def missing(*args, **how) -> str:
    found = one(*args, **how)
    assert isinstance(found, MissingProbe)
    assert "\n" not in found.reason and found.reason.startswith(f"{found.name}: ")
    return found.reason


def check(found: ProbeExamples) -> None:
    """Counts, balance, no text twice, none empty."""
    assert isinstance(found, ProbeExamples), found
    assert len(set(found.texts)) == len(found.texts) and all(text.strip() for text in found.texts)
    for split in (found.is_train, ~found.is_train):
        assert 2 * found.labels[split].sum() == split.sum() > 0


def test_storyworld_needs_no_data_and_gives_both_splits():
    found = one("storyworld/tense", limit=40)
    check(found)
    assert (len(found), found.is_train.sum()) == (40, 20)
    again = one("storyworld/tense", limit=40)
    assert again.sha256() == found.sha256() and again.texts == found.texts
    assert one("storyworld/tense", limit=40, seed=1).sha256() != found.sha256()
    assert found.origin == "generated:storyworld/tense"


def test_rows_of_a_mirror_become_balanced_examples(tmp_path):
    write_jsonl(tmp_path / "o/d/default/train.jsonl", [{"text": f"t{i}", "kind": int(i % 3 == 0)} for i in range(90)])
    found = one(task(tmp_path), data_dir=tmp_path)
    check(found)
    assert len(found) == 20 and found.name == "mine/t" and found.origin == "mirror:o/d/default/train.jsonl"
    assert all((int(text[1:]) % 3 == 0) == label for text, label in zip(found.texts, found.labels, strict=True))
    assert np.array_equal(found.is_train, np.arange(20) < 10)


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    write_jsonl(tmp_path / "o/d/default/train.jsonl", [{"text": f"t{i}", "kind": i % 2} for i in range(90)])
    files = [task(tmp_path, "gone", "gone", more="get: write to them\nstand_in: mine/t\n"), task(tmp_path)]
    gone, there = load_examples(files, data_dir=tmp_path)
    assert isinstance(there, ProbeExamples) and isinstance(gone, MissingProbe)
    assert "no network" in gone.reason and "write to them" in gone.reason and "mine/t" in gone.reason
    with pytest.raises(InputError, match=r"unknown probe task 'storyworld/tens'\. Did you mean 'storyworld/tense'"):
        load_examples(["storyworld/tens"])


def test_candidates_make_two_classes_and_stay_in_one_split(tmp_path):
    rows = [{"q": f"q{i}", "right": f"r{i}", "wrong": [f"w{i}", f"v{i}"]} for i in range(60)]
    write_jsonl(tmp_path / "o/d/default/train.jsonl", rows)
    file = task(
        tmp_path, label=None, positive="'[right]'", negative="wrong", text="'{{ q }}: {{ answer }}'", n_train=40, n_test=40
    )
    found = one(file, data_dir=tmp_path)
    check(found)
    assert all((": r" in text) == label for text, label in zip(found.texts, found.labels, strict=True))
    questions = [{text.split(":")[0] for text in np.array(found.texts)[split]} for split in (found.is_train, ~found.is_train)]
    assert not questions[0] & questions[1] and len(questions[0]) > 10


def test_rows_that_come_split_stay_so_and_groups_stay_together(tmp_path):
    rows = [{"text": f"t{i}", "kind": i % 2, "part": "dev" if i < 12 else "train", "passage": i // 10} for i in range(60)]
    write_jsonl(tmp_path / "o/d/default/train.jsonl", rows)
    found = one(task(tmp_path, train="part == 'train'"), data_dir=tmp_path)
    check(found)
    assert all((int(text[1:]) >= 12) == train for text, train in zip(found.texts, found.is_train, strict=True))
    found = one(task(tmp_path, group="passage"), data_dir=tmp_path)
    check(found)
    parts = [{int(text[1:]) // 10 for text in np.array(found.texts)[split]} for split in (found.is_train, ~found.is_train)]
    assert not parts[0] & parts[1]


def test_double_and_contradicting_texts_are_left_out_and_told(tmp_path):
    rows = [{"text": f"t{i % 40}", "kind": i % 2} for i in range(80)] + [{"text": "t1", "kind": 0}]
    write_jsonl(tmp_path / "o/d/default/train.jsonl", rows)
    found = one(task(tmp_path), data_dir=tmp_path)
    check(found)
    assert "t1" not in found.texts
    assert found.notes == (
        "mine/t: 41 of 81 texts stand there twice or more; counted once",
        "mine/t: 1 texts have both labels; left out",
    )


def test_a_limit_keeps_ratio_and_balance(tmp_path):
    write_jsonl(tmp_path / "o/d/default/train.jsonl", [{"text": f"t{i}", "kind": i % 2} for i in range(200)])
    file = task(tmp_path, n_train=80, n_test=40)
    assert len(one(file, data_dir=tmp_path)) == 120
    found = one(file, data_dir=tmp_path, limit=30)
    check(found)
    assert (int(found.is_train.sum()), len(found)) == (20, 30)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"text": f"t{i}", "kind": 1} for i in range(9)], {}, "all 9 texts are of the positive class"),
        ([{"text": f"t{i}", "kind": 0} for i in range(9)], {}, "all 9 texts are of the negative class"),
        ([{"text": f"t{i % 9} ", "kind": i % 2} for i in range(8)] + [{"text": " \n", "kind": 1}], {}, "text 8 is empty"),
        (
            [{"text": "a", "kind": 0}, {"text": "b", "kind": 1}],
            {},
            "the training split lacks a class|the test split lacks a class",
        ),
        ([{"txt": "a", "kind": 0}], {}, "row 0: text: 'text' is undefined; the row has txt, kind"),
        ([{"text": "a", "kind": 7}], {"label": "kind"}, "row 0: label: 'kind' gives 7; it must be true or false"),
        ([{"text": "a", "kind": "no"}], {"label": "kind"}, "gives 'no'; it must be true or false"),
        ([{"text": "a", "kind": 1}], {"keep": "kind == 0"}, "all 0 texts"),
        (
            [{"text": "a"}],
            {"label": None, "positive": "text", "negative": "'[]'"},
            "positive: 'text' gives 'a'; it must be a list",
        ),
        (
            [{"text": "a", "kind": 1}],
            {"text": "'{{ text.__class__.__mro__ }}'"},
            "row 0: text: refused, a task file may not do this",
        ),
    ],
)
def test_what_cannot_be_probed_is_refused_with_the_reason(tmp_path, rows, changes, message):
    write_jsonl(tmp_path / "o/d/default/train.jsonl", rows)
    reason = missing(task(tmp_path, **changes), data_dir=tmp_path)
    assert any(part in reason for part in message.split("|")), reason


def test_recipes_and_their_options_are_checked(tmp_path):
    assert "unknown probe recipe 'storywrld'. Did you mean 'storyworld'" in missing(
        task(tmp_path, sources="[{recipe: storywrld}]"), data_dir=tmp_path
    )
    assert "unknown key 'varible'. Did you mean 'variable'" in missing(
        task(tmp_path, sources="[{recipe: storyworld, options: {varible: tense}}]"), data_dir=tmp_path
    )
    assert "no variable is called tens" in missing(
        task(tmp_path, sources="[{recipe: storyworld, options: {variable: tens}}]"), data_dir=tmp_path
    )


def test_a_source_that_is_not_there_is_asked_for_once(tmp_path, monkeypatch):
    asked = []

    def fail(_self, id, **_):
        asked.append(id)
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    names = [f"gao61/europarl_{language}" for language in ("es", "fr", "de")]
    found = list(load_examples(names, data_dir=tmp_path))
    assert all(isinstance(one, MissingProbe) and "flores/" in one.reason for one in found)
    assert asked == ["Helsinki-NLP/europarl"]


def test_a_damaged_mirror_costs_its_own_task(tmp_path):
    bad = tmp_path / "o/d/default/train.jsonl"
    bad.parent.mkdir(parents=True)
    bad.write_text('{"text": "a", "kind": 1}\n{"text": ')
    damaged, good = load_examples([task(tmp_path), "storyworld/number"], data_dir=tmp_path, limit=20)
    assert isinstance(damaged, MissingProbe) and "train.jsonl is damaged at or behind line 2" in damaged.reason
    assert isinstance(good, ProbeExamples)

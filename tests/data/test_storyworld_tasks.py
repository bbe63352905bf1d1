"""Tests made from the made-up corpus: balanced, disjoint, and answered by the text alone."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import astuple

import pytest

from saebench.data.storyworld import VARIABLES, cbt, lambada, probe_task, write
from saebench.data.storyworld.tasks import KINDS
from saebench.errors import InputError

GOLDEN = {
    "lambada": "a96dad78738bdbdc47d023f7b26b27743570692ff8aa9c28e77d19eb23e1dbca",
    "cbt": "8b7a30948204faba8f261efffbd0940364f7da0eb7f8bfeef36b7b3e0ef7a221",
    "labels": "ea9982b0198ca2c1d5706d5402330c9213c562c4664cceefea5148114973655f",
}


def test_items_and_labels_never_change():
    """Scores of the tasks on them would move; if they must, their versions go up."""
    documents = [write(0, part, index) for part in ("train", "eval") for index in range(15)]
    found = {
        "lambada": [astuple(item) for item in lambada(0, 50)],
        "cbt": [astuple(item) for item in cbt(0, 20)],
        "labels": [[name, *document.kinds(name)] for document in documents for name in VARIABLES],
    }
    assert {name: hashlib.sha256(json.dumps(items).encode()).hexdigest() for name, items in found.items()} == GOLDEN


def _words(text: str) -> list[str]:
    return re.findall(r"[A-Za-z-]+", text)


def _last_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\"? ", text)[-1]


def test_the_last_word_stands_in_the_passage_but_not_in_the_last_sentence():
    items = lambada(0, 100)
    assert items == lambada(0, 100) and items != lambada(1, 100)
    assert {item.kind for item in items} == set(KINDS)
    for item in items:
        end = _last_sentence(item.context)
        before = _words(item.context[: -len(end)])
        assert item.target in before
        assert item.target not in _words(end)
        assert item.text.endswith(f" {item.target}")
        assert 40 <= len(_words(item.context)) <= 250


def test_the_last_sentence_alone_does_not_settle_the_last_word():
    for item in lambada(0, 100):
        end = _last_sentence(item.context)
        before = _words(item.context[: -len(end)])
        assert len(item.candidates) >= 3 and len(set(item.candidates)) == len(item.candidates)
        assert item.target in item.candidates
        assert all(word in before and word not in _words(end) for word in item.candidates)


def test_the_answer_is_not_simply_the_last_or_the_first_candidate():
    items = lambada(0, 200)
    latest = [
        max(item.candidates, key=lambda c, item=item: max(i for i, w in enumerate(_words(item.context)) if w == c))
        for item in items
    ]
    assert sum(item.target == word for item, word in zip(items, latest, strict=True)) < 140
    assert sum(item.target == item.candidates[0] for item in items) < 120


def test_cloze_candidates_stand_in_the_context():
    items = cbt(0, 60)
    assert items == cbt(0, 60)
    for item in items:
        assert len(item.context) == 20 and item.query.count("XXXXX") == 1
        assert len(set(item.candidates)) == 10 and item.answer in item.candidates
        words = set(_words(" ".join(item.context)))
        assert words >= set(item.candidates)
        assert not set(item.candidates) & set(_words(item.query))
    assert len({item.answer for item in items}) > 30


def test_the_answer_is_what_the_introduction_said():
    """The sentence that introduces the answer holds what the question says of it, and no other one does."""
    found = {
        "owner": r"XXXXX, an? (\w+)",
        "work": r"(?:After all, |that |but )(\w+)(?:,| was| worked)",
        "place": r"(?:forgot the|stood an?) ([\w ]+?)(?: in the XXXXX)?\.$",
        "thing": r"(?:forgot|spoke of) the ((?:\w+ )*\w+) XXXXX",
        "look": r"XXXXX (\w+)\.",
    }
    for item in cbt(0, 100):
        asked = re.search(found[item.kind], item.query)
        assert asked, item.query
        words = rf"\b{asked[1]}\b"
        if item.kind == "thing":
            words = r" (?:\w+ )*".join([r"\b" + asked[1].replace(" ", r" (?:\w+ )*"), rf"(?:{'|'.join(item.candidates)})\b"])
        (told,) = [sentence for sentence in item.context[:10] if re.search(words, sentence)]
        assert item.answer in _words(told), (item.query, told)


def test_the_answer_is_not_simply_the_latest_or_the_first_introduced():
    items = cbt(0, 100)
    said = [{word: [i for i, s in enumerate(item.context) if word in _words(s)] for word in item.candidates} for item in items]
    assert sum(max(own, key=lambda c, own=own: own[c][-1]) == item.answer for own, item in zip(said, items, strict=True)) < 25
    assert sum(own[item.answer][0] == 0 for own, item in zip(said, items, strict=True)) < 25
    assert {own[item.answer][0] for own, item in zip(said, items, strict=True)} == set(range(10))


def test_each_candidate_is_of_another_introduction():
    for item in cbt(1, 40):
        at = [[i for i, sentence in enumerate(item.context[:10]) if word in _words(sentence)] for word in item.candidates]
        assert sorted(i for places in at for i in places[:1]) == list(range(10)), item
        if item.kind == "work":
            assert len({re.search(rf"\b(an?) {word}\b", " ".join(item.context))[1] for word in item.candidates}) == 1  # pyright: ignore[reportOptionalSubscript]


PROBED = [
    "part_of_speech", "number", "gender", "animacy", "noun_class", "verb_class", "verb_form", "adjective_class", "colour", "size",
    "valence", "person", "pronoun_case", "definiteness", "quantity", "function", "shape", "referent_kind", "referent_gender",
    "referent_age", "tense", "mood", "negation", "quoted", "question", "clause", "setting", "season", "weather", "sentence_kind",
]  # fmt: skip


@pytest.mark.parametrize("variable", PROBED)
def test_probe_texts_are_balanced_and_apart(variable):
    task = probe_task(variable, 0, 24)
    assert set(task.kinds) <= set(VARIABLES[variable].values) and len(set(task.kinds)) == 2
    for split in (task.train, task.test):
        assert len(split) == 24 and sum(label for _, label in split) == 12
        assert len({text for text, _ in split}) == 24
    assert not {text for text, _ in task.train} & {text for text, _ in task.test}
    assert task == probe_task(variable, 0, 24)


def test_probe_labels_are_those_of_the_last_piece():
    task = probe_task("relation", 0, 20, kinds=("friend", "neighbour"))
    assert all(text.split()[-1].lower().startswith(("friend", "neighbour")[label]) for text, label in (*task.train, *task.test))


def test_errors_say_what_is_wrong():
    with pytest.raises(InputError, match="no variable is called"):
        probe_task("mass", 0, 4)
    with pytest.raises(InputError, match="no values"):
        probe_task("colour", 0, 4, kinds=("red", "loud"))

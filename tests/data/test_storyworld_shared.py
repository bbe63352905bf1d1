"""Documents that several probe tasks read: the same as if each wrote its own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple
from itertools import islice

import pytest

from saebench.data.storyworld import VARIABLES, probe_task, tasks, write
from saebench.data.storyworld import shared as shared_module
from saebench.data.storyworld.shared import SharedDocuments

GOLDEN = "c70b3a00a74e5dd1e1b3ad8e073c8749dcee6dd11328514bc6f0b8636e7e5237"
VARIABLES_OF_EACH_LAYER = ("tense", "noun_class", "referent_gender", "mention", "word_place")


def test_probe_texts_never_change():
    """Scores of the tasks on them would move; if they must, the tasks' versions go up."""
    found = [astuple(probe_task(variable, 0, 24)) for variable in VARIABLES_OF_EACH_LAYER]
    assert hashlib.sha256(json.dumps(found).encode()).hexdigest() == GOLDEN


@pytest.mark.parametrize("part", ["train", "eval"])
def test_they_are_those_that_are_written(part, monkeypatch):
    monkeypatch.setattr(shared_module, "_KEPT", 3)
    documents = SharedDocuments(7, part)
    first, again = (list(islice(documents, 5)) for _ in range(2))
    for index in range(5):
        plain = write(7, part, index)
        for one in (first[index], again[index]):
            assert one.text == plain.text and one.sentences == plain.sentences and one.vectors == plain.vectors
            for variable in VARIABLES:
                assert one.labels(variable) == plain.labels(variable), variable


def test_they_are_written_once(monkeypatch):
    written: list[int] = []

    def counted(seed, part, index):
        written.append(index)
        return write(seed, part, index)

    monkeypatch.setattr(shared_module, "write", counted)
    monkeypatch.setattr(shared_module, "_KEPT", 3)
    documents = SharedDocuments(7, "train")
    half_way = iter(documents)
    assert next(half_way).text == next(iter(documents)).text and written == [0]
    list(islice(documents, 4))
    assert written == [0, 1, 2, 3]
    assert next(half_way).text == write(7, "train", 1).text
    list(islice(documents, 4))
    assert written == [0, 1, 2, 3, 3]  # what is not kept is written again


def test_reading_labels_keeps_nothing():
    """The label vectors of a document are a hundred times as large as the document."""
    documents = SharedDocuments(7, "train")
    for _ in range(2):
        next(iter(documents)).labels("mention")
    assert all("_labelled" not in vars(one) for one in documents._kept)


def test_a_second_task_writes_no_document_that_the_first_has_read(monkeypatch):
    shared_module.shared.cache_clear()
    probe_task("tense", 11, 24)
    seen: list[int] = []
    monkeypatch.setattr(shared_module, "write", lambda *words: seen.append(1) or write(*words))
    first, second = (VARIABLES["tense"].values[value] for value in tasks.common_kinds("tense"))
    assert probe_task("tense", 11, 24, kinds=(first, second)) == probe_task("tense", 11, 24)
    assert not seen

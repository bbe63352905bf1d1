from __future__ import annotations

import base64

import pytest

from saebench.errors import InputError
from saebench.studies.probes.examples import ProbeExamples, load_examples
from saebench.studies.probes.recipe import PROBE_RECIPES, Wanted
from tests.studies.test_probe_examples import check, task

WANTED = Wanted(seed=0, n_train=20, n_test=20)


def _rows(name: str, wanted: Wanted = WANTED, **options):
    kind = PROBE_RECIPES.get(name)
    return list(kind(kind.Options(**options)).rows(wanted))


def test_base64_of_a_text_against_the_same_characters_shuffled():
    rows = _rows("base64")
    assert len(rows) == 40 and sum(row["label"] for row in rows) == 20
    for row in rows:
        assert len(row["text"]) % 4 == 0
        decoded = base64.b64decode(row["text"])
        if row["label"]:
            assert base64.b64encode(decoded).decode() == row["text"] and decoded.decode().strip()
    assert rows == _rows("base64") != _rows("base64", Wanted(seed=1, n_train=20, n_test=20))
    words = [len(base64.b64decode(row["text"]).split()) for row in rows if row["label"]]
    assert min(words) >= 4 and max(words) <= 16


@pytest.mark.parametrize("negative", ["shuffled", "random", "text"])
def test_what_stands_against_base64(tmp_path, negative):
    corpus = tmp_path / "c.txt"
    corpus.write_text(" ".join(f"word{i}" for i in range(2000)))
    rows = _rows("base64", corpus=str(corpus), negative=negative)
    others = [row["text"] for row in rows if not row["label"]]
    assert all((" " in text) == (negative == "text") for text in others)
    if negative == "shuffled":  # what is not text any more when it is decoded
        assert sum(b"word" in base64.b64decode(text) for text in others) == 0


def test_a_corpus_too_short_is_told(tmp_path):
    (tmp_path / "c.txt").write_text("only five words are here")
    with pytest.raises(InputError, match=r"c\.txt is too short for 40 pieces; 39 are missing"):
        _rows("base64", corpus=str(tmp_path / "c.txt"))


TEXT = (
    "We sat in the Living Room. The kitchen and the dining room are cold; living, room and board, living alone. "
    "No living-room here. There is little room for living\nroom"
)


def test_a_phrase_and_half_of_it(tmp_path):
    (tmp_path / "c.txt").write_text(TEXT)
    rows = _rows("phrase", corpus=str(tmp_path / "c.txt"), first="living", second="room", words=4)
    found = [(row["kind"], row["text"]) for row in rows]
    assert found == [
        ("both", "in the Living Room"),
        ("missing_first", "and the dining room"),
        ("missing_second", "and board, living alone"),
        ("missing_first", "There is little room"),
        ("both", "room for living\nroom"),
    ]
    assert [row["label"] for row in rows] == [True, False, False, False, True]


def test_a_phrase_that_is_not_there(tmp_path):
    (tmp_path / "c.txt").write_text(TEXT)
    with pytest.raises(InputError, match=r"has 0 times 'credit' 'card'"):
        _rows("phrase", corpus=str(tmp_path / "c.txt"), first="credit", second="card")


def test_a_phrase_task_over_a_corpus_of_ones_own(tmp_path):
    documents = [f"{i} people in the living room. {i} in the other room. {i} are living here." for i in range(60)]
    (tmp_path / "c.txt").write_text("\n<|endoftext|>\n".join(documents))
    options = f"{{corpus: {tmp_path / 'c.txt'}, first: living, second: room}}"
    file = task(tmp_path, sources=f"[{{recipe: phrase, options: {options}}}]", label="label", group="document")
    (found,) = load_examples([file])
    assert isinstance(found, ProbeExamples)
    check(found)
    assert all(text.endswith("living room") == label for text, label in zip(found.texts, found.labels, strict=True))


def test_options_are_documented():
    for name, recipe in PROBE_RECIPES.items():
        assert (recipe.__doc__ or "").strip(), name
        for key, about in recipe.Options.model_json_schema()["properties"].items():
            assert about.get("description"), f"{name}: {key}"

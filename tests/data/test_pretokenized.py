from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest

from saebench.errors import InputError
from tests.data.words import BOS, EOS, PAD, build, word_tokenizer, write_jsonl

IDS = np.array([[BOS, *range(4 + 5 * i, 9 + 5 * i)] for i in range(12)])


@pytest.fixture(params=["npy", "npy-big-endian", "jsonl", "saved", "saved-torch", "saved-dict", "parquet", "parts"])
def stored(request, tmp_path) -> Path:
    """The same twelve contexts in every form they may come in."""
    kind, rows = request.param, datasets.Dataset.from_dict({"input_ids": IDS.tolist()})
    path = tmp_path / kind
    if kind.startswith("npy"):
        path = path.with_suffix(".npy")
        np.save(path, IDS.astype(">u2") if "big" in kind else IDS.astype(np.int32))
    elif kind == "jsonl":
        write_jsonl(path := path.with_suffix(".jsonl"), ({"input_ids": r} for r in IDS.tolist()))
    elif kind == "saved-dict":
        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(str(path))
    elif kind.startswith("saved"):
        if "torch" in kind:
            rows.set_format("torch")
        rows.save_to_disk(str(path))
    elif kind == "parquet":
        rows.to_parquet(path := path.with_suffix(".parquet"))
    else:
        (path / "data").mkdir(parents=True)
        for part in range(2):
            rows.select(range(6 * part, 6 * part + 6)).to_parquet(path / "data" / f"train-0000{part}-of-00002.parquet")
        rows.select([0]).to_parquet(path / "data" / "test-00000-of-00001.parquet")
    return path


def test_all_of_them_in_file_order(stored):
    for seed in (0, 1):
        corpus = build(stored, seed=seed, n_contexts=50)
        assert corpus.tokens.tolist() == IDS.tolist()
    assert corpus.valid.all() and corpus.scored[:, 1:].all() and not corpus.scored[:, 0].any()
    assert corpus.has_bos and corpus.n_documents is None and corpus.warnings == ()
    assert corpus.origin == f"file:{stored.name}"
    assert corpus.rule == "pre-tokenised contexts, first 6 of 6 tokens; position 0 is never scored"


def test_fewer_are_the_seeds_choice_in_file_order_whatever_the_form(stored):
    expected = np.sort(np.random.Generator(np.random.PCG64(3)).permutation(12)[:5])
    assert build(stored, seed=3, limit=5).tokens.tolist() == IDS[expected].tolist()
    assert build(stored, seed=4, limit=5).tokens.tolist() != IDS[expected].tolist()


def test_a_smaller_context_length_keeps_the_left(stored):
    assert build(stored, context_length=4).tokens.tolist() == IDS[:, :4].tolist()
    with pytest.raises(InputError, match=r"contexts of 6 tokens, shorter than the 7 asked for; use --context-length 6"):
        build(stored, context_length=7)


def test_contexts_longer_than_the_model_takes(stored):
    with pytest.raises(InputError, match="do not fit the model, which takes 5; use --context-length 5 or less"):
        build(stored, max_context=5)
    assert build(stored, max_context=5, context_length=5).tokens.shape == (12, 5)


def test_a_trailing_run_of_the_pad_token_is_padding(tmp_path):
    np.save(tmp_path / "p.npy", np.array([[BOS, 4, PAD, 5, PAD, PAD], [BOS, 4, 5, 6, 7, 8]]))
    corpus = build(tmp_path / "p.npy")
    assert corpus.valid.tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    assert corpus.scored.tolist() == [[False, True, True, True, False, False], [False] + [True] * 5]


def test_a_pad_token_that_is_eos_is_no_padding(tmp_path):
    np.save(tmp_path / "p.npy", np.array([[BOS, 4, 5, EOS, EOS]]))
    assert build(tmp_path / "p.npy", word_tokenizer(pad="</s>")).valid.all()


def test_an_attention_mask_is_believed(tmp_path):
    rows = [{"input_ids": [BOS, 4, 5, PAD, EOS], "attention_mask": [1, 1, 1, 1, 0]}]
    assert build(write_jsonl(tmp_path / "m.jsonl", rows)).valid.tolist() == [[True, True, True, True, False]]


@pytest.mark.parametrize("mask", [[0, 0, 1, 1, 1], [1, 0, 1, 1, 1]])
def test_padding_before_text_is_refused(tmp_path, mask):
    rows = [{"input_ids": [BOS, 4, 5, 6, 7], "attention_mask": mask}]
    with pytest.raises(InputError, match="pad it on the right"):
        build(write_jsonl(tmp_path / "m.jsonl", rows))


def test_contexts_without_bos_and_bos_inside_are_told(tmp_path):
    np.save(tmp_path / "b.npy", np.array([[4, 5, BOS, 7], [BOS, 4, 5, BOS], [8, 9, 10, 11]]))
    corpus = build(tmp_path / "b.npy")
    assert not corpus.has_bos and not corpus.scored[:, 0].any() and corpus.scored[:, 1:].all()
    first, second = corpus.warnings
    assert first.startswith("2 of 3 contexts do not begin with BOS") and second.startswith("2 BOS tokens stand inside")


def test_ids_win_over_text(tmp_path):
    rows = [{"text": "z z z z z", "input_ids": [BOS, 4, 5, 6]}]
    assert build(write_jsonl(tmp_path / "both.jsonl", rows)).tokens.tolist() == [[BOS, 4, 5, 6]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 6)), "holds float64 of shape"),
        (np.ones((3, 6), bool), "holds bool of shape"),
        (np.ones(6, int), "expected integer token ids of shape"),
        (np.ones((2, 3, 6), int), "expected integer token ids of shape"),
        (np.zeros((0, 6), int), "empty"),
        (np.ones((2, 3), int), "too short to score"),
        (np.full((2, 6), 110), "token id 110, outside the model's vocabulary of 110"),
        (np.full((2, 6), -1), "token id -1, outside"),
        (np.zeros((2, 6), int), "no token that could be scored"),  # nothing but padding
        (np.array([[{}]]), "not a whole .npy file"),
    ],
)
def test_bad_arrays(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        build(tmp_path / "x.npy")
    assert "\n" not in str(caught.value)


def test_files_that_only_claim_to_be_arrays(tmp_path):
    np.save(whole := tmp_path / "whole.npy", IDS)
    (tmp_path / "cut.npy").write_bytes(whole.read_bytes()[:-9])
    (tmp_path / "text.npy").write_text("1 2 3")
    with open(tmp_path / "zip.npy", "wb") as handle:
        np.savez(handle, a=IDS)
    for name, message in {"cut": "not a whole", "text": "not a whole", "zip": "archive of arrays"}.items():
        with pytest.raises(InputError, match=message):
            build(tmp_path / f"{name}.npy")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": [1, 4, 5, 6]}, {"input_ids": [1, 4, 5]}], r"2 different lengths \(3 to 4\)"),
        ([{"input_ids": [1.5, 4, 5, 6]}], "does not hold a list of whole numbers"),
        ([{"input_ids": ["a"]}], "does not hold a list of whole numbers"),
        ([{"input_ids": []}], "does not hold a list of whole numbers"),
        ([{"input_ids": [[1, 4], [5]]}], "does not hold a list of whole numbers"),
        ([{"input_ids": [1, 4, 5, 6]}, {"text": "a"}], "does not hold a list of whole numbers"),
        ([{"input_ids": [1, 4, 5, 6], "attention_mask": [1, 1]}], "have different lengths"),
        ([{"input_ids": [1, 4, 5, 2**70]}], "does not hold a list of whole numbers"),
    ],
)
def test_bad_rows(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        build(write_jsonl(tmp_path / "x.jsonl", rows))


def test_bad_folders(tmp_path):
    rows = datasets.Dataset.from_dict({"input_ids": IDS.tolist()})
    with pytest.raises(InputError, match="is no corpus"):
        build(tmp_path)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as a saved data set"):
        build(tmp_path / "broken")
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "dict"))
    with pytest.raises(InputError, match="has no split 'train'; it has test"):
        build(tmp_path / "dict")
    (tmp_path / "parts").mkdir()
    rows.to_parquet(tmp_path / "parts" / "test-00000-of-00001.parquet")
    with pytest.raises(InputError, match="has no split 'train'; it has test"):
        build(tmp_path / "parts")
    (tmp_path / "x.parquet").write_text("no parquet")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        build(tmp_path / "x.parquet")

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from saebench.errors import InputError
from tests.data.words import BOS, EOS, PAD, build, word_tokenizer, write_jsonl

LETTERS = [" ".join("abcdefghijklmnopqrstuvwxyz"[i : i + 3]) for i in range(0, 24, 3)]


@pytest.fixture
def letters(tmp_path):
    return write_jsonl(tmp_path / "letters.jsonl", ({"text": t} for t in LETTERS))


def in_seed_order(seed: int) -> list[list[int]]:
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(LETTERS))
    return [[4 + 3 * int(i) + j for j in range(3)] for i in order]


@pytest.mark.parametrize(("separator", "token"), [("eos", EOS), ("bos", BOS), ("none", None), ("auto", None)])
def test_contexts_are_bos_then_documents_with_separators_between(letters, separator, token):
    flat: list[int] = []
    for ids in in_seed_order(7):
        flat += ([] if token is None or not flat else [token]) + ids
    corpus = build(letters, seed=7, context_length=6, separator=separator)
    n = len(flat) // 5
    assert corpus.tokens.tolist() == [[BOS, *flat[5 * i : 5 * i + 5]] for i in range(n)]
    assert corpus.valid.all() and corpus.has_bos
    step = 3 if token is None else 4
    assert corpus.n_documents == len(range(0, 5 * n, step))
    expected = [[p > 0 and t != token for p, t in enumerate(row)] for row in corpus.tokens.tolist()]
    assert corpus.scored.tolist() == expected


def test_by_hand_in_file_order(tmp_path):
    path = tmp_path / "two.txt"
    path.write_text("a b c\n<|endoftext|>\nd e f g h\n")
    corpus = build(path, context_length=4, separator="eos")
    assert corpus.tokens.tolist() == [[1, 4, 5, 6], [1, 2, 7, 8], [1, 9, 10, 11]]  # 4 … 11 are a … h, 2 is </s>
    assert corpus.scored.tolist() == [[False, True, True, True], [False, False, True, True], [False, True, True, True]]
    assert corpus.n_documents == 2
    assert corpus.rule == (
        "BOS at the start of each context; documents joined by </s>, cut to 4 tokens, the incomplete rest dropped; "
        "position 0 and separators never scored"
    )


def test_a_text_file_without_marks_is_one_document_and_the_seed_chooses_contexts(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"n{i}" for i in range(30, 110)))
    whole = build(path, context_length=5).tokens
    assert build(path, context_length=5, seed=1).tokens.tolist() == whole.tolist() and len(whole) == 20
    few = [build(path, context_length=5, limit=6, seed=s).tokens.tolist() for s in (0, 1)]
    assert few[0] != few[1]
    for rows in few:
        numbers = [whole.tolist().index(row) for row in rows]
        assert numbers == sorted(set(numbers)) and len(numbers) == 6


def test_a_tokenizer_without_bos(letters):
    tokenizer = word_tokenizer(bos=None)
    corpus = build(letters, tokenizer, context_length=6)
    flat = [t for i, ids in enumerate(in_seed_order(0)) for t in [*([EOS] if i else []), *ids]]
    assert corpus.tokens.flatten().tolist() == flat[:30]
    assert not corpus.has_bos and "no BOS" in corpus.rule and not corpus.scored[:, 0].any()
    assert corpus.warnings == ()


def test_a_separator_the_tokenizer_lacks_is_left_out_and_the_rule_says_so(letters):
    corpus = build(letters, word_tokenizer(eos=None), context_length=6, separator="eos")
    assert "without a separator" in corpus.rule
    assert corpus.tokens[:, 1:].flatten().tolist() == [t for ids in in_seed_order(0) for t in ids][:20]


@pytest.mark.parametrize(("pad", "filler"), [("<pad>", PAD), (None, EOS)])
def test_a_short_text_is_one_padded_context(tmp_path, pad, filler):
    path = tmp_path / "short.txt"
    path.write_text("a b\n<|endoftext|>\nc")
    corpus = build(path, word_tokenizer(pad=pad), context_length=8, separator="eos")
    assert corpus.tokens.tolist() == [[BOS, 4, 5, EOS, 6, filler, filler, filler]]
    assert corpus.valid.tolist() == [[True] * 5 + [False] * 3]
    assert corpus.scored.tolist() == [[False, True, True, False, True, False, False, False]]
    assert "padded on the right" in corpus.rule and corpus.n_documents == 2


def test_fewer_contexts_are_the_first_of_more(letters):
    more, fewer = build(letters, context_length=6), build(letters, context_length=6, n_contexts=3, limit=2)
    assert fewer.tokens.tolist() == more.tokens[:2].tolist()
    assert fewer.n_documents == 4  # ten tokens of documents of three


def test_reading_stops_when_there_is_enough(monkeypatch, tmp_path):
    read = 0

    class Stream:
        def shuffle(self, **_):
            def rows():
                nonlocal read
                while True:
                    read += 1
                    yield {"text": "a b c d"}

            return rows()

    _hub(monkeypatch, lambda *_, **__: Stream())
    assert build("some/endless", context_length=9, limit=100).tokens.shape == (100, 9)
    assert 200 <= read <= 512
    with pytest.raises(InputError, match="--limit"):
        build("some/endless", context_length=9)


def _hub(monkeypatch, load):
    from types import SimpleNamespace

    monkeypatch.delenv("SAEBENCH_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha="0" * 40))
    monkeypatch.setattr("datasets.load_dataset", load)


def test_the_seed_decides(letters):
    first, again, other = (build(letters, seed=s, context_length=6) for s in (3, 3, 4))
    assert first.sha256 == again.sha256 != other.sha256


def test_the_hash_covers_shape_ids_and_mask(tmp_path):
    ids = np.array([[1, 5, 6, 7, 8, 9]])
    np.save(tmp_path / "x.npy", ids)
    digest = hashlib.sha256(b"(1, 6)" + ids.astype("<i8").tobytes() + np.packbits(np.ones((1, 6), bool)).tobytes())
    assert build(tmp_path / "x.npy").sha256 == digest.hexdigest()
    masked = write_jsonl(tmp_path / "x.jsonl", [{"input_ids": ids[0].tolist(), "attention_mask": [1, 1, 1, 1, 1, 0]}])
    assert build(masked).sha256 != digest.hexdigest()


def test_special_tokens_spelled_in_the_text_are_counted(tmp_path):
    path = tmp_path / "odd.txt"
    path.write_text("a b <s> c d e f")
    assert build(path, context_length=8).warnings == ("1 BOS tokens stand inside the contexts and are scored like any token",)


def test_default_context_is_what_the_model_takes_up_to_1024(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("a " * 3000)
    assert build(path, max_context=64).context_length == 64
    assert build(path, max_context=4096).context_length == 1024


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 65}, "contexts of 65 tokens do not fit the model, which takes 64; use --context-length 64"),
        ({"context_length": 3}, "use --context-length 4 or more"),
        ({"limit": 0}, "must be 1 or more, got 0"),
        ({"n_contexts": -2}, "must be 1 or more, got -2"),
        ({"text_column": "txet"}, r"no column 'txet'. Did you mean 'text'\? It has: text."),
        ({"vocab_size": 20}, "holds token id 2[0-9], outside the model's vocabulary of 20"),
    ],
)
def test_bad_options(letters, options, message):
    with pytest.raises(InputError, match=message) as caught:
        build(letters, **{"context_length": 8} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.txt", b"", "is empty"),
        ("w.txt", b"\n<|endoftext|>\n \n", "is empty"),
        ("b.txt", b"\xff\xfe\x00", "not readable text"),
        ("e.jsonl", b"\n", "is empty"),
        ("w.jsonl", b'{"text": "  "}\n', "is empty"),
        ("j.jsonl", b'{"text": "a"}\n{"text": \n', "damaged at or behind line 2"),
        ("l.jsonl", b"[1]\n", "damaged at or behind line 1"),
        ("n.jsonl", b'{"text": null}\n', "holds NoneType, expected text"),
        ("g.jsonl.gz", b"no gzip", "damaged"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        build(tmp_path / name, context_length=8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_gzip(tmp_path, damage):
    path = write_jsonl(tmp_path / "g.jsonl.gz", ({"text": f"a n{i}"} for i in range(500)))
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        del whole[-20:]
    else:
        whole[25] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(InputError, match="damaged"):
        build(path, context_length=8)


@pytest.mark.parametrize("name", ["no.txt", "no.jsonl.gz", "no.npy", "no.parquet"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(InputError, match="no such corpus file"):
        build(tmp_path / name)

from __future__ import annotations

from types import SimpleNamespace

import datasets
import pytest
from transformers import AutoTokenizer

from saebench.data import CorpusSpec, build_corpus
from saebench.data.datasets import load_rows, mirror_file
from saebench.errors import InputError
from tests.data.words import build, write_jsonl

ROWS = [{"text": f"a b n{i}"} for i in range(30, 60)]
COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every call to the hub fails, as it does without a network."""

    def fail(*_, **__):
        raise ConnectionError("[Errno -2] Name or service not known\nand more lines")

    monkeypatch.delenv("SAEBENCH_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    monkeypatch.setattr("datasets.load_dataset", fail)


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl"])
def test_the_mirror_is_read_without_a_network(tmp_path, monkeypatch, ending):
    write_jsonl(tmp_path / f"owner/name/default/train.{ending}", ROWS)
    found = load_rows("owner/name", data_dir=tmp_path)
    assert list(found.rows) == ROWS and found.local and found.revision is None
    assert found.origin == f"mirror:owner/name/default/train.{ending}"
    monkeypatch.setenv("SAEBENCH_DATA", str(tmp_path))
    corpus = build("owner/name", context_length=6)
    assert corpus.origin == found.origin and corpus.name == "owner/name"


def test_which_configuration(tmp_path):
    only = write_jsonl(tmp_path / "o/one/english/train.jsonl", ROWS)
    assert mirror_file("o/one", None, "train", tmp_path) == only
    write_jsonl(tmp_path / "o/one/french/train.jsonl", ROWS)
    assert mirror_file("o/one", None, "train", tmp_path) is None
    default = write_jsonl(tmp_path / "o/one/default/train.jsonl", ROWS)
    assert mirror_file("o/one", None, "train", tmp_path) == default
    assert mirror_file("o/one", "english", "train", tmp_path) == only
    assert build("o/one", config="english", data_dir=tmp_path, context_length=6).name == "o/one:english"


def test_a_missing_split_names_the_path_looked_for_and_what_is_there(tmp_path):
    write_jsonl(tmp_path / "owner/name/default/validation.jsonl", ROWS)
    with pytest.raises(InputError) as caught:
        load_rows("owner/name", data_dir=tmp_path)
    message = str(caught.value)
    assert f"{tmp_path / 'owner/name/default/train.jsonl.gz'} does not exist" in message
    assert "the mirror has owner/name/default/validation.jsonl" in message
    assert "--data-dir" in message and "\n" not in message and "more lines" not in message


def test_without_mirror_and_network(tmp_path):
    with pytest.raises(InputError, match="no --data-dir or SAEBENCH_DATA holds owner/name/default/train"):
        build("owner/name", limit=3)
    with pytest.raises(InputError, match="no such folder for data"):
        load_rows("owner/name", data_dir=tmp_path / "none")


@pytest.mark.parametrize("id", ["../../etc", "a/..", "a/b/c", "", "a b", "a/../b", "owner/na\nme"])
def test_ids_that_are_none(tmp_path, id):
    with pytest.raises(InputError, match="neither a file nor a hub id"):
        load_rows(id, data_dir=tmp_path)


@pytest.mark.parametrize("name", ["../x", "..", ".", "", "a/b", "a\\b"])
@pytest.mark.parametrize("kind", ["config", "split"])
def test_nothing_leads_out_of_the_mirror(tmp_path, name, kind):
    write_jsonl(tmp_path / "secret/train.jsonl", ROWS)
    (tmp_path / "mirror").mkdir()
    with pytest.raises(InputError, match="is not the name of a"):
        load_rows("owner/name", data_dir=tmp_path / "mirror", **{kind: name})


def _stream(monkeypatch, rows) -> list:
    calls: list = []

    def load(*args, **options):
        calls.append((args, options))
        return datasets.IterableDataset.from_generator(lambda: iter(rows))

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    monkeypatch.setattr("datasets.load_dataset", load)
    return calls


def test_the_hub_is_streamed_at_the_commit_it_resolves_to(monkeypatch):
    calls = _stream(monkeypatch, ROWS)
    first, again, other = (build("owner/name", config="c", split="test", context_length=6, limit=9, seed=s)
                           for s in (0, 0, 1))  # fmt: skip
    assert calls[0] == (("owner/name", "c"), {"split": "test", "streaming": True, "revision": COMMIT})
    assert first.revision == COMMIT and first.origin == "hub:owner/name"
    assert first.sha256 == again.sha256 != other.sha256


def test_tokens_streamed_from_the_hub(monkeypatch):
    _stream(monkeypatch, [{"input_ids": [1, 4, 5, 6 + i]} for i in range(20)])
    corpus = build("owner/name", limit=7)
    assert corpus.tokens.shape == (7, 4) and len(set(corpus.tokens[:, 3].tolist())) == 7


def test_a_stream_that_breaks_off(monkeypatch):
    class Stream:
        def shuffle(self, **_):
            yield {"text": "a b c"}
            raise OSError("connection reset")

    _stream(monkeypatch, [])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Stream())
    with pytest.raises(InputError, match="connection reset"):
        build("owner/name", context_length=6, limit=50)


def test_an_empty_stream(monkeypatch):
    class Stream:
        def shuffle(self, **_):
            return iter(())

    _stream(monkeypatch, [])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: Stream())
    with pytest.raises(InputError, match="is empty"):
        build("owner/name", limit=5)


@pytest.mark.parametrize(
    ("model", "separator", "sha256"),
    [
        ("stories260K", "auto", "e8f3cd70b9f16debb11cc066934cc7d4ed5ae9d9912fc303c2a296ae369b16ba"),
        ("stories260K", "eos", "11090ed87bb9e43a526510dc326817f67535df0309e7a371342c322f4567c1a0"),
        ("gpt2-tokenizer", "auto", "270f55cc1fca8d5df37043aed258cc1fafc312a363850c27c16ca1f2b0d8f010"),
    ],
)
def test_tiny_stories_golden(shared_dir, model, separator, sha256):
    if not (shared_dir / "data/roneneldan/TinyStories").is_dir():
        pytest.skip("no TinyStories in the shared data")
    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models" / model)
    spec = CorpusSpec(source="roneneldan/TinyStories", context_length=128, n_contexts=100, separator=separator)
    corpus = build_corpus(spec, tokenizer, seed=0, max_context=512, vocab_size=len(tokenizer), data_dir=shared_dir / "data")
    assert corpus.sha256 == sha256
    assert corpus.has_bos and corpus.valid.all() and corpus.warnings == ()
    assert not (corpus.tokens[:, 1:][corpus.scored[:, 1:]] == tokenizer.bos_token_id).any()


def test_a_data_set_that_is_a_script_is_read_from_the_hubs_own_parquet(monkeypatch):
    asked = {}

    class Stream:
        def shuffle(self, *, seed, buffer_size):
            return iter(ROWS)

    def load(id, config=None, **how):
        asked.update(id=id, config=config, **how)
        return Stream()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=COMMIT))
    monkeypatch.setattr("datasets.load_dataset", load)
    found = load_rows("o/d", config="plain", split="challenge", revision="refs/convert/parquet")
    assert list(found.rows) == ROWS and found.revision == COMMIT
    assert asked["data_files"] == {"challenge": "plain/challenge/*.parquet"} and asked["revision"] == COMMIT
    load_rows("o/d", split="test", revision="refs/convert/parquet")
    assert asked["data_files"] == {"test": "default/test/*.parquet"} and asked["config"] is None

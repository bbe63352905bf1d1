"""Acts of texts: those of a plain forward, whatever the batch; pooled; and kept on disk, but never believed when damaged."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.sparse import csr_array

from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.studies.probes import acts as acts_module
from saebench.studies.probes.acts import Reader, encode
from saebench.studies.probes.cache import ActsCache, user_cache
from saebench.studies.probes.dictionaries import pool
from tests.lm.families import build
from tests.studies.cloze_cases import SITE, words

TEXTS = [words(*range(4, 4 + n)) for n in (3, 9, 1, 5, 5, 12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("probes") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def port(model: LanguageModel) -> Port:
    return Port(model, SITE)


def whole(model: LanguageModel, text: str) -> torch.Tensor:
    """Return the acts of one text, BOS left out, by a plain forward."""
    ids = torch.tensor([[1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        return model.hf(ids, output_hidden_states=True).hidden_states[1][0, 1:]


@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_acts_are_those_of_each_text_alone(port: Port, model: LanguageModel, batch_size: int | None):
    encoded = encode(TEXTS, port)
    assert encoded.has_bos and encoded.n_cut == 0
    own = [whole(model, text) for text in TEXTS]
    last = Reader(port, "last", batch_size=batch_size)(encoded)
    assert_allclose(last.acts, torch.stack([acts[-1] for acts in own]), atol=1e-5)
    tokens = Reader(port, "mean", batch_size=batch_size)(encoded)
    assert_allclose(tokens.acts, torch.cat(own), atol=1e-5)
    assert_allclose(tokens.pooled("mean"), torch.stack([acts.mean(0) for acts in own]), atol=1e-5)
    assert_allclose(tokens.pooled("max"), torch.stack([acts.amax(0) for acts in own]), atol=1e-5)


def test_long_texts_keep_their_end_and_bos(port: Port):
    encoded = encode([words(*range(4, 24)), words(5)], port, context_length=8)
    assert encoded.ids[0] == [1, *range(17, 24)] and encoded.ids[1] == [1, 5]
    assert (encoded.n_cut, encoded.tokens_cut) == (1, 13)
    assert len(encode([words(*[4] * 80)], port).ids[0]) == port.model.n_ctx == 64
    with pytest.raises(InputError, match="the tokenizer makes no token of ' '; leave the text out"):
        encode(["w4", " "], port)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_latents_are_pooled_with_their_zeros(pooling):
    rng = np.random.default_rng(0)
    tokens = np.where(rng.random((30, 7)) < 0.4, rng.normal(size=(30, 7)), 0.0)
    tokens[:, 3] = -1.0  # always below 0: the maximum is not 0
    tokens[4:9, 5] = -2.0
    lengths = np.array([4, 5, 1, 20])
    parts = np.split(tokens, np.cumsum(lengths)[:-1])
    wanted = np.stack([part.mean(0) if pooling == "mean" else part.max(0) for part in parts])
    assert_allclose(pool(csr_array(tokens), lengths, pooling).toarray(), wanted, atol=1e-12)
    assert pool(csr_array((30, 7)), lengths, pooling).nnz == 0


def test_acts_are_read_once_and_then_from_disk(port: Port, tmp_path: Path, monkeypatch):
    encoded = encode(TEXTS, port)
    readers = [Reader(port, pooling, cache=ActsCache(tmp_path, 10**8)) for pooling in ("last", "last", "mean")]
    first, second = readers[0](encoded), readers[1](encoded)
    assert readers[0](encoded) is first
    assert [reader.n_read for reader in readers] == [6, 0, 0]
    assert torch.equal(first.acts, second.acts) and (first.offsets == second.offsets).all()
    readers[2](encoded)  # all tokens are not the last ones
    assert readers[2].n_read == 6 and len(list(tmp_path.glob("*.safetensors"))) == 2
    monkeypatch.setattr(acts_module, "HELD", 0)
    forgetful = Reader(port, "last")
    for _ in range(2):
        forgetful(encoded)
    assert forgetful.n_read == 12


def test_other_texts_sites_and_models_have_files_of_their_own(port: Port, model: LanguageModel, tmp_path: Path):
    cache = ActsCache(tmp_path, 10**8)
    Reader(port, "last", cache=cache)(encode(TEXTS, port))
    Reader(port, "last", cache=cache)(encode(TEXTS[:5], port))
    Reader(Port(model, "blocks.2.hook_resid_pre"), "last", cache=cache)(encode(TEXTS, port))
    assert len(list(tmp_path.iterdir())) == 3
    nameless = LanguageModel(model.hf, model.tokenizer, id="anything")  # neither hash nor commit: it could be any model
    Reader(Port(nameless, SITE), "last", cache=cache)(encode(TEXTS, port))
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("how", ["a bit", "cut", "empty", "another's", "no tensors"])
def test_damage_is_noticed_and_mended(port: Port, tmp_path: Path, how: str):
    encoded = encode(TEXTS, port)
    wanted = Reader(port, "last", cache=ActsCache(tmp_path, 10**8))(encoded)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    if how == "a bit":
        data[-20] ^= 1
    elif how == "another's":
        Reader(port, "mean", cache=ActsCache(tmp_path, 10**8))(encoded)
        data = bytearray(next(other for other in tmp_path.iterdir() if other != file).read_bytes())
    file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "no tensors": b"\x02" + bytes(7) + b"{}"}.get(how, data))
    cache = ActsCache(tmp_path, 10**8)
    reader = Reader(port, "last", cache=cache)
    assert torch.equal(reader(encoded).acts, wanted.acts) and reader.n_read == 6
    assert len(cache.notes) == 1 and "was damaged" in cache.notes[0] and "made again" in cache.notes[0]
    again = Reader(port, "last", cache=ActsCache(tmp_path, 10**8))
    again(encoded)
    assert again.n_read == 0


def test_the_cache_stays_below_its_limit(tmp_path: Path):
    cache = ActsCache(tmp_path, 3000)  # room for three files of about 1000 bytes, not for four
    for i in range(5):
        cache.write(f"key{i}", {"acts": torch.full((200,), float(i))})
        os.utime(tmp_path / f"key{i}.safetensors", (1e9 + i, 1e9 + i))
        assert cache.read("key0") is not None  # so it is never the one that was not used for longest
    there = {file.stem for file in tmp_path.iterdir()}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3200
    assert {"key0", "key4"} <= there and "key1" not in there
    assert (cache.read("key4") or {})["acts"][0] == 4.0 and cache.read("key1") is None
    cache.write("large", {"acts": torch.zeros(4000)})
    assert "more than the cache may hold" in cache.notes[0]
    assert not (tmp_path / "large.safetensors").exists()


def test_a_folder_that_cannot_be_trusted_or_written_is_left_alone(tmp_path: Path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    cache = ActsCache(open_to_all, 1000)
    cache.write("key", {"acts": torch.zeros(3)})
    assert list(open_to_all.iterdir()) == [] and "others may write" in cache.notes[0]
    (tmp_path / "file").write_text("")
    blocked = ActsCache(tmp_path / "file" / "acts", 1000)
    blocked.write("key", {"acts": torch.zeros(3)})
    assert blocked.read("key") is None and "cannot be made" in blocked.notes[0]


def test_where_the_cache_lies(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("SAEBENCH_CACHE", raising=False)
    monkeypatch.delenv("SAEBENCH_CACHE_GB", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = user_cache()
    assert cache is not None and cache.folder == tmp_path / "saebench" / "acts" and cache.limit == 10**10
    assert cache.folder.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("SAEBENCH_CACHE_GB", "0.5")
    cache = user_cache()
    assert cache is not None and cache.folder == tmp_path / "mine" / "acts" and cache.limit == 5 * 10**8
    monkeypatch.setenv("SAEBENCH_CACHE_GB", "much")
    with pytest.raises(InputError, match="SAEBENCH_CACHE_GB=much is not a size"):
        user_cache()
    monkeypatch.setenv("SAEBENCH_CACHE", "off")
    assert user_cache() is None

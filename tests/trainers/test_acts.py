"""Where acts come from: right tokens, right sites, each once; cached, prefetched and live alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.progress import SilentProgress
from saebench.trainers.acts import cache as cache_module
from saebench.trainers.acts.buffer import ShuffleBuffer
from saebench.trainers.acts.cache import ActsCache, CachedSource
from saebench.trainers.acts.prefetch import Prefetch
from saebench.trainers.acts.source import LiveSource, SiteReader

SITES = ("blocks.2.hook_resid_pre", "blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def model(world: Path) -> LanguageModel:
    return load_model(str(world / "model"), device="cpu")


@pytest.fixture(scope="module")
def corpus(world: Path, model: LanguageModel) -> Corpus:
    spec = CorpusSpec(source=str(world / "tokens.npy"))
    return build_corpus(spec, model.tokenizer, seed=0, max_context=64, vocab_size=model.d_vocab)


def ports(model: LanguageModel, *sites: str) -> list[Port]:
    return [Port(model, site) for site in sites]


def ordered(acts: torch.Tensor) -> torch.Tensor:
    return acts[acts[:, 0].argsort()]


def test_several_sites_in_one_forward_equal_each_alone(model: LanguageModel, corpus: Corpus) -> None:
    each = ports(model, *SITES)
    together = SiteReader(each).read(corpus.tokens[:7])
    for port, acts in zip(each, together, strict=True):
        torch.testing.assert_close(acts, port.clean(corpus.tokens[:7], final=False).acts, rtol=1e-5, atol=1e-6)


def test_nothing_behind_the_deepest_site_runs_and_no_block_twice(model: LanguageModel, corpus: Corpus) -> None:
    ran = [0] * model.n_layers
    handles = []
    for i, block in enumerate(model.stack.blocks):
        attention = next(m for name, m in block.named_modules() if name.endswith("attn"))
        handles.append(attention.register_forward_hook(lambda *_a, i=i: ran.__setitem__(i, ran[i] + 1)))
    try:
        SiteReader(ports(model, "blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre")).read(corpus.tokens[:3])
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [1, 1] + [0] * (model.n_layers - 2)


def test_every_scored_act_comes_once_a_round_and_bos_never(model: LanguageModel, corpus: Corpus) -> None:
    [port] = ports(model, "blocks.1.hook_resid_pre")
    source = LiveSource(SiteReader([port]), corpus, seed=3)
    n = int(corpus.scored.sum())
    seen = torch.cat([source.next()[0] for _ in range(1)])
    while len(seen) < n:
        seen = torch.cat([seen, source.next()[0]])
    want = port.clean(corpus.tokens, final=False).acts[corpus.scored]
    torch.testing.assert_close(ordered(seen[:n]), ordered(want), rtol=1e-5, atol=1e-6)


def test_the_buffer_keeps_sites_together_gives_all_and_refills_at_half(model: LanguageModel, corpus: Corpus) -> None:
    class Counting:
        calls = 0

        def next(self) -> list[torch.Tensor]:
            rows = torch.arange(self.calls * 10, self.calls * 10 + 10.0)[:, None]
            self.calls += 1
            return [rows, -rows]

        def state(self) -> dict[str, int]:
            return {"calls": self.calls}

        def restore(self, state: dict[str, int]) -> None:
            self.calls = state["calls"]

    source = Counting()
    buffer = ShuffleBuffer(source, 40, seed=1)
    seen = []
    for i in range(10):
        first, second = buffer.batch(8)
        assert torch.equal(first, -second)
        seen += first[:, 0].tolist()
        if i == 2:
            assert source.calls == 6, "24 of 40 would be more than half: refilled after 16"
    assert len(set(seen)) == 80, "no act comes twice before the text does"
    assert seen != sorted(seen)


@pytest.mark.parametrize("kind", ["live", "cache"])
def test_prefetched_acts_and_their_places_are_those_of_the_plain_source(
    kind: str, model: LanguageModel, corpus: Corpus, tmp_path: Path
) -> None:
    made = ports(model, *SITES[:2])

    def source() -> LiveSource | CachedSource:
        if kind == "live":
            return LiveSource(SiteReader(made), corpus, seed=3)
        cache = ActsCache(tmp_path, made, corpus, torch.float32)
        cache.fill(SilentProgress())
        return CachedSource(cache, torch.device("cpu"), seed=3)

    plain, ahead = source(), Prefetch(source(), torch.device("cpu"))
    plain._order.take(1)  # different places, then the same ones
    plain.restore(ahead.state())
    wanted = [plain.next() for _ in range(3)]  # before the thread begins: one model serves one at a time
    for chunk in wanted:
        for left, right in zip(chunk, ahead.next(), strict=True):
            torch.testing.assert_close(left, right)
    state = ahead.state()
    rest = [ahead.next() for _ in range(3)]
    ahead.restore(state)
    for want in rest:
        torch.testing.assert_close(ahead.next(), want)
    ahead.close()


def test_an_error_of_the_prefetching_thread_reaches_the_one_that_trains() -> None:
    class Failing:
        def next(self) -> list[torch.Tensor]:
            raise InputError("the text is gone")

        def state(self) -> dict[str, int]:
            return {}

        def restore(self, state: dict[str, int]) -> None:
            raise AssertionError

    with pytest.raises(InputError, match="the text is gone"):
        Prefetch(Failing(), torch.device("cpu")).next()


def test_the_cache_holds_the_live_acts_and_goes_on_where_it_stopped(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_SHARD_BYTES", 20_000)
    made = ports(model, *SITES[:2])
    cache = ActsCache(tmp_path, made, corpus, torch.float32)
    assert cache.n_shards > 4

    class Interrupts(SilentProgress):
        left = 2

        def advance(self, n: int) -> None:
            self.left -= n
            if not self.left:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.fill(Interrupts())
    first = (tmp_path / "acts-00000.safetensors").stat().st_mtime_ns
    cache = ActsCache(tmp_path, made, corpus, torch.float32)
    assert len(cache.shards) == 2
    assert not cache.complete
    cache.fill(SilentProgress())
    assert cache.complete
    assert (tmp_path / "acts-00000.safetensors").stat().st_mtime_ns == first, "what was there is kept"
    acts = [torch.cat(parts) for parts in zip(*(cache.read(i) for i in range(cache.n_shards)), strict=True)]
    for port, found in zip(made, acts, strict=True):
        torch.testing.assert_close(found, port.clean(corpus.tokens, final=False).acts[corpus.scored], rtol=1e-5, atol=1e-6)
    assert sum(len(a) * a.shape[1] * 4 for a in acts) == cache.size()


def test_a_cache_of_something_else_or_damaged_is_refused(model: LanguageModel, corpus: Corpus, tmp_path: Path) -> None:
    made = ports(model, *SITES[:2])
    ActsCache(tmp_path, made, corpus, torch.float32).fill(SilentProgress())
    with pytest.raises(InputError, match="another sites"):
        ActsCache(tmp_path, made[:1], corpus, torch.float32)
    with pytest.raises(InputError, match="another dtype"):
        ActsCache(tmp_path, made, corpus, torch.bfloat16)
    shard = tmp_path / "acts-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    with pytest.raises(InputError, match="damaged"):
        CachedSource(ActsCache(tmp_path, made, corpus, torch.float32), torch.device("cpu"), 0).next()
    (tmp_path / "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="cannot be read"):
        ActsCache(tmp_path, made, corpus, torch.float32)


def test_the_size_is_announced_and_a_full_disk_stops_before_anything_is_written(
    model: LanguageModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Notes(SilentProgress):
        said = ""

        def note(self, line: str) -> None:
            self.said += line

    cache = ActsCache(tmp_path / "a", ports(model, SITES[0]), corpus, torch.float32)
    notes = Notes()
    cache.fill(notes)
    assert "GB of acts in 1 shards" in notes.said
    monkeypatch.setattr(cache_module, "_free", lambda _folder: 1000)
    cache = ActsCache(tmp_path / "b", ports(model, SITES[0]), corpus, torch.float32)
    with pytest.raises(InputError, match="no room for the cache"):
        cache.fill(notes)
    assert not (tmp_path / "b").exists()

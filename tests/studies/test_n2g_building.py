"""Patterns: those of the published procedure, whatever goes side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.lm.prefix_tree import LastActs
from saebench.sae import SAE
from saebench.studies.n2g.pad import pad_token
from saebench.studies.n2g.patterns import ANY, Pattern, Trie, Writer, tries
from saebench.studies.n2g.suffixes import Document, Reader, shortest
from tests.lm.families import build
from tests.metrics.conftest import SITE, make_corpus, random_sae
from tests.studies.n2g_cases import flat, naive_trie

PAD = 7


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("n2g") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def contexts(bos: bool) -> Corpus:
    tokens = torch.randint(4, 30, (6, 14), generator=torch.Generator().manual_seed(1))
    if bos:
        tokens[:, 0] = 1
    return replace(make_corpus(tokens), has_bos=bos)


def documents(port: Port, sae: SAE, corpus: Corpus, n: int) -> list[Document]:
    """Return random activations, several of each of some latents."""
    first = int(corpus.has_bos)
    found = []
    for i, row in enumerate(corpus.tokens):
        dense = sae.encode(port.clean(row[None], final=False).acts[0]).to_dense()
        for position, latent in dense[1:].nonzero().tolist():
            text = tuple(row[first : position + 2].tolist())
            found.append(Document(latent=latent, context=i, text=text, act=float(dense[position + 1, latent])))
    busy = sorted({d.latent for d in found}, key=lambda latent: -sum(d.latent == latent for d in found))[:6]
    found = [d for d in found if d.latent in busy]
    return [found[i] for i in torch.randperm(len(found), generator=torch.Generator().manual_seed(2))[:n].tolist()]


def naive(port: Port, sae: SAE, corpus: Corpus, given: list[Document]) -> dict[int, Trie]:
    """Return the tries of one whole forward a step."""
    begin = (1,) if corpus.has_bos else ()

    def act_of(latent: int) -> Callable[[tuple[int, ...]], float]:
        def act(text: tuple[int, ...]) -> float:
            acts = port.clean(torch.tensor([[*begin, *text]])).acts[0, -1:]
            return float(sae.encode(acts).to_dense()[0, latent])

        return act

    latents = dict.fromkeys(d.latent for d in given)
    return {latent: flat(naive_trie(act_of(latent), [d for d in given if d.latent == latent], PAD)) for latent in latents}


def ours(port: Port, sae: SAE, corpus: Corpus, given: list[Document], **how: Any) -> tuple[dict[int, Trie], Any]:
    last_acts = LastActs(port, 16, **how)
    reader = Reader(sae, last_acts, 1 if corpus.has_bos else None)
    found = shortest(given, reader)
    return tries(given, found, reader, pad=PAD, longest=64 - int(corpus.has_bos)), found


def same(one: dict[int, Trie], other: dict[int, Trie]) -> None:
    assert one.keys() == other.keys()
    for latent, trie in one.items():
        assert trie.keys() == other[latent].keys(), latent
        assert trie == pytest.approx(other[latent], rel=1e-4)


def jumping(sae: SAE) -> SAE:
    return SAE(
        replace(sae.config, activation="jumprelu", k=None),
        replace(sae.weights, threshold=torch.linspace(0.1, 0.6, sae.config.d_sae)),
    )


SAES: dict[str, Callable[[], SAE]] = {
    "topk": random_sae,
    "relu": lambda: random_sae(activation="relu", k=None),
    "jumprelu": lambda: jumping(random_sae()),
    "abstopk": lambda: random_sae(activation="abstopk"),
    "ranked topk, layer norm": lambda: SAE(
        replace(random_sae().config, normalisation="layer_norm"), replace(random_sae().weights, rank=torch.linspace(0.5, 2, 40))
    ),
}


@pytest.mark.parametrize("kind", SAES)
def test_tries_are_those_of_one_forward_a_step(model: LanguageModel, kind: str):
    port, sae, corpus = Port(model, SITE), SAES[kind](), contexts(bos=True)
    given = documents(port, sae, corpus, 24 if kind == "topk" else 10)
    found, suffixes = ours(port, sae, corpus, given)
    same(found, naive(port, sae, corpus, given))
    if kind != "topk":
        return
    lengths = [len(d.text) - int(start) for d, start in zip(given, suffixes.start, strict=True)]
    assert max(lengths) > 5 and min(lengths) < 4, "both ways of searching were needed"
    patterns = [pattern for trie in found.values() for pattern in trie]
    assert any(ANY in p.path for p in patterns) and any(p.at_start for p in patterns) and not all(p.at_start for p in patterns)


def test_so_they_are_without_bos_and_inside_a_block(model: LanguageModel):
    for corpus, site in ((contexts(bos=False), SITE), (contexts(bos=True), "blocks.1.hook_mlp_out")):
        port, sae = Port(model, site), random_sae(seed=3)
        given = documents(port, sae, corpus, 8)
        same(ours(port, sae, corpus, given)[0], naive(port, sae, corpus, given))


def test_what_goes_side_by_side_changes_nothing(model: LanguageModel):
    port, sae, corpus = Port(model, SITE), random_sae(seed=1), contexts(bos=True)
    given = documents(port, sae, corpus, 30)
    whole, found = ours(port, sae, corpus, given)
    assert found.found.all(), "behind BOS the whole text gives the activation itself"
    for how in ({"batch_size": 1}, {"batch_size": 3}, {"flat": False}, {"flat": False, "together": False}):
        same(ours(port, sae, corpus, given, **how)[0], whole)
    for latent in whole:
        alone = [d for d in given if d.latent == latent]
        same(ours(port, sae, corpus, alone)[0], {latent: whole[latent]})


class _Said(Reader):
    """Stands for a reader: a latent's value is what a function says of the text."""

    def __init__(self, say: Callable[[tuple[int, ...]], float]) -> None:
        self._say = say
        self.asked: list[tuple[int, ...]] = []

    def values(self, texts: Any, latents: Any, reference: Any) -> Any:
        self.asked += texts
        return torch.tensor([self._say(text) for text in texts], dtype=torch.float64).numpy()


def test_a_longer_end_that_falls_below_again_is_not_skipped_over():
    """Neither bisection nor doubling would find length 6 where lengths 8 and 16 fail."""
    reader = _Said(lambda text: 1.0 if len(text) in (6, 20) else 0.0)
    [found] = [shortest([Document(latent=0, context=0, text=tuple(range(20)), act=1.0)], reader)]
    assert found.start.tolist() == [14] and found.found.all()
    assert [len(text) for text in reader.asked] == [1, 2, 3, 4, 5, 6]


def test_where_no_end_reaches_half_the_whole_text_stays():
    reader = _Said(lambda text: 0.1)
    told: list[int] = []
    texts = [tuple(range(n)) for n in (1, 3, 9)]
    given = [Document(latent=0, context=i, text=text, act=2.0) for i, text in enumerate(texts)]
    found = shortest(given, reader, told.append)
    assert found.start.tolist() == [0, 0, 0] and found.act.tolist() == [2.0] * 3 and not found.found.any()
    assert sum(told) == 3 and len(reader.asked) == 13


def test_a_later_document_with_the_same_pattern_stays():
    """Of 8 5 and 9 5 the first token does not matter, but only with one is the last worth half of the text."""
    reader = _Said(lambda text: float(text[-2]) if len(text) > 1 and text[-1] == 5 else 0.0)
    given = [Document(latent=0, context=i, text=(value, 5), act=float(value)) for i, value in enumerate((8, 9))]
    [trie] = tries(given, shortest(given, reader), reader, pad=6, longest=10).values()
    assert trie == {Pattern((5, ANY), False): 9.0}


def test_an_end_as_long_as_the_model_takes_is_bound_to_the_start():
    reader = _Said(lambda text: 1.0 if len(text) == 3 else 0.0)
    given = [Document(latent=0, context=0, text=(5, 6, 7), act=1.0)]
    [trie] = tries(given, shortest(given, reader), reader, pad=4, longest=3).values()
    assert trie == {Pattern((ANY, ANY, ANY), True): 1.0} and all(len(text) <= 3 for text in reader.asked)


class _Words:
    """A tokenizer that knows some words."""

    def __init__(self, words: list[str], unknown: int | None = None, bos: int | None = None) -> None:
        self._words, self.unk_token_id, self.bos_token_id, self.eos_token_id = words, unknown, bos, None

    def convert_tokens_to_ids(self, word: str) -> int | None:
        return self._words.index(word) if word in self._words else self.unk_token_id

    def convert_ids_to_tokens(self, number: int) -> str:
        return self._words[number]

    def decode(self, ids: list[int]) -> str:
        return "".join(self._words[i] for i in ids).replace("▁", " ").strip()


def pad(words: Any, d_vocab: int = 10, wanted: int | str | None = None) -> int:
    return pad_token(words, d_vocab, of="m", wanted=wanted)


def test_the_pad_token_by_its_rule():
    assert pad(_Words(["a", "_", "Ġ_"])) == 2
    assert pad(_Words(["a", "▁_", "_"])) == 1
    assert pad(_Words(["a", "|", "_"])) == 2
    assert pad(_Words(["a", "~"])) == 1
    assert pad(_Words(["a", "?"], unknown=1)) == 1
    assert pad(_Words(["a", "_"]), wanted=0) == 0
    assert pad(_Words(["Ġa", "_"]), wanted=" a") == 0
    assert pad(_Words(["a", "b", "_", "|"]), d_vocab=2, wanted="b") == 1


def test_no_usable_pad_token_is_one_line():
    for words in (_Words(["a"]), _Words(["<s>", "a"], unknown=0, bos=0)):
        with pytest.raises(InputError, match=r"the tokenizer of m has no usable pad token .*name one with the setting pad_token"):
            pad(words)
    with pytest.raises(InputError, match=r"pad_token 10 is no token of m: ids run from 0 to 9"):
        pad(_Words(["a"]), wanted=10)
    with pytest.raises(InputError, match=r"pad_token 'of it' is not one token of m"):
        pad(_Words(["a"], unknown=0), wanted="of it")


def test_patterns_in_words():
    write = Writer(_Words(["▁_", "▁the", "s", '"']), 0).write
    assert write(Pattern((2, ANY, 1), True)) == '^ " the" * "s"'
    assert write(Pattern((3,), False)) == '"\\""'


def test_gpt2_has_the_pad_token_of_the_published_code(shared_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models/gpt2-tokenizer")
    assert pad(tokenizer, d_vocab=50257) == 4808
    write = Writer(tokenizer, 4808).write
    assert write(Pattern(tuple(reversed(tokenizer(" the cat").input_ids)), False)) == '" the" " cat"'

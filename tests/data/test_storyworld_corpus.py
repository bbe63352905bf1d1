"""The generated corpus as contexts of tokens, and its labels token by token."""

from __future__ import annotations

import functools
import socket
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from saebench.config import RunConfig
from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.data.storyworld import VARIABLES, generate, write
from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld.document import Document
from saebench.data.storyworld.tokens import NO_TEXT, document_tokens, token_labels
from saebench.errors import InputError
from saebench.run import corpus_spec
from saebench.tasklist import StreamTask, TaskCorpus

END = "<|endoftext|>"
SPEC = CorpusSpec(source="storyworld", context_length=48, n_contexts=30)


@functools.cache
def bpe(*, bos: str | None = END, eos: str | None = END, trim: bool = False, size: int = 600) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    core.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    core.post_processor = processors.ByteLevel(trim_offsets=trim)  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=size, special_tokens=[END, "<s>"], initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator((write(0, "train", i).text for i in range(30)), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return bpe()


def build(tokenizer: Any, spec: CorpusSpec = SPEC, *, seed: int = 0, **options: Any) -> Corpus:
    return build_corpus(spec, tokenizer, seed=seed, **{"max_context": 512, "vocab_size": 600, **options})


def with_(**changes: Any) -> CorpusSpec:
    return CorpusSpec(**{**vars(SPEC), **changes})


def test_contexts_are_the_eval_parts_documents_in_order(tokenizer):
    corpus = build(tokenizer)
    assert corpus.tokens.shape == (30, 48) and corpus.has_bos and corpus.valid.all() and not corpus.warnings
    stream: list[int] = []
    for document in islice(generate(0, "eval"), 40):
        stream += ([tokenizer.eos_token_id] if stream else []) + tokenizer(document.text)["input_ids"]
    assert corpus.tokens[:, 1:].flatten().tolist() == stream[: 30 * 47]
    assert (corpus.name, corpus.origin, corpus.revision) == ("storyworld", "generated:storyworld/eval", None)
    assert not corpus.scored[corpus.tokens == tokenizer.eos_token_id].any()


@pytest.mark.parametrize(("changes", "part"), [({"split": "train"}, "train"), ({"source": "storyworld:train"}, "train"),
                                               ({"split": "eval"}, "eval"), ({"source": "storyworld:eval"}, "eval")])  # fmt: skip
def test_parts(tokenizer, changes, part):
    corpus = build(tokenizer, with_(**changes))
    assert corpus.origin == f"generated:storyworld/{part}"
    assert torch.equal(corpus.tokens, build(tokenizer).tokens) == (part == "eval")


def test_seeds_and_numbers(tokenizer):
    whole = build(tokenizer)
    assert build(tokenizer).sha256 == whole.sha256 != build(tokenizer, seed=1).sha256
    few = build(tokenizer, limit=7)
    assert torch.equal(few.tokens, whole.tokens[:7])
    many = build(tokenizer, with_(n_contexts=2000, context_length=32))
    assert many.tokens.shape == (2000, 32) and len(many.tokens.unique(dim=0)) == 2000


def test_no_network(tokenizer, monkeypatch, tmp_path):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "storyworld").mkdir()  # a folder of this name does not get in the way
    monkeypatch.chdir(tmp_path)
    assert len(build(tokenizer, data_dir=tmp_path).tokens) == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_contexts": None}, "storyworld is a stream without an end in sight; say how much with --limit"),
        ({"split": "evla"}, "storyworld has no part 'evla'. Did you mean 'eval'? It has: train, eval."),
        ({"source": "storyworld:"}, "storyworld has no part ''. It has: train, eval."),
        ({"config": "x"}, "storyworld is generated and has neither configurations nor revisions; leave them out"),
        ({"revision": "x"}, "storyworld is generated and has neither configurations nor revisions; leave them out"),
    ],
)
def test_refusals(tokenizer, changes, message):
    with pytest.raises(InputError) as error:
        build(tokenizer, with_(**changes))
    assert str(error.value) == message


def test_the_command_lines_corpus_option_means_the_eval_part(tokenizer):
    task = StreamTask(
        name="t", version=1, description="", metrics=("sparsity",), citation="", licence="",
        corpus=TaskCorpus(source="other/text", n_contexts=12, context_length=32),
    )  # fmt: skip
    spec = corpus_spec(RunConfig.model_construct(corpus="storyworld", limit=None, context_length=None), task)
    corpus = build(tokenizer, spec)
    assert corpus.tokens.shape == (12, 32) and corpus.origin == "generated:storyworld/eval"


def by_hand() -> Document:
    """``The rabbits painted a tomato.`` with the labels that the words have."""
    known = {text.strip(): i for i, text in reversed(list(enumerate(lex.TEXTS)))}
    codes = []
    for i, word in enumerate(["the", "rabbits", "painted", "a", "tomato", "."]):
        form = known[word] & ~3
        codes.append(form | ((lex.CAPITAL | lex.BARE) if i == 0 else 0))
    return Document(codes, [0], [(0,) * 24], [0], [], [], "tale", 1.0)


def characters() -> Any:
    """A tokenizer of three characters at a time."""
    core = Tokenizer(models.WordLevel({"<unk>": 0, END: 1}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]{1,3}"), "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END)


def test_a_token_has_the_label_of_the_piece_at_its_last_character():
    document = by_hand()
    assert document.pieces == ["The", " rabbits", " painted", " a", " tomato", "."]
    [found] = document_tokens([document], characters())
    #         The| ra|bbi|ts |pai|nte|d a| to|mat|o.
    assert found.pieces.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4, 5]
    assert document.kinds("number") == ["none", "plural", "none", "singular", "singular", "none"]
    kinds = document.kinds("part_of_speech")
    assert kinds[1] == kinds[4] == "noun" and kinds[2] == "verb"


@pytest.mark.parametrize("trim", [False, True])
def test_tokens_of_a_byte_level_bpe_tile_the_pieces(trim):
    tokenizer = bpe(trim=trim)
    documents = [write(3, "eval", i) for i in range(12)]
    for document, found in zip(documents, document_tokens(documents, tokenizer), strict=True):
        assert (np.diff(found.pieces) >= 0).all() and found.pieces[-1] == len(document.pieces) - 1
        read = 0
        ends = np.cumsum([len(p) for p in document.pieces])
        for token, piece in zip(found.ids.tolist(), found.pieces.tolist(), strict=True):  # counted without any offsets
            read += len(tokenizer.decode([token]))
            assert piece == int(np.searchsorted(ends, read))
        assert read == len(document.text)


@pytest.mark.parametrize("separator", ["auto", "none"])
@pytest.mark.parametrize(("bos", "eos"), [(END, END), (None, END), ("<s>", END), (None, None)])
def test_labels_of_contexts_stand_where_their_tokens_do(bos, eos, separator):
    tokenizer = bpe(bos=bos, eos=eos)
    spec = with_(separator=separator)
    corpus = build(tokenizer, spec, seed=5)
    names = ["part_of_speech", "register", "owner", "word_place"]
    labels = token_labels(corpus, spec, tokenizer, names, seed=5)
    assert list(labels) == names
    special = torch.isin(corpus.tokens, torch.tensor([tokenizer.convert_tokens_to_ids(x) for x in (END, "<s>")]))
    expected: dict[str, list[int]] = {name: [] for name in names}
    for document in islice(generate(5, "eval"), 40):
        [found] = document_tokens([document], tokenizer)
        for name in names:
            own = document.labels(name)
            expected[name] += [own[piece] for piece in found.pieces.tolist()]
    for name in names:
        assert labels[name].dtype == torch.int16 and labels[name].shape == corpus.tokens.shape
        assert (labels[name] == NO_TEXT).equal(special)
        flat = labels[name][~special].tolist()
        assert flat == expected[name][: len(flat)]
        assert max(flat) < len(VARIABLES[name].values)


def test_a_words_tokens_share_its_label(tokenizer):
    corpus = build(tokenizer)
    labels = token_labels(corpus, SPEC, tokenizer, ["colour"], seed=0)["colour"]
    kinds = VARIABLES["colour"].values
    seen = 0
    for row, own in zip(corpus.tokens.tolist(), labels.tolist(), strict=True):
        starts = [i for i, t in enumerate(row) if tokenizer.convert_ids_to_tokens(t).startswith("Ġ")]
        for a, b in pairwise(starts):
            word = tokenizer.decode(row[a:b]).strip()
            if word in kinds[1:] and END not in word:
                assert {kinds[i] for i in own[a:b]} == {word}
                seen += 1
    assert seen >= 3


def test_labels_refuse_what_does_not_fit(tokenizer):
    corpus = build(tokenizer)
    for bad in ({"seed": 1}, {"spec": with_(split="train")}, {"tokenizer": bpe(size=500)}):
        call = {"spec": SPEC, "tokenizer": tokenizer, "seed": 0} | bad
        with pytest.raises(InputError, match=r"token 0 to \d+ of storyworld are not what seed \d of the (eval|train) part gives"):
            token_labels(corpus, call["spec"], call["tokenizer"], ["register"], seed=call["seed"])
    with pytest.raises(InputError, match=r"no variable 'colur'\. Did you mean 'colour'"):
        token_labels(corpus, SPEC, tokenizer, ["colur"], seed=0)
    with pytest.raises(InputError, match="only storyworld does"):
        token_labels(corpus, with_(source="a.txt"), tokenizer, ["colour"], seed=0)
    with pytest.raises(InputError, match="gives no offsets"):
        document_tokens([], object())

"""A tokenizer of whole words, small enough to compute by hand, and a short way to build a corpus with it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saebench.data import Corpus, CorpusSpec, build_corpus

PAD, BOS, EOS, UNK = range(4)
VOCAB = 110
"""Four special tokens, ``a`` to ``z`` as 4 to 29, then the numbers ``n30`` … as themselves."""


def word_tokenizer(*, bos: str | None = "<s>", eos: str | None = "</s>", pad: str | None = "<pad>") -> Any:
    words = ["<pad>", "<s>", "</s>", "<unk>", *map(chr, range(97, 123)), *(f"n{i}" for i in range(30, VOCAB))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, pad_token=pad, unk_token="<unk>")


def build(source: str | Path, tokenizer: Any = None, *, seed: int = 0, **options: Any) -> Corpus:
    call = {"max_context": 64, "vocab_size": VOCAB, "limit": None, "data_dir": None}
    call |= {name: options.pop(name) for name in call.keys() & options.keys()}
    return build_corpus(CorpusSpec(source=str(source), **options), tokenizer or word_tokenizer(), seed=seed, **call)


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path

"""The generator's labels, carried over from pieces of text to the tokens of a tokenizer.

Letters: ``N`` contexts, ``L`` positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from saebench.data.corpus import Corpus
from saebench.data.sources import STORYWORLD, storyworld_part
from saebench.data.spec import CorpusSpec
from saebench.data.storyworld.document import Document
from saebench.data.storyworld.generate import generate
from saebench.data.storyworld.variables import VARIABLES
from saebench.errors import InputError, did_you_mean

NO_TEXT = -1
"""Label of a token that covers no text: BOS, separators, padding. 0 says that the variable does not apply to the word."""
_AT_ONCE = 64


class DocumentTokens(NamedTuple):
    """A document's tokens and the piece that each belongs to."""

    ids: Int[np.ndarray, " T"]
    pieces: Int[np.ndarray, " T"]
    """Index of the piece that covers the token's last character; −1 where the token covers none."""


def document_tokens(documents: Sequence[Document], tokenizer: Any) -> list[DocumentTokens]:
    """Return the tokens of documents, each with the piece that its last character belongs to.

    A token that spans several pieces, such as one for two words, thus carries the last one's labels, which is all that a
    model reading from left to right has just seen.

    Args:
        documents: What to tokenise.
        tokenizer: A Hugging Face tokenizer that gives offsets.

    Raises:
        InputError: The tokenizer gives no offsets.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} gives no offsets of its tokens; labels need a fast tokenizer")
    read = tokenizer(
        [document.text for document in documents],
        add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False,
    )  # fmt: skip
    out = []
    for document, ids, offsets in zip(documents, read["input_ids"], read["offset_mapping"], strict=True):
        ends = np.cumsum([len(piece) for piece in document.pieces])
        last = np.array([end for _, end in offsets], dtype=np.int64) - 1
        pieces = np.where(last < 0, NO_TEXT, np.searchsorted(ends, last, side="right"))
        out.append(DocumentTokens(np.array(ids, dtype=np.int64), pieces))
    return out


def token_labels(
    corpus: Corpus, spec: CorpusSpec, tokenizer: Any, variables: Sequence[str], *, seed: int
) -> dict[str, Int[Tensor, "N L"]]:
    """Return each variable's label of every token of a corpus, an index into ``VARIABLES[name].values``.

    The documents are generated again and compared with the corpus, so labels cannot slip against tokens.

    Args:
        corpus: What :func:`saebench.data.build_corpus` made with the arguments that follow.
        spec: Names the generated corpus and its part.
        tokenizer: The model's tokenizer, which must give offsets.
        variables: Names from ``VARIABLES``.
        seed: The corpus's seed.

    Returns:
        By name, int16; ``NO_TEXT`` (−1) at tokens that cover no text.

    Raises:
        InputError: An unknown variable, another corpus, or one made with other arguments than these.
    """
    part = storyworld_part(spec)
    if part is None:
        raise InputError(f"{spec.source} has no labels for its tokens; only {STORYWORLD} does")
    for name in variables:
        if name not in VARIABLES:
            raise InputError(f"{STORYWORLD} has no variable {name!r}.{did_you_mean(name, VARIABLES)} See VARIABLES.")
    text = _text(corpus, tokenizer)
    wanted = corpus.tokens[text].numpy()
    columns: dict[str, list[NDArray[np.int16]]] = {name: [] for name in variables}
    done = 0
    for document, found in _read(generate(seed, part), tokenizer):
        own = wanted[done : done + len(found.ids)]
        if not np.array_equal(found.ids[: len(own)], own):
            raise InputError(
                f"token {done} to {done + len(own)} of {corpus.name} are not what seed {seed} of the {part} part gives; "
                "name the seed, the part and the tokenizer that it was made with"
            )
        for name, parts in columns.items():
            labels = np.array([*document.labels(name), NO_TEXT], dtype=np.int16)  # the last one is piece −1's
            parts.append(labels[found.pieces[: len(own)]])
        done += len(own)
        if done == len(wanted):
            break
    out = {}
    for name, parts in columns.items():
        out[name] = torch.full(corpus.tokens.shape, NO_TEXT, dtype=torch.int16)
        out[name][text] = torch.from_numpy(np.concatenate(parts))
    return out


def _read(documents: Iterator[Document], tokenizer: Any) -> Iterator[tuple[Document, DocumentTokens]]:
    documents = (document for document in documents if document.text.strip())
    while batch := list(islice(documents, _AT_ONCE)):
        yield from zip(batch, document_tokens(batch, tokenizer), strict=True)


def _text(corpus: Corpus, tokenizer: Any) -> Bool[Tensor, "N L"]:
    """Return where the corpus holds text: what is scored, and position 0 of contexts that do not begin with BOS."""
    text = corpus.scored.clone()
    if tokenizer.bos_token_id is None:
        text[:, 0] = corpus.valid[:, 0]
        if tokenizer.eos_token_id is not None:
            text[:, 0] &= corpus.tokens[:, 0] != tokenizer.eos_token_id
    return text

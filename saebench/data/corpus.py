"""The corpus: contexts of token ids with their masks, the same on every machine for the same seed.

Letters: ``N`` contexts, ``L`` positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from torch import Tensor

from saebench.data.packing import Packed, pack_text
from saebench.data.pretokenized import has_ids, read_ids
from saebench.data.sources import open_source
from saebench.data.spec import CorpusSpec
from saebench.errors import InputError

_MIN_CONTEXT = 4
_DEFAULT_CONTEXT = 1024


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Contexts, and what is needed to trust and to find them again."""

    tokens: Int[Tensor, "N L"]
    valid: Bool[Tensor, "N L"]
    """False on padding."""
    scored: Bool[Tensor, "N L"]
    """Positions whose acts are scored: valid, not position 0, not a separator that packing put in."""
    name: str
    origin: str
    revision: str | None
    sha256: str
    """SHA-256 of shape, ids (int64, little-endian) and mask."""
    context_length: int
    rule: str
    """How the contexts were made, in words."""
    n_documents: int | None = None
    """Documents the contexts were cut from; ``None`` where they came pre-tokenised."""
    has_bos: bool = False
    """Whether position 0 is known to be the BOS token in every context."""
    warnings: tuple[str, ...] = ()

    @property
    def predicted(self) -> Bool[Tensor, "N L"]:
        """Positions whose prediction of the next token is scored: both are, so no padding and no separator is predicted."""
        predicted = self.scored.clone()
        predicted[:, :-1] &= self.scored[:, 1:]
        predicted[:, -1] = False
        return predicted


def build_corpus(
    spec: CorpusSpec,
    tokenizer: Any,
    *,
    seed: int,
    max_context: int,
    vocab_size: int,
    limit: int | None = None,
    data_dir: Path | None = None,
) -> Corpus:
    """Build the contexts.

    Text: documents are shuffled (or generated) by the seed, tokenised without added special tokens, joined by the
    separator, and cut into contexts that each begin with BOS; the incomplete rest is dropped. A ``.txt`` file is one
    document, or several between lines ``<|endoftext|>``, and is read in order. Its contexts, and pre-tokenised ones, are
    taken as they are; where fewer are wanted than there are, the seed chooses and file order is kept.

    Args:
        spec: What to read.
        tokenizer: The model's tokenizer.
        seed: Chooses the text.
        max_context: The model's longest context.
        vocab_size: The model's vocabulary.
        limit: Contexts at most; the smaller of this and ``spec.n_contexts`` counts.
        data_dir: Folder of a local mirror.

    Raises:
        InputError: No such corpus, an empty or damaged one, ids outside the vocabulary, a context the model cannot
            take, or a hub stream or the generator without a number of contexts.
    """
    wanted = min((n for n in (spec.n_contexts, limit) if n is not None), default=None)
    if wanted is not None and wanted < 1:
        raise InputError(f"the number of contexts must be 1 or more, got {wanted}")
    if spec.context_length is not None:
        _check_length(spec.context_length, max_context)
    source = open_source(spec, seed=seed, data_dir=data_dir)
    if source.shuffled and wanted is None:
        raise InputError(f"{spec.source} is a stream without an end in sight; say how much with --limit")
    if has_ids(source):
        packed = read_ids(source, spec, tokenizer, wanted=wanted, seed=seed)
    else:
        length = spec.context_length or min(_DEFAULT_CONTEXT, max_context)
        packed = pack_text(source, spec, tokenizer, length=length, wanted=wanted, seed=seed)
    _check_length(packed.tokens.shape[1], max_context)
    _check_ids(packed, spec.source, vocab_size)
    return _finish(spec, packed, tokenizer, source.origin, source.revision)


def _check_length(length: int, max_context: int) -> None:
    if length > max_context:
        raise InputError(
            f"contexts of {length} tokens do not fit the model, which takes {max_context}; "
            f"use --context-length {max_context} or less"
        )
    if length < _MIN_CONTEXT:
        raise InputError(f"contexts of {length} tokens are too short to score; use --context-length {_MIN_CONTEXT} or more")


def _check_ids(packed: Packed, source: str, vocab_size: int) -> None:
    low, high = int(packed.tokens.min()), int(packed.tokens.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise InputError(
            f"{source} holds token id {bad}, outside the model's vocabulary of {vocab_size}; it was tokenised for another model"
        )


def _finish(spec: CorpusSpec, packed: Packed, tokenizer: Any, origin: str, revision: str | None) -> Corpus:
    scored = packed.valid.clone()
    scored[:, 0] = False
    if packed.separators is not None:
        scored &= ~packed.separators
    if not bool(scored[:, :-1].any()):
        raise InputError(f"{spec.source} is empty: it holds no token that could be scored; give a longer text")
    bos, warnings = tokenizer.bos_token_id, []
    has_bos = bos is not None and bool((packed.tokens[:, 0] == bos).all())
    if bos is not None and not has_bos:
        without = int((packed.tokens[:, 0] != bos).sum())
        warnings.append(
            f"{without} of {len(packed.tokens)} contexts do not begin with BOS; position 0 is left out of the scores all the same"
        )
    inside = 0 if bos is None else int(((packed.tokens == bos) & scored).sum())
    if inside:
        warnings.append(f"{inside} BOS tokens stand inside the contexts and are scored like any token")
    return Corpus(
        tokens=packed.tokens,
        valid=packed.valid,
        scored=scored,
        name=spec.source if spec.config is None else f"{spec.source}:{spec.config}",
        origin=origin,
        revision=revision,
        sha256=_hash(packed),
        context_length=packed.tokens.shape[1],
        rule=packed.rule,
        n_documents=packed.n_documents,
        has_bos=has_bos,
        warnings=tuple(warnings),
    )


def _hash(packed: Packed) -> str:
    digest = hashlib.sha256(repr(tuple(packed.tokens.shape)).encode())
    digest.update(np.ascontiguousarray(packed.tokens.numpy(), dtype="<i8").tobytes())
    digest.update(np.packbits(packed.valid.numpy()).tobytes())
    return digest.hexdigest()

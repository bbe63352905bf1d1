"""Text to contexts: BOS, documents joined by a separator, cut to length."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from saebench.data.sources import Source, text_of
from saebench.data.spec import CorpusSpec
from saebench.errors import InputError

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Contexts and the rule that made them."""

    tokens: Int[Tensor, "N L"]
    valid: Bool[Tensor, "N L"]
    separators: Bool[Tensor, "N L"] | None = None
    """Where packing put a separator; these are no text and are not scored."""
    rule: str
    n_documents: int | None = None
    """Documents that begin within the text that was cut into contexts; ``None`` where it came pre-tokenised."""


def pack_text(source: Source, spec: CorpusSpec, tokenizer: Any, *, length: int, wanted: int | None, seed: int) -> Packed:
    """Return contexts of ``length`` tokens; reading stops as soon as ``wanted`` are full.

    A text shorter than one context becomes one context, padded on the right.
    """
    bos, between = tokenizer.bos_token_id, _separator(spec, tokenizer)
    body = length - (bos is not None)
    rows = source.rows()
    if not source.shuffled and not source.in_order:
        documents = [text_of(row, spec.text_column, spec.source) for row in rows]
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(documents))
        texts = (documents[i] for i in order)
    else:
        texts = (text_of(row, spec.text_column, spec.source) for row in rows)
    need = None if wanted is None or source.in_order else wanted * body
    stream, starts = _tokens(texts, tokenizer, between, need)
    n = len(stream) // body
    rule = _rule(bos, between, tokenizer, length)
    if not n:
        if not len(stream):
            raise InputError(f"{spec.source} is empty: its text has no tokens")
        return _short(stream, body, between, tokenizer, rule=rule, n_documents=len(starts))
    used = n * body if need is None else min(n * body, need)
    bodies = stream[: n * body].reshape(n, body)
    if wanted is not None and n > wanted:
        chosen = np.arange(wanted)
        if source.in_order:
            chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(n)[:wanted])
        bodies = bodies[chosen]
    tokens = torch.from_numpy(np.ascontiguousarray(bodies))
    if bos is not None:
        tokens = torch.cat([torch.full((len(tokens), 1), bos), tokens], 1)
    return Packed(
        tokens=tokens,
        valid=torch.ones_like(tokens, dtype=torch.bool),
        separators=None if between is None else tokens == between,
        rule=rule,
        n_documents=bisect_left(starts, used),
    )


def _tokens(texts: Iterator[str], tokenizer: Any, between: int | None, need: int | None) -> tuple[NDArray[np.int64], list[int]]:
    """Return the ids of the texts, joined, and where each text begins; stops once ``need`` ids are there."""
    parts: list[NDArray[np.int64]] = []
    starts: list[int] = []
    have = 0
    texts = (text for text in texts if text.strip())
    while batch := list(islice(texts, _AT_ONCE)):
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            if between is not None and have:
                parts.append(np.array([between]))
                have += 1
            starts.append(have)
            parts.append(np.asarray(ids, dtype=np.int64))
            have += len(ids)
        if need is not None and have >= need:
            break
    return (np.concatenate(parts) if parts else np.zeros(0, np.int64)), starts


def _short(stream: NDArray[np.int64], body: int, between: int | None, tokenizer: Any, *, rule: str, n_documents: int) -> Packed:
    """Return the one context of a text too short to fill it, padded on the right."""
    bos = tokenizer.bos_token_id
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None), 0)
    padded = np.full(body, filler, np.int64)
    padded[: len(stream)] = stream
    start = [] if bos is None else [bos]
    tokens = torch.tensor([[*start, *padded.tolist()]])
    valid = torch.zeros_like(tokens, dtype=torch.bool)
    valid[:, : len(start) + len(stream)] = True
    return Packed(
        tokens=tokens,
        valid=valid,
        separators=None if between is None else (tokens == between) & valid,
        rule=f"{rule}; one short text, padded on the right",
        n_documents=n_documents,
    )


def _separator(spec: CorpusSpec, tokenizer: Any) -> int | None:
    """Return the id between documents, ``None`` for no separator or one that the tokenizer lacks.

    ``auto``: EOS where it doubles as BOS or stands alone (GPT-2, Pythia, Qwen were trained with it between documents);
    nothing where the two differ (Llama, Gemma: an EOS in mid-text is strange to them, and an inner BOS is a sink of
    attention that SAEs are not trained on).
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    choices = {"auto": eos if bos in (None, eos) else None, "eos": eos, "bos": bos, "none": None}
    if spec.separator not in choices:
        raise InputError(f"unknown separator {spec.separator!r}; use {', '.join(choices)}")
    return choices[spec.separator]


def _rule(bos: int | None, between: int | None, tokenizer: Any, length: int) -> str:
    start = "no BOS (the tokenizer has none)" if bos is None else "BOS at the start of each context"
    name = None if between is None else tokenizer.convert_ids_to_tokens(between)
    joined = "joined without a separator" if name is None else f"joined by {name}"
    inner = "" if name is None else " and separators"
    return f"{start}; documents {joined}, cut to {length} tokens, the incomplete rest dropped; position 0{inner} never scored"

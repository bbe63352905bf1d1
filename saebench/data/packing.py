"""Text to contexts: BOS, documents joined by a separator, cut to length."""

from __future__ import annotations

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
    made_here: bool
    """Whether the packing is ours (else the contexts came pre-tokenised)."""


def pack_text(
    source: Source, spec: CorpusSpec, tokenizer: Any, *, length: int, wanted: int | None, seed: int
) -> Packed:
    """Return contexts of ``length`` tokens; reading stops as soon as ``wanted`` are full.

    A text shorter than one context becomes one context, padded on the right.
    """
    bos, between = tokenizer.bos_token_id, _separator(spec, tokenizer)
    body = length - (bos is not None)
    rows = source.rows()
    if not source.shuffled and not source.one_document:
        documents = [text_of(row, spec.text_column, spec.source) for row in rows]
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(documents))
        texts = (documents[i] for i in order)
    else:
        texts = (text_of(row, spec.text_column, spec.source) for row in rows)
    need = None if wanted is None or source.one_document else wanted * body
    stream = _tokens(texts, tokenizer, between, need)
    n = len(stream) // body
    if not n:
        if not len(stream):
            raise InputError(f"{spec.source} is empty: its text has no tokens")
        return _short(stream, body, bos, tokenizer, _rule(bos, between, tokenizer, length))
    bodies = stream[: n * body].reshape(n, body)
    if wanted is not None and n > wanted:
        chosen = np.arange(wanted)
        if source.one_document:
            chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(n)[:wanted])
        bodies = bodies[chosen]
    tokens = torch.from_numpy(np.ascontiguousarray(bodies))
    if bos is not None:
        tokens = torch.cat([torch.full((len(tokens), 1), bos), tokens], 1)
    return Packed(
        tokens=tokens,
        valid=torch.ones_like(tokens, dtype=torch.bool),
        separators=None if between is None else tokens == between,
        rule=_rule(bos, between, tokenizer, length),
        made_here=True,
    )


def _tokens(texts: Any, tokenizer: Any, between: int | None, need: int | None) -> NDArray[np.int64]:
    """Return the ids of the texts, joined; stops once ``need`` are there."""
    parts: list[NDArray[np.int64]] = []
    have = 0
    texts = (text for text in texts if text.strip())
    while batch := list(islice(texts, _AT_ONCE)):
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            if between is not None and have:
                parts.append(np.array([between]))
                have += 1
            parts.append(np.asarray(ids, dtype=np.int64))
            have += len(ids)
        if need is not None and have >= need:
            break
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _short(stream: NDArray[np.int64], body: int, bos: int | None, tokenizer: Any, rule: str) -> Packed:
    filler = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None), 0)
    padded = np.full(body, filler, np.int64)
    padded[: len(stream)] = stream
    start = [] if bos is None else [bos]
    tokens = torch.tensor([[*start, *padded.tolist()]])
    valid = torch.zeros_like(tokens, dtype=torch.bool)
    valid[:, : len(start) + len(stream)] = True
    return Packed(tokens=tokens, valid=valid, rule=f"{rule}; one short text, padded on the right", made_here=True)


def _separator(spec: CorpusSpec, tokenizer: Any) -> int | None:
    """Return the id between documents. ``auto``: EOS where it doubles as BOS or stands alone (GPT-2, Pythia, Qwen were trained
    with it between documents); nothing where the two differ (Llama, Gemma: an EOS in mid-text is strange to them, and an inner
    BOS is a sink of attention that SAEs are not trained on).
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    choices = {"auto": eos if bos in (None, eos) else None, "eos": eos, "bos": bos, "none": None}
    if spec.separator not in choices:
        raise InputError(f"unknown separator {spec.separator!r}; use {', '.join(choices)}")
    return choices[spec.separator]


def _rule(bos: int | None, between: int | None, tokenizer: Any, length: int) -> str:
    start = "no BOS (the tokenizer has none)" if bos is None else "BOS at the start of each context"
    joined = "joined without a separator" if between is None else f"joined by {tokenizer.convert_ids_to_tokens(between)}"
    inner = "" if between is None else " and separators"
    return f"{start}; documents {joined}, cut to {length} tokens, the incomplete rest dropped; position 0{inner} never scored"

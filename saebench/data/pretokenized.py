"""Contexts that somebody tokenised already: a ``.npy`` array, or a data set with ``input_ids``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.data.packing import Packed
from saebench.data.sources import Source
from saebench.data.spec import CorpusSpec
from saebench.errors import InputError


def has_ids(source: Source) -> bool:
    """Return whether the source holds token ids rather than text."""
    return source.ids is not None or (source.first is not None and "input_ids" in source.first)


def read_ids(source: Source, spec: CorpusSpec, tokenizer: Any, *, wanted: int | None, seed: int) -> Packed:
    """Return the contexts, cut on the right to ``spec.context_length`` if that is given.

    Padding is where ``attention_mask`` is 0; without a mask, a run of the pad token at the end of a context, if that token is
    neither BOS nor EOS.

    Raises:
        InputError: Contexts of several lengths without a mask, or shorter than asked.
    """
    ids, mask = (source.ids, None) if source.ids is not None else _from_rows(source, spec, wanted)
    assert ids is not None
    if wanted is not None and wanted < len(ids):
        chosen = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(len(ids))[:wanted])
        ids, mask = ids[chosen], None if mask is None else mask[chosen]
    length = spec.context_length or ids.shape[1]
    if length > ids.shape[1]:
        raise InputError(f"{spec.source} holds contexts of {ids.shape[1]} tokens, shorter than the {length} asked for; use --context-length {ids.shape[1]}")
    tokens = torch.from_numpy(np.array(ids[:, :length], dtype=np.int64))
    if mask is not None:
        valid = torch.from_numpy(np.array(mask[:, :length], dtype=bool))
    else:
        valid = torch.from_numpy(_not_trailing_pad(tokens.numpy(), tokenizer))
    if not bool((valid[:, :-1] | ~valid[:, 1:]).all()):
        raise InputError(f"{spec.source} is padded on the left; positions would not count from BOS, so pad it on the right")
    rule = f"pre-tokenised contexts, first {length} of {ids.shape[1]} tokens; position 0 is never scored"
    return Packed(tokens=tokens, valid=valid, rule=rule, made_here=False)


def _from_rows(source: Source, spec: CorpusSpec, wanted: int | None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    ids, masks = [], []
    for row in source.rows():
        ids.append(row.get("input_ids"))
        masks.append(row.get("attention_mask"))
        if source.shuffled and wanted is not None and len(ids) >= wanted:
            break
    lengths = {len(i) if isinstance(i, list) else -1 for i in ids}
    if -1 in lengths or 0 in lengths:
        raise InputError(f"{spec.source}: column 'input_ids' does not hold lists of token ids in every row")
    if len(lengths) > 1:
        raise InputError(
            f"{spec.source}: contexts have {len(lengths)} different lengths ({min(lengths)} to {max(lengths)}); pad them on the right to one"
        )
    try:
        array = np.array(ids, dtype=np.int64)
        mask = np.array(masks, dtype=bool) if all(m is not None for m in masks) else None
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{spec.source}: column 'input_ids' holds something other than whole numbers") from None
    return array, mask


def _not_trailing_pad(tokens: NDArray[np.int64], tokenizer: Any) -> NDArray[np.bool_]:
    pad = tokenizer.pad_token_id
    if pad is None or pad in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return np.ones(tokens.shape, dtype=bool)
    return np.flip(np.cumsum(np.flip(tokens != pad, 1), 1) > 0, 1).copy()

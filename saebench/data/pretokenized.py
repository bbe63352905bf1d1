"""Contexts that somebody tokenised already: a ``.npy`` array, or a data set with ``input_ids``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.data.datasets import Row
from saebench.data.packing import Packed
from saebench.data.sources import Source
from saebench.data.spec import CorpusSpec
from saebench.errors import InputError


def has_ids(source: Source) -> bool:
    """Return whether the source holds token ids rather than text."""
    return source.ids is not None or (source.first is not None and "input_ids" in source.first)


def read_ids(source: Source, spec: CorpusSpec, tokenizer: Any, *, wanted: int | None, seed: int) -> Packed:
    """Return the contexts, cut on the right to ``spec.context_length`` if that is given.

    All of them in file order, or ``wanted`` that the seed chooses, kept in file order; of a hub stream, whose order is
    the seed's already, the first. Padding is where ``attention_mask`` is 0; without a mask, a run of the pad token at
    the end of a context, if that token is neither BOS nor EOS.

    Raises:
        InputError: Contexts of several lengths, shorter than asked, padded on the left, or not of whole numbers.
    """
    ids, mask = _array(source.ids, wanted, seed) if source.ids is not None else _from_rows(source, spec, wanted, seed)
    length = spec.context_length or ids.shape[1]
    if length > ids.shape[1]:
        raise InputError(
            f"{spec.source} holds contexts of {ids.shape[1]} tokens, shorter than the {length} asked for; "
            f"use --context-length {ids.shape[1]}"
        )
    tokens = np.array(ids[:, :length], dtype=np.int64)
    valid = torch.from_numpy(_not_trailing_pad(tokens, tokenizer) if mask is None else mask[:, :length].copy())
    if not bool((valid[:, :-1] | ~valid[:, 1:]).all()):
        raise InputError(f"{spec.source} has padding before text; positions would not count from BOS, so pad it on the right")
    rule = f"pre-tokenised contexts, first {length} of {ids.shape[1]} tokens; position 0 is never scored"
    return Packed(tokens=torch.from_numpy(tokens), valid=valid, rule=rule)


def _chosen(n: int, wanted: int | None, seed: int) -> NDArray[np.int64]:
    if wanted is None or wanted >= n:
        return np.arange(n)
    return np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(n)[:wanted])


def _array(ids: NDArray[Any], wanted: int | None, seed: int) -> tuple[NDArray[Any], None]:
    return ids[_chosen(len(ids), wanted, seed)], None


def _from_rows(
    source: Source, spec: CorpusSpec, wanted: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    rows: Iterator[Row] = source.rows()
    if source.table is not None:
        rows = source.table.take(_chosen(len(source.table), wanted, seed))
    elif source.shuffled:
        rows = islice(rows, wanted)
    read = [(_whole(row, "input_ids", spec.source), row.get("attention_mask")) for row in rows]
    if source.table is None and not source.shuffled:
        read = [read[i] for i in _chosen(len(read), wanted, seed)]
    lengths = {len(ids) for ids, _ in read}
    if len(lengths) > 1:
        raise InputError(
            f"{spec.source}: contexts have {len(lengths)} different lengths ({min(lengths)} to {max(lengths)}); "
            "pad them on the right to one"
        )
    ids = np.stack([ids for ids, _ in read])
    if any(mask is None for _, mask in read):
        return ids, None
    masks = [_whole({"attention_mask": mask}, "attention_mask", spec.source, "biu") for _, mask in read]
    if any(len(mask) != ids.shape[1] for mask in masks):
        raise InputError(f"{spec.source}: 'attention_mask' and 'input_ids' have different lengths; write them again")
    return ids, np.stack(masks) != 0


def _whole(row: Row, column: str, source: str, kinds: str = "iu") -> NDArray[np.int64]:
    """Return a row's list of whole numbers."""
    try:
        array = np.asarray(row.get(column))
    except (ValueError, OverflowError):  # nested lists of several lengths
        array = np.zeros(0)
    if array.ndim != 1 or not len(array) or array.dtype.kind not in kinds:
        raise InputError(f"{source}: column {column!r} does not hold a list of whole numbers in every row")
    return array.astype(np.int64)


def _not_trailing_pad(tokens: NDArray[np.int64], tokenizer: Any) -> NDArray[np.bool_]:
    pad = tokenizer.pad_token_id
    if pad is None or pad in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return np.ones(tokens.shape, dtype=bool)
    return np.flip(np.cumsum(np.flip(tokens != pad, 1), 1) > 0, 1).copy()

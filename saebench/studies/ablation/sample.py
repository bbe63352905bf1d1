"""Which tokens are looked at: as many from each band of positions, drawn by the seed.

Letters: ``N`` tokens, ``B`` contexts of a part, ``M`` tokens of a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from saebench.data import Corpus
from saebench.errors import InputError

BANDS = 8
"""Bands that the positions are split into, of about one width."""
FEWER = 4
"""Contexts go through the model so many times fewer at once than elsewhere, since each part is read as far as it is needed."""


class Sampled(NamedTuple):
    """Tokens, in the order of the text."""

    context: Int[np.ndarray, " N"]
    position: Int[np.ndarray, " N"]


def sample_tokens(corpus: Corpus, *, n: int, width: int, seed: int) -> Sampled:
    """Return ``n`` scored tokens that are followed by ``width`` − 1 more in their context; all if there are fewer.

    Bands are drawn from in turn, so that each gives as many as it can.

    Args:
        corpus: The contexts.
        n: How many.
        width: Positions that an effect is looked for at, the token's own first.
        seed: Which.

    Raises:
        InputError: No token is followed by so many.
    """
    length = corpus.context_length
    if width > length - 1:
        raise InputError(
            f"an effect over {width} positions does not fit contexts of {length} tokens, whose first is left out; "
            f"use contexts of {width + 1} or more (--context-length), or a smaller `positions`"
        )
    whole = corpus.valid.unfold(1, width, 1).all(2)
    eligible = (corpus.scored[:, : whole.shape[1]] & whole).numpy()
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for band, columns in enumerate(np.array_split(np.arange(1, eligible.shape[1]), BANDS)):
        context, position = np.nonzero(eligible[:, columns])
        order = torch.randperm(len(context), generator=generator).numpy()
        places = np.stack([context[order], columns[position[order]]], 1) if len(columns) else np.zeros((0, 2), dtype=np.int64)
        drawn.append(np.column_stack([np.arange(len(places)), np.full(len(places), band), places]))
    turns = np.concatenate(drawn)
    if not len(turns):
        raise InputError(f"no token is followed by {width - 1} more in its context; use longer contexts or a smaller `positions`")
    kept = turns[np.lexsort((turns[:, 1], turns[:, 0]))][:n]
    kept = kept[np.lexsort((kept[:, 3], kept[:, 2]))]
    return Sampled(kept[:, 2], kept[:, 3])


class Part(NamedTuple):
    """Some contexts with sampled tokens."""

    context: Int[np.ndarray, " B"]
    length: int
    """Positions of them that anybody looks at; nothing depends on what comes behind."""
    number: Int[np.ndarray, " M"]
    """The sampled tokens that lie in them, rising."""
    row: Int[np.ndarray, " M"]
    """The context of each, among these."""


def in_parts(sampled: Sampled, *, width: int, size: int) -> Iterator[Part]:
    """Yield the contexts that hold sampled tokens, those together of which as much is needed.

    Args:
        sampled: The tokens.
        width: Positions that an effect is looked for at, the token's own first.
        size: Contexts at a time.
    """
    contexts, of = np.unique(sampled.context, return_inverse=True)
    ends = np.zeros(len(contexts), dtype=np.int64)
    np.maximum.at(ends, of, sampled.position + width)
    order = np.argsort(ends, kind="stable")
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        row = np.full(len(contexts), -1)
        row[chosen] = np.arange(len(chosen))
        number = np.flatnonzero(row[of] >= 0)
        yield Part(contexts[chosen], int(ends[chosen].max()), number, row[of[number]])


def generator_for(seed: int, token: int, kind: int) -> torch.Generator:
    """Return a generator that one token and one kind of draw has for itself, whatever else is drawn."""
    (state,) = np.random.SeedSequence([seed, token, kind]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def choose(token: Int[Tensor, " A"], numbers: list[int], n: int, *, seed: int, kind: int) -> Int[Tensor, " C"]:
    """Return ``n`` entries of each token, or all that it has, in order.

    Args:
        token: Token of each entry, rising.
        numbers: What each token is called in the whole sample.
        n: How many.
        seed: Which.
        kind: Of draw.
    """
    counts = torch.bincount(token, minlength=len(numbers)).tolist()
    kept, start = [], 0
    for number, count in zip(numbers, counts, strict=True):
        chosen = torch.randperm(count, generator=generator_for(seed, number, kind))[:n].sort().values
        kept.append(chosen + start)
        start += count
    return torch.cat(kept).to(token.device) if kept else token[:0]

"""What each thing that is taken out does to the predictions: its norms, and the change of the final norm's output.

A thing is compared with the same positions of the same text unchanged, which go through the model beside it.

Letters: ``A`` things taken out, ``a`` some of them, ``T`` positions, ``M`` d_model, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.lm.effects import Sizes, effect_sizes, norms_about_median
from saebench.lm.onward import Base, Onward
from saebench.studies.ablation.removed import Removed, Tokens


class Effect(NamedTuple):
    """Some things in a row."""

    part: slice
    """Which of them."""
    sizes: Sizes
    change: Float[Tensor, "a T M"]
    """Of the final norm's output: taken out less unchanged."""


def effects(onward: Onward, base: Base, tokens: Tokens, removed: Removed, *, at_once: int) -> Iterator[Effect]:
    """Yield the effect of every thing, as many at a time as fit.

    Args:
        onward: The model behind the site.
        base: Clean or spliced.
        tokens: Where.
        removed: What.
        at_once: Texts that go through the model at once, the unchanged ones counted.
    """
    start = 0
    while start < len(removed):
        # one row more for each token whose things begin here; a thing by itself needs two
        first = removed.token[start : start + at_once]
        cost = torch.arange(1, len(first) + 1, device=first.device) + 1 + (first.diff(prepend=first[:1]) != 0).cumsum(0)
        count = max(1, int((cost <= at_once).sum()))
        part = slice(start, start + count)
        which, inverse = torch.unique_consecutive(removed.token[part], return_inverse=True)
        change = removed.change(part)
        of = torch.cat([which, removed.token[part]])
        change = torch.cat([change.new_zeros(len(which), change.shape[1]), change])
        final = onward.finals(base, tokens.row[of], tokens.position[of], change)
        unchanged = final[: len(which)][inverse]
        final = final[len(which) :]
        yield Effect(part, effect_sizes(onward.port.model, final, unchanged), final - unchanged)
        start += count


def gaussian_sparsity(width: int, d_vocab: int, *, draws: int, seed: int) -> Float[np.ndarray, " n"]:
    """Return the sparsity of effects that are independent normal numbers: 2/π but for their finite number.

    Args:
        width: ``T``.
        d_vocab: ``V``.
        draws: How many effects.
        seed: Which.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        norms = norms_about_median(torch.randn(width, d_vocab, generator=generator))
        found.append(Sizes(*norms[:, None]).sparsity(d_vocab)[0])
    return np.array(found)

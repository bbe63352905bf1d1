"""Attention of very many short texts where heads are narrow.

Torch's attention goes from text to text and from head to head. Where a head is some eight numbers wide and a text some eight
tokens long, that is too little to fill a vector unit, and most of the time goes into getting started. Here texts stand along
the last axis, so that each step is one operation on all of them.

Letters: ``K`` heads of keys and values, ``G`` heads of queries for each, ``D`` their width, ``R`` texts, ``L`` their tokens,
``P`` tokens that look.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

WIDTH, LENGTH = 16, 24
"""Heads and texts up to which it is the faster way, on a CPU."""


def attend_narrow(
    query: Float[Tensor, "K G D P R"],
    key: Float[Tensor, "K D L R"],
    value: Float[Tensor, "K D L R"],
    sees: Bool[Tensor, "P L same"],
    scale: float,
) -> Float[Tensor, "K G D P R"]:
    """Return softmax(scale · q·k) v over the keys that each query sees; NaN where it sees none.

    Args:
        query: Of the tokens that look.
        key: Of all tokens of the texts.
        value: As ``key``.
        sees: For each text, or once for all.
        scale: What q·k is multiplied by.

    Source: Vaswani et al. 2017, section 3.2.1; the sums in another order than torch's.
    """
    query = query * scale
    scores = torch.where(sees, 0.0, -torch.inf).to(query).expand(*query.shape[:2], -1, -1, query.shape[4]).contiguous()
    for d in range(query.shape[2]):
        scores.addcmul_(query[:, :, d, :, None], key[:, None, d, None])
    weights = scores.softmax(3)
    out = weights[:, :, None, :, 0] * value[:, None, :, None, 0]
    for token in range(1, value.shape[2]):
        out.addcmul_(weights[:, :, None, :, token], value[:, None, :, None, token])
    return out

"""Where heads of the reference model are told to look while it trains: some back by so many tokens, some at the next word.

The second is what Kadlec et al. 2016 (arXiv:1603.01547, the attention sum reader) train by on the Children's Book Test: the
attention at all places where the answer stands is to add up to 1. Here every rare token that its document has said before is
such an answer. Where heads look is learned from it; what is done with what they see is left to the language model's loss.

Letters: ``B`` contexts, ``L`` positions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .reference_init import BACK, pointing
from .reference_text import END_ID

_PLACES = 48
"""Positions of a context at which heads that look back are looked at."""
_POINTERS = 6
"""Heads of a block that point; what the others look for is their own affair."""
_BACK_WEIGHT = 0.5
"""What looking back counts beside pointing: it begins right and only has to stay so."""


class Looks:
    """Scores where a GPT-2's heads look. The model's forward must run first, on the same contexts.

    Args:
        model: A ``GPT2LMHeadModel`` as :func:`.reference_init.begin` begins it.
    """

    def __init__(self, model: Any) -> None:
        blocks = model.transformer.h
        self._heads = blocks[0].attn.num_heads
        self._pointing = [block for block in pointing(len(blocks)) if block]
        self._found: dict[int, Tensor] = {}
        for block in (0, *self._pointing):
            blocks[block].attn.c_attn.register_forward_hook(self._keep(block))

    def _keep(self, block: int) -> Any:
        def keep(_module: nn.Module, _args: Any, out: Tensor) -> None:
            self._found[block] = out

        return keep

    def loss(self, tokens: Int[Tensor, "B L1"], answers: Bool[Tensor, "B L1"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean over pointing heads and answers of −ln of the attention on the answer, and half that of looking back.

        An answer at position t + 1 is pointed at from t: −ln Σ_{s ≤ t, same document, x_s = x_{t+1}} a(t, s). A head that looks
        j tokens back: −ln a(t, t − j) at 48 positions a context. a is the softmax of the scores of all s ≤ t. In nats.

        Args:
            tokens: Contexts, each with the token behind it (``L1`` = L + 1).
            answers: Which tokens are to be pointed at: each stood before in its document.
            generator: Draws the positions, on the CPU.
        """
        found, self._found = self._found, {}
        back = self._back(found[0].float(), generator)
        pointed = [self._pointed(found[block].float(), tokens, answers) for block in self._pointing]
        return _BACK_WEIGHT * back + (torch.stack(pointed).mean() if pointed else 0.0)

    def _back(self, out: Float[Tensor, "B L D3"], generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean of −ln a(t, t − j) over contexts, heads j and random positions t; ``out``: queries, keys, values."""
        n, length, _ = out.shape
        first = min(BACK, length - 1)
        at = torch.randint(first, length, (n, _PLACES), generator=generator).to(out.device)
        query, key, _ = (part.unflatten(2, (self._heads, -1)).transpose(1, 2) for part in out.chunk(3, 2))
        by = torch.arange(1, min(BACK, self._heads, first) + 1, device=out.device)
        query = query[torch.arange(n, device=out.device)[:, None], :, at][:, :, : len(by)].transpose(1, 2)  # B heads places k
        scores = query @ key[:, : len(by)].transpose(2, 3) / math.sqrt(query.shape[-1])
        scores = scores.masked_fill(torch.arange(length, device=out.device) > at[:, None, :, None], -torch.inf)
        return nn.functional.cross_entropy(scores.flatten(0, 2), (at[:, None] - by[:, None]).flatten())

    def _pointed(self, out: Float[Tensor, "B L D3"], tokens: Tensor, answers: Tensor) -> Float[Tensor, ""]:
        """Return a block's mean of −ln of the attention on the answer over its pointing heads and the answers; 0 without any."""
        length = out.shape[1]
        heads = min(_POINTERS, self._heads)
        document = (tokens == END_ID).cumsum(1)
        place = torch.arange(length, device=out.device)
        total, n = out.new_zeros(()), 0
        for own, ids, its, asked in zip(out, tokens, document, answers, strict=True):
            at = asked[1:].nonzero()[:, 0]
            if not len(at):
                continue
            query, key, _ = (part.unflatten(1, (self._heads, -1)).transpose(0, 1)[:heads] for part in own.chunk(3, 1))
            scores = query[:, at] @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
            seen = place <= at[:, None]
            right = seen & (ids[:-1] == ids[at + 1, None]) & (its[:-1] == its[at + 1, None])
            seen, right = (scores.masked_fill(~where, -torch.inf).logsumexp(2) for where in (seen, right))
            total, n = total + (seen - right).sum(), n + heads * len(at)
        return total / max(1, n)

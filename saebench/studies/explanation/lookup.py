"""Lookup tables: what some latents write at a token, known from the token alone, or from it and the one before.

And the language models of the same order, as tables of counts.

Letters: ``m`` tokens, ``O`` width written, ``V`` vocabulary, ``C`` contexts, ``L`` positions.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Lookup:
    """Mean of what is written, overall, by token and by pair of tokens.

    With n tokens of a kind and Σ the sum over them, the entry is (Σ + what the next coarser table says) / (n + 1), so that what
    was seen once is not believed at once, and what was never seen is left to the coarser table.

    Args:
        before: The tokens in front of those that will be given, to know the pairs ``[m]``.
        tokens: These.
        width: ``O``.
        d_vocab: ``V``.
        device: Where sums are kept.
    """

    def __init__(
        self, before: Int[np.ndarray, " m"], tokens: Int[np.ndarray, " m"], width: int, d_vocab: int, device: torch.device
    ) -> None:
        self._d_vocab = d_vocab
        self._known = (np.unique(tokens), np.unique(before * d_vocab + tokens))
        sizes = (1, *map(len, self._known))
        self._sums = [torch.zeros(n, width, device=device) for n in sizes]
        self._counts = [torch.zeros(n, 1, device=device) for n in sizes]

    def add(self, before: Int[np.ndarray, " m"], tokens: Int[np.ndarray, " m"], written: Float[Tensor, "m O"]) -> None:
        """Take what is written at some of the tokens."""
        ones = written.new_ones(len(written), 1)
        for sums, counts, at in zip(self._sums, self._counts, self._places(before, tokens), strict=True):
            where = torch.from_numpy(at).to(sums.device)
            sums.index_add_(0, where, written.to(sums.dtype))
            counts.index_add_(0, where, ones.to(counts.dtype))

    def says(self, before: Int[np.ndarray, " m"], tokens: Int[np.ndarray, " m"]) -> dict[str, Float[Tensor, "m O"]]:
        """Return what the tables ``mean``, ``unigram`` and ``bigram`` say of tokens."""
        found: dict[str, Tensor] = {}
        coarser = self._sums[0] / self._counts[0].clamp(min=1)
        for name, sums, counts, at in zip(
            ("mean", "unigram", "bigram"), self._sums, self._counts, self._places(before, tokens), strict=True
        ):
            if name == "mean":
                found[name] = coarser.expand(len(tokens), -1)
                continue
            where = torch.from_numpy(at).to(sums.device)
            there = (where >= 0)[:, None]
            at_least = where.clamp(min=0)
            total, n = (torch.where(there, part[at_least], 0.0) if len(part) else 0.0 for part in (sums, counts))
            coarser = found[name] = (total + found["mean" if name == "unigram" else "unigram"]) / (n + 1.0)
        return found

    def _places(self, before: Int[np.ndarray, " m"], tokens: Int[np.ndarray, " m"]) -> list[Int[np.ndarray, " m"]]:
        """Return the row of every token in each table; −1 for what is not there."""
        rows = [np.zeros(len(tokens), dtype=np.int64)]
        for known, asked in zip(self._known, (tokens, before * self._d_vocab + tokens), strict=True):
            at = np.searchsorted(known, asked)
            hit = known[np.minimum(at, len(known) - 1)] == asked if len(known) else np.zeros(len(asked), dtype=bool)
            rows.append(np.where(hit, at, -1))
        return rows


def model_ce(
    tokens: Int[Tensor, "C L"], fitted: Bool[Tensor, "C L"], judged: Bool[Tensor, "C L"], d_vocab: int
) -> dict[str, Float[np.ndarray, " C"]]:
    """Return the CE (nats, summed by context) of language models that know the frequencies of tokens, or of pairs.

    ``unigram``: p(b) = (n(b) + 1) / (N + V). ``bigram``: p(b|a) = (n(ab) + T(a) p(b)) / (n(a) + T(a)), T(a) being the number of
    different tokens that follow a (Witten and Bell 1991).

    Args:
        tokens: All contexts.
        fitted: Positions whose next token is counted.
        judged: Positions whose next token is predicted.
        d_vocab: ``V``.
    """
    after = tokens.roll(-1, 1).numpy()
    a, b = tokens.numpy()[fitted.numpy()], after[fitted.numpy()]
    unigram = (np.bincount(b, minlength=d_vocab) + 1.0) / (len(b) + d_vocab)
    pairs, counts = np.unique(a * d_vocab + b, return_counts=True)
    follow = np.bincount(pairs // d_vocab, minlength=d_vocab).astype(np.float64)
    seen = np.bincount(a, minlength=d_vocab).astype(np.float64)
    where = judged.numpy()
    context = where.nonzero()[0]
    a, b = tokens.numpy()[where], after[where]
    p = unigram[b]
    of_pair = np.zeros(len(a))
    if len(pairs):
        key = a * d_vocab + b
        at = np.minimum(np.searchsorted(pairs, key), len(pairs) - 1)
        of_pair = np.where(pairs[at] == key, counts[at], 0)
    total = seen[a] + follow[a]
    both = np.where(total > 0, (of_pair + follow[a] * p) / np.maximum(total, 1), p)
    n = len(tokens)
    return {"unigram": np.bincount(context, -np.log(p), n), "bigram": np.bincount(context, -np.log(both), n)}

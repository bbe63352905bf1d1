"""Do the same tokens suffer from every SAE: correlations of per-token ΔCE, and the tails, with errors of a bootstrap.

Everything is a function of how often each token counts: once each for the value, and as often as its context was drawn for a
draw of the bootstrap. So a draw sorts nothing: tokens are sorted once, and ranks are sums of weights in that order.

Letters: ``S`` SAEs, ``N`` tokens, ``C`` contexts, ``R`` draws, ``T`` tails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

TAILS = (0.01, 0.05, 0.10)
"""Shares of the tokens whose part of the total ΔCE is given."""
TAIL = 0.05
"""The one of them that two SAEs are compared by."""
_CONSTANT = 1e-12
"""A spread below this share of the size is rounding."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What the SAEs have in common; NaN where undefined."""

    pearson: Float[np.ndarray, "S S"]
    """Of ΔCE."""
    spearman: Float[np.ndarray, "S S"]
    """Of its ranks, ties sharing their mean rank."""
    overlap: Float[np.ndarray, "S S"]
    """Share of one SAE's worst tokens (:data:`TAIL` of all) that are among the other's."""
    share: Float[np.ndarray, "S T"]
    """Part of Σ ΔCE over all tokens that lies in the worst of them; above 1 where the others gain."""

    def others(self, name: str) -> Floats:
        """Return for each SAE the mean of a matrix over the other SAEs, those left out for which it is undefined ``[S]``."""
        matrix = np.array(getattr(self, name))
        np.fill_diagonal(matrix, np.nan)
        known = ~np.isnan(matrix)
        n = known.sum(1)
        return np.where(n > 0, np.where(known, matrix, 0.0).sum(1) / np.maximum(n, 1), np.nan)


class Ranked:
    """ΔCE of every SAE, sorted once.

    Args:
        delta: ΔCE ``[S, N]``, finite.
    """

    def __init__(self, delta: Float[np.ndarray, "S N"]) -> None:
        self.delta = delta
        size = np.abs(delta).max(1, initial=0.0)
        self.varies = np.ptp(delta, axis=1) > _CONSTANT * size if delta.shape[1] else np.zeros(len(delta), dtype=bool)
        self._worst_first = [np.argsort(-row, kind="stable") for row in delta]  # ties in the order of the text
        self._order = [order[::-1] for order in self._worst_first]
        self._ties = [_tie_ends(row[order]) for row, order in zip(delta, self._order, strict=True)]

    def likeness(self, weight: Float[np.ndarray, " N"]) -> Likeness:
        """Return what the SAEs have in common.

        Args:
            weight: How often each token counts.
        """
        n, total = weight.sum(), self.delta @ weight
        most = {tail: max(1, int(np.ceil(tail * n))) for tail in TAILS}
        share = np.empty((len(self.delta), len(TAILS)))
        worst = np.zeros(self.delta.shape)
        for i, order in enumerate(self._worst_first):
            upto = np.cumsum(weight[order])
            worst[i, order[: int(np.searchsorted(upto, most[TAIL])) + 1]] = 1.0  # of a token that counts often, all or none
            for t, tail in enumerate(TAILS):
                share[i, t] = np.diff(np.minimum(upto, most[tail]), prepend=0.0) @ self.delta[i, order]
        defined = np.where(self.varies[:, None] & self.varies, 1.0, np.nan)
        ranks = np.stack([self._ranks(i, weight) for i in range(len(self.delta))])
        with np.errstate(divide="ignore", invalid="ignore"):
            return Likeness(
                pearson=defined * _correlation(self.delta, weight),
                spearman=defined * _correlation(ranks, weight),
                overlap=defined * ((worst * weight) @ worst.T) / most[TAIL],
                share=np.where(total > 0, 1.0, np.nan)[:, None] * share / total[:, None],
            )

    def _ranks(self, i: int, weight: Floats) -> Floats:
        """Return the mean rank of each token among the tokens as often as they count, from 1."""
        first, last = self._ties[i]
        upto = np.concatenate([[0.0], np.cumsum(weight[self._order[i]])])
        ranks = np.empty(len(weight))
        ranks[self._order[i]] = (upto[first] + upto[last] + 1) / 2
        return ranks


def bootstrap(ranked: Ranked, context: Int[np.ndarray, " N"], *, draws: int, seed: int) -> list[Likeness]:
    """Return what the SAEs have in common in each draw of contexts, with replacement; none if there is but one context.

    Args:
        ranked: The SAEs.
        context: Context of each token.
        draws: ``R``.
        seed: Of the draws, which are the same for any SAEs.
    """
    contexts, number = np.unique(context, return_inverse=True)
    if len(contexts) < 2:
        return []
    drawn = torch.randint(len(contexts), (draws, len(contexts)), generator=torch.Generator().manual_seed(seed)).numpy()
    return [ranked.likeness(np.bincount(d, minlength=len(contexts)).astype(np.float64)[number]) for d in drawn]


def _tie_ends(ascending: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each place, how many lie before its group of equal values, and how many up to the group's end."""
    begins = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]])) if len(ascending) else np.zeros(0, int)
    ends = np.append(begins[1:], len(ascending))
    sizes = (ends - begins)[: len(begins)]
    return np.repeat(begins, sizes), np.repeat(ends[: len(begins)], sizes)


def _correlation(x: Float[np.ndarray, "S N"], weight: Float[np.ndarray, " N"]) -> Float[np.ndarray, "S S"]:
    """Return the Pearson correlations of rows, tokens counted ``weight`` times."""
    away = x - ((x @ weight) / weight.sum())[:, None]
    cross = (away * weight) @ away.T
    size = np.sqrt(np.diag(cross))
    return np.clip(cross / (size[:, None] * size), -1.0, 1.0)

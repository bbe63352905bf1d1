"""How well a yes-or-no answer, or a value, tells whether something holds: F1, chance, AUC and mutual information from counts.

Letters: ``T`` tokens, ``Q`` questions.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

Counts = NDArray[np.int64] | NDArray[np.float64]
Floats = NDArray[np.float64]


def f1(hits: Counts, said: Counts, positives: Counts) -> Floats:
    """Return F1 = 2 TP / (said + positives), where ``said`` is TP + FP and ``positives`` TP + FN; 0 where both are 0.

    Args:
        hits: TP, tokens where yes was said rightly.
        said: Tokens where yes was said.
        positives: Tokens where yes is right.
    """
    total = np.asarray(said + positives, dtype=np.float64)
    return np.divide(2.0 * np.asarray(hits), total, out=np.zeros_like(total), where=total > 0)


def chance_f1(share: Floats) -> Floats:
    """Return the F1 of always saying yes, 2p / (1 + p).

    Any answer that does not depend on the label and says yes with probability q has F1 = 2pq / (p + q), which is largest for
    q = 1: no answer without knowledge does better.

    Args:
        share: p, share of tokens where yes is right.
    """
    return 2.0 * share / (1.0 + share)


def adjusted_f1(score: Floats, chance: Floats) -> Floats:
    """Return max(0, (F1 − chance) / (1 − chance)): 0 for an answer that is no better than always yes, 1 for a perfect one."""
    return np.maximum(0.0, (score - chance) / (1.0 - chance))


def entropy_bits(share: Floats) -> Floats:
    """Return −p log₂ p − (1 − p) log₂(1 − p), in bits; 0 at p = 0 and p = 1."""
    return _plogp(share) + _plogp(1.0 - share)


def mutual_information(hits: Counts, said: Counts, positives: Counts, n: int) -> Floats:
    """Return I(answer; label) = H(answer) + H(label) − H(answer, label), in bits, from the 2 × 2 table of counts.

    It is the plug-in estimate, biased upwards by about 1 / (2 n ln 2) bits.

    Args:
        hits: TP.
        said: TP + FP.
        positives: TP + FN.
        n: All tokens.
    """
    hits, said, positives = (np.asarray(x, dtype=np.float64) for x in (hits, said, positives))
    cells = (hits, said - hits, positives - hits, n - said - positives + hits)
    joint = sum((_plogp(cell / n) for cell in cells), np.zeros_like(hits))
    return np.maximum(0.0, entropy_bits(said / n) + entropy_bits(positives / n) - joint)


def auc(
    values: Float[np.ndarray, " Z"], tokens: Int[np.ndarray, " Z"], positive: Bool[np.ndarray, "T Q"]
) -> Float[np.ndarray, " Q"]:
    """Return the area under the ROC curve, P(f₊ > f₋) + ½ P(f₊ = f₋), of a value that is 0 at most tokens.

    Args:
        values: f where it is not 0, from the largest to the smallest; all above 0.
        tokens: The token of each value.
        positive: Where yes is right; at some tokens and not at all, for each question.
    """
    n = len(positive)
    silent = n - len(values)  # these share the lowest rank, (silent + 1) / 2
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(values))[: len(starts)]
    ranks = np.repeat(len(values) - (starts + ends - 1) / 2, ends - starts)  # equals share their mean rank; 1 is the smallest
    n_positive = positive.sum(0).astype(np.float64)
    active = positive[tokens]
    n_active = active.sum(0)
    rank_sum = ranks @ active + silent * n_active + (n_positive - n_active) * (silent + 1) / 2
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive))


def _plogp(share: Floats) -> Floats:
    share = np.asarray(share, dtype=np.float64)
    return -share * np.log2(share, out=np.zeros_like(share), where=share > 0)

"""CE, KL, top-1 agreement and ln p of given tokens from final-norm outputs, a few rows of logits at a time.

Never holds contexts × positions × vocabulary: rows of logits are made, used and dropped in chunks, and the clean logits of a
chunk are made once for all the SAEs that share them. The reductions over the vocabulary run in float32 on blocks of rows
that fit the cache; what is left per row (differences of log-sum-exps) is float64.

Letters: ``M`` rows (predictions), ``D`` d_model, ``V`` vocabulary, ``A`` alternatives (spliced or ablated passes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_CHUNK_BYTES = 48 << 20
_BLOCK_BYTES = 2 << 20

Head = Callable[[Tensor], Tensor]
Logits = Callable[[slice], Tensor]
"""Rows wanted → their logits ``[m, V]`` as a new tensor, which the caller may overwrite."""


def from_hidden(head: Head, hidden: Float[Tensor, "M D"]) -> Logits:
    """Return logits made from final-norm outputs when they are asked for."""
    return lambda rows: head(hidden[rows])


def from_table(table: Float[Tensor, "T V"], row: Int[Tensor, " M"]) -> Logits:
    """Return logits looked up: prediction ``i`` has those of ``table[row[i]]``."""
    return lambda rows: table[row[rows]]


class LossRows(NamedTuple):
    """Losses per prediction, in nats; rows as given."""

    ce_clean: Float[Tensor, " M"]
    ce: Float[Tensor, "A M"]
    """CE of each alternative."""
    kl: Float[Tensor, "A M"]
    """KL(clean ‖ alternative) = Σ_v p(v) (log p(v) − log q(v))."""
    top1: Bool[Tensor, "A M"]
    """Whether the alternative's most likely token is the clean one's."""


@torch.inference_mode()
def loss_rows(clean: Logits, alternatives: Sequence[Logits], targets: Int[Tensor, " M"], *, d_vocab: int) -> LossRows:
    """Return CE of the clean pass and, per alternative, CE, KL(clean ‖ alternative) and top-1 agreement.

    Args:
        clean: Logits of the clean pass at the scored positions.
        alternatives: Logits of other passes at the same positions.
        targets: The tokens to be predicted.
        d_vocab: ``V``, to size the chunks.
    """
    n, device = len(targets), targets.device
    ce_clean = torch.empty(n, dtype=torch.float64, device=device)
    ce = torch.empty(len(alternatives), n, dtype=torch.float64, device=device)
    kl = torch.empty_like(ce)
    top1 = torch.empty(len(alternatives), n, dtype=torch.bool, device=device)
    chunk = max(1, _CHUNK_BYTES // (4 * d_vocab))
    block = chunk if device.type != "cpu" else max(1, _BLOCK_BYTES // (4 * d_vocab))
    for start in range(0, n, chunk):
        rows = slice(start, min(start + chunk, n))
        logits = clean(rows).float()
        best, lse, p = _clean_stats(logits, block)
        ce_clean[rows] = lse - logits.gather(1, targets[rows, None])[:, 0].double()
        for i, alternative in enumerate(alternatives):
            other = alternative(rows).float()
            at_target = other.gather(1, targets[rows, None])[:, 0].double()
            other_best, other_lse, cross = _compare(other, logits, p, block)
            ce[i, rows] = other_lse - at_target
            kl[i, rows] = cross + other_lse - lse
            top1[i, rows] = other_best == best
    return LossRows(ce_clean, ce, kl, top1)


class TargetRows(NamedTuple):
    """What one pass says of given targets; rows as given."""

    lnp: Float[Tensor, " M"]
    """ln p of the target, in nats."""
    best: Bool[Tensor, " M"]
    """Whether the target is the most likely token of the whole vocabulary."""


@torch.inference_mode()
def target_rows(logits: Logits, targets: Int[Tensor, " M"], *, d_vocab: int) -> TargetRows:
    """Return ln p of each target and whether it is the most likely token, a few rows of logits at a time.

    Args:
        logits: Logits of the pass at the scored positions.
        targets: The tokens to be predicted.
        d_vocab: ``V``, to size the chunks.
    """
    n, device = len(targets), targets.device
    lnp = torch.empty(n, dtype=torch.float64, device=device)
    best = torch.empty(n, dtype=torch.bool, device=device)
    chunk = max(1, _CHUNK_BYTES // (4 * d_vocab))
    block = chunk if device.type != "cpu" else max(1, _BLOCK_BYTES // (4 * d_vocab))
    for start in range(0, n, chunk):
        made = logits(slice(start, min(start + chunk, n))).float()
        for first in range(0, len(made), block):
            z = made[first : first + block]
            rows = slice(start + first, start + first + len(z))
            lnp[rows] = z.gather(1, targets[rows, None])[:, 0].double() - log_sum_exp(z)
            best[rows] = z.argmax(1) == targets[rows]
    return TargetRows(lnp, best)


def log_sum_exp(logits: Float[Tensor, "m V"]) -> Float[Tensor, " m"]:
    """Return log Σ_v exp of each row in float64; only the sum of exponentials is float32."""
    top = logits.amax(1)
    return top.double() + (logits - top[:, None]).exp_().sum(1).double().log()


def _clean_stats(logits: Float[Tensor, "m V"], block: int) -> tuple[Tensor, Tensor, Float[Tensor, "m V"]]:
    """Return (argmax, log-sum-exp in float64, softmax) of each row."""
    p = torch.empty_like(logits)
    best = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    lse = torch.empty(len(logits), dtype=torch.float64, device=logits.device)
    for start in range(0, len(logits), block):
        rows = slice(start, start + block)
        top, best[rows] = logits[rows].max(1)
        exp = torch.sub(logits[rows], top[:, None], out=p[rows]).exp_()
        total = exp.sum(1)
        exp.div_(total[:, None])
        lse[rows] = top.double() + total.double().log()
    return best, lse, p


def _compare(
    other: Float[Tensor, "m V"], clean: Float[Tensor, "m V"], p: Float[Tensor, "m V"], block: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (argmax of ``other``, its log-sum-exp, Σ_v p (clean − other)) per row. Overwrites ``other``."""
    best = torch.empty(len(other), dtype=torch.long, device=other.device)
    lse = torch.empty(len(other), dtype=torch.float64, device=other.device)
    cross = torch.empty_like(lse)
    for start in range(0, len(other), block):
        rows = slice(start, start + block)
        z = other[rows]
        top, best[rows] = z.max(1)
        lse[rows] = top.double() + (z - top[:, None]).exp_().sum(1).double().log()
        # Σ p (z_clean − z), from the difference: the two sums alone would cancel
        cross[rows] = torch.sub(clean[rows], z, out=z).mul_(p[rows]).sum(1).double()
    return best, lse, cross

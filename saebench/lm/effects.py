"""How large a change of the predictions is, and on how few tokens of the vocabulary it falls.

The change of the logits at one position is a vector over the vocabulary, less its median: adding one number to all logits changes
no prediction. Its sum of absolute values and of squares are taken a few positions at a time, so that nothing of size changes ×
positions × vocabulary is held. The head is linear, so the difference is taken before it, where there is less to cancel; behind a
soft cap, which is not, logits are subtracted.

Letters: ``A`` changes, ``T`` positions, ``R`` rows (one a change and position), ``M`` d_model, ``V`` vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saebench.lm.model import LanguageModel

_CHUNK_BYTES = 96 << 20
_VOCAB_CPU = 768
"""Tokens of the vocabulary whose logits the CPU makes at a time: few enough for what it writes to stay in its cache."""


class Sizes(NamedTuple):
    """Norms of the change of logits at each position, less the median over the vocabulary, in float64."""

    l1: Float[np.ndarray, "A T"]
    """Σ_v |e_v|."""
    square: Float[np.ndarray, "A T"]
    """Σ_v e_v²."""

    def sparsity(self, d_vocab: int) -> Float[np.ndarray, " A"]:
        """Return (L1/L2)² / (V·T) of the T vectors put together: 1/(V·T) for one entry, 1 for all alike; NaN without an effect.

        Args:
            d_vocab: ``V``.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.l1.sum(1) ** 2 / self.square.sum(1) / (d_vocab * self.l1.shape[1])

    def first_sparsity(self, d_vocab: int) -> Float[np.ndarray, " A"]:
        """Return (L1/L2)² / V at the first position alone; NaN without an effect there.

        Args:
            d_vocab: ``V``.
        """
        return Sizes(self.l1[:, :1], self.square[:, :1]).sparsity(d_vocab)

    def first_share(self) -> Float[np.ndarray, " A"]:
        """Return the share of Σ e² that falls on the first position; NaN without an effect."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.square[:, 0] / self.square.sum(1)


@torch.inference_mode()
def effect_sizes(model: LanguageModel, changed: Float[Tensor, "A T M"], base: Float[Tensor, "A T M"]) -> Sizes:
    """Return the norms of the change of logits.

    Args:
        model: Whose head makes the logits.
        changed: Final-norm outputs.
        base: Those that they are compared with.
    """
    shape = changed.shape[:2]
    after, before = changed.flatten(0, 1), base.flatten(0, 1)
    norms = np.zeros((2, len(after)))
    moved = (after != before).any(1).nonzero()[:, 0]
    step = max(1, _CHUNK_BYTES * (1 if after.device.type == "cpu" else 8) // (4 * model.d_vocab))
    room = torch.empty(min(step, len(moved)), model.d_vocab, dtype=after.dtype, device=after.device)
    capped = getattr(model.config, "final_logit_softcapping", None) is not None
    for rows in moved.split(step):
        if capped:
            change = model.head(after[rows]).float() - model.head(before[rows]).float()
        else:
            change = logits_of(model, after[rows] - before[rows], out=room[: len(rows)])
        norms[:, rows.cpu().numpy()] = norms_about_median(change)
    return Sizes(*norms.reshape(2, *shape))


@torch.no_grad()
def logits_of(
    model: LanguageModel, change: Float[Tensor, "R M"], *, out: Float[Tensor, "R V"] | None = None
) -> Float[Tensor, "R V"]:
    """Return what a change of the final-norm output adds to the logits, in float32 or better.

    It is the head without its bias, with the family's scale, before any soft cap.

    Args:
        model: Whose head it is.
        change: Differences of final-norm outputs, in the model's dtype.
        out: Where to put it, in the same dtype.
    """
    weight = model.hf.get_output_embeddings().weight
    logits = change.new_empty(len(change), len(weight)) if out is None else out
    tile = _VOCAB_CPU if change.device.type == "cpu" else len(weight)
    for start in range(0, len(weight), tile):
        torch.mm(change, weight[start : start + tile].T, out=logits[:, start : start + tile])
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    scale, scaling = getattr(model.config, "logit_scale", None), getattr(model.config, "logits_scaling", None)
    if scale is not None:
        logits *= scale
    if scaling is not None:
        logits /= scaling
    return logits


def norms_about_median(x: Float[Tensor, "R V"]) -> Float[np.ndarray, "two R"]:
    """Return (Σ|x − m|, Σ(x − m)²) of each row, with m its median, the lower of the two in the middle if V is even.

    Args:
        x: Overwritten.
    """
    middle = (x.shape[1] - 1) // 2
    if x.device.type != "cpu":
        x -= x.median(1, keepdim=True).values
        return torch.stack([x.abs().sum(1), x.square_().sum(1)]).double().cpu().numpy()
    rows = x.numpy()
    rows.partition(middle, axis=1)  # several times as fast as torch's median
    x -= x[:, middle : middle + 1].clone()
    l1 = x[:, middle + 1 :].sum(1) - x[:, :middle].sum(1)
    square = torch.linalg.vector_norm(x, dim=1).double().square()
    return np.stack([l1.double().numpy(), square.numpy()])

"""From pre-activations to sparse latents, one function an activation.

Letters: ``N`` tokens, ``S`` d_sae, ``K`` active latents.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from saebench.sae.latents import Latents

_GROUP = 8


def relu(pre: Float[torch.Tensor, "N S"]) -> Latents:
    """Return f = max(p, 0). Overwrites ``pre``."""
    return Latents.from_dense(pre.relu_())


def jumprelu(pre: Float[torch.Tensor, "N S"], threshold: Float[torch.Tensor, ...]) -> Latents:
    """Return f = max(p, 0) where p > θ, else 0; strict, as everywhere in the field.

    Args:
        pre: Pre-activations; overwritten.
        threshold: θ, one a latent or one for all (BatchTopK and Matryoshka at inference).

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435, eq. 4; Bussmann et al. 2024, arXiv 2412.06410, for the scalar.
    """
    return Latents.from_dense(torch.where(pre > threshold, pre, 0.0).relu_())


def gated(gate: Float[torch.Tensor, "N S"], magnitude: Float[torch.Tensor, "N S"]) -> Latents:
    """Return f = max(magnitude, 0) where gate > 0, else 0. Source: Rajamanoharan et al. 2024, arXiv 2404.16014, eq. 6."""
    return Latents.from_dense(torch.where(gate > 0, magnitude, 0.0).relu_())


def topk(pre: Float[torch.Tensor, "N S"], k: int) -> Latents:
    """Return max(p, 0) of the ``k`` largest pre-activations of each token. Source: Gao et al. 2024, arXiv 2406.04093, §2.3."""
    values, indices = top_entries(pre, k)
    return Latents.from_rows(values.relu(), indices, pre.shape[1])


def signed_topk(pre: Float[torch.Tensor, "N S"], k: int) -> Latents:
    """Return the ``k`` largest pre-activations of each token as they are, negative ones too (topk without a ReLU behind it)."""
    values, indices = top_entries(pre, k)
    return Latents.from_rows(values, indices, pre.shape[1])


def ranked_topk(pre: Float[torch.Tensor, "N S"], rank: Float[torch.Tensor, " S"], k: int) -> Latents:
    """Return max(p, 0) of the ``k`` latents of each token with the largest p · rank."""
    _, indices = top_entries(pre * rank, k)
    return Latents.from_rows(pre.gather(1, indices).relu(), indices, pre.shape[1])


def abstopk(pre: Float[torch.Tensor, "N S"], k: int) -> Latents:
    """Return the ``k`` pre-activations of largest size of each token, with their signs."""
    _, indices = top_entries(pre.abs(), k)
    return Latents.from_rows(pre.gather(1, indices), indices, pre.shape[1])


def groupmax(pre: Float[torch.Tensor, "N S"], k: int) -> Latents:
    """Return max(p, 0) of the largest latent in each of ``k`` equal groups of neighbours (sparsify's ``groupmax``)."""
    n, s = pre.shape
    values, inner = pre.view(n, k, s // k).max(2)
    indices = inner + torch.arange(k, device=pre.device) * (s // k)
    return Latents.from_rows(values.relu(), indices, s)


def top_entries(pre: Float[torch.Tensor, "N S"], k: int) -> tuple[Float[torch.Tensor, "N K"], Int[torch.Tensor, "N K"]]:
    """Return the ``k`` largest entries of each row, exactly, in any order.

    On the CPU wide rows are cut into groups first: the k groups with the largest maxima hold the k largest entries, so only
    their entries are looked at; and numpy's selection is several times as fast as torch's.
    """
    n, s = pre.shape
    if pre.device.type != "cpu" or pre.dtype not in (torch.float32, torch.float64):
        return pre.topk(k, dim=1, sorted=False)
    groups = s // _GROUP
    if s % _GROUP or groups < 2 * k:
        indices = _largest(pre, k)
        return pre.gather(1, indices), indices
    # member j of group i is entry j · groups + i, so that the maxima are those of whole rows of numbers
    blocks = pre.detach().view(n, _GROUP, groups)
    best = _largest(blocks.amax(1), k)
    inner = _largest(blocks.gather(2, best[:, None].expand(n, _GROUP, k)).view(n, _GROUP * k), k)
    indices = best.gather(1, inner % k) + inner // k * groups
    return pre.gather(1, indices), indices


def _largest(x: Float[torch.Tensor, "N S"], k: int) -> Int[torch.Tensor, "N K"]:
    """Return where the ``k`` largest entries of each row are; NaN counts as larger than all."""
    before = x.shape[1] - k
    if before <= 0:
        return torch.arange(x.shape[1]).expand(len(x), -1)
    return torch.from_numpy(np.argpartition(x.detach().numpy(), before, axis=1)[:, before:].copy())

"""Matching pursuit: latents that are found one after another, each in what the ones before it left unexplained.

Letters: ``N`` tokens, ``M`` tokens that are not done, ``D`` d_in, ``S`` d_sae.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from saebench.errors import InputError
from saebench.sae.latents import Latents


@dataclass(frozen=True, kw_only=True)
class Pursuit:
    """When the pursuit of a token ends.

    Args:
        residual_threshold: It ends once ‖residual‖ is below this; 0 or less: not for that reason.
        max_iterations: Steps at most, and so the most latents a token can have.
        stop_on_repeat: Whether it ends with a step that adds no latent to those found before.

    Raises:
        InputError: No step is allowed, or the threshold is no number.
    """

    residual_threshold: float
    max_iterations: int
    stop_on_repeat: bool = True

    def __post_init__(self) -> None:
        if self.max_iterations < 1:
            raise InputError(f"a matching pursuit needs 1 step or more, got max_iterations={self.max_iterations}")
        if not math.isfinite(self.residual_threshold):
            raise InputError(f"a matching pursuit needs a number as residual_threshold, got {self.residual_threshold}")


def matching_pursuit(inner: Float[torch.Tensor, "N D"], W_dec: Float[torch.Tensor, "S D"], pursuit: Pursuit) -> Latents:
    """Return the latents of a greedy pursuit with the rows of the decoder.

    r = x at first; a step takes the latent i with the largest r · W_dec[i], adds v = max(r · W_dec[i], 0) to f[i] and goes on
    with r − v W_dec[i]. Nothing is divided by ‖W_dec[i]‖², so rows should be of length 1. Each token ends for itself.

    Args:
        inner: What the SAE encodes, less ``b_in``.
        W_dec: The decoder, which is the encoder too.
        pursuit: When it ends.

    Source: Mallat and Zhang 1993, Matching pursuits with time-frequency dictionaries, IEEE Transactions on Signal Processing 41,
    section III; as in sae_lens' ``matching_pursuit``.
    """
    f = inner.new_zeros(len(inner), len(W_dec))
    rows, residual = torch.arange(len(inner), device=inner.device), inner
    for _ in range(pursuit.max_iterations):
        chosen = (residual @ W_dec.T).argmax(1)
        direction = W_dec[chosen]
        value = (residual * direction).sum(1).relu()
        before = f[rows, chosen]
        f[rows, chosen] = before + value
        residual = residual - value[:, None] * direction
        going = torch.ones_like(rows, dtype=torch.bool)
        if pursuit.stop_on_repeat:
            going &= (before == 0) & (value > 0)
        if pursuit.residual_threshold > 0:
            going &= residual.norm(dim=1) >= pursuit.residual_threshold
        rows, residual = rows[going], residual[going]
        if not len(rows):
            break
    return Latents.from_dense(f)

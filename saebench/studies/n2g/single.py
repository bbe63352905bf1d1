"""The value of one latent at one token, without encoding all of them where that can be avoided.

Letters: ``Q`` questions (a token's acts and a latent), ``N`` tokens, ``D`` width of the acts, ``P`` latents asked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.sae import SAE, SAEWeights

_ALONE = ("relu", "jumprelu")
"""Activations whose latents do not depend on each other."""
_BELOW = 0.49
"""What is below this share of the reference cannot reach half of it, rounding included."""


def restricted(sae: SAE, latents: Int[Tensor, " P"]) -> SAE:
    """Return an SAE with the given latents only, each as it would be if nothing else were above it.

    Of ReLU and JumpReLU these are the same values, of TopK what a latent has if it is among the k.

    Args:
        sae: With one of these activations.
        latents: Their indices.
    """
    w = sae.weights
    threshold = w.threshold
    if threshold is not None and threshold.numel() > 1:
        threshold = threshold[latents]
    weights = SAEWeights(
        W_enc=w.W_enc[:, latents], b_enc=w.b_enc[latents], W_dec=w.W_dec[latents], b_dec=w.b_dec, b_in=w.b_in, threshold=threshold
    )
    activation = "jumprelu" if sae.config.activation == "jumprelu" else "relu"
    config = replace(sae.config, activation=activation, d_sae=len(latents), k=None)
    return SAE(config, weights).that_centres(sae.centres)


def values_at(
    sae: SAE,
    acts: Float[Tensor, "N D"],
    row: Int[np.ndarray, " Q"],
    latent: Int[np.ndarray, " Q"],
    reference: Float[np.ndarray, " Q"],
) -> Float[np.ndarray, " Q"]:
    """Return the value of some latents at some tokens.

    Where the latent's own pre-activation says that it is below half of the reference whatever the others are (TopK), the value
    may be too large, but is below half of it all the same.

    Args:
        sae: As it is for acts of the model (:meth:`saebench.sae.SAE.that_centres`).
        acts: Clean acts.
        row: Which of them each question is about.
        latent: And which latent.
        reference: What the value will be compared with.
    """
    if sae.config.activation not in (*_ALONE, "topk"):
        return _encoded(sae, acts, row, latent)
    present, where = np.unique(latent, return_inverse=True)
    few = restricted(sae, torch.from_numpy(present).to(acts.device))
    pre = few.pre_activations(acts, slice(None))
    threshold = few.weights.threshold
    if threshold is not None:
        pre = torch.where(pre > threshold, pre, 0.0)
    found = pre.relu()[_at(row, acts), _at(where, acts)].double().cpu().numpy()
    if sae.config.activation == "topk":
        open_ = ~(found < _BELOW * reference)
        if open_.any():
            rows, inside = np.unique(row[open_], return_inverse=True)
            found[open_] = _encoded(sae, acts[_at(rows, acts)], inside, latent[open_])
    return found


def _encoded(
    sae: SAE, acts: Float[Tensor, "N D"], row: Int[np.ndarray, " Q"], latent: Int[np.ndarray, " Q"]
) -> Float[np.ndarray, " Q"]:
    found = np.zeros(len(row))
    order = np.argsort(row, kind="stable")
    start = 0
    for chunk in sae.run(acts):
        n = len(chunk.latents)
        low, high = np.searchsorted(row[order], [start, start + n])
        inside = order[low:high]
        dense = chunk.latents.to_dense()
        found[inside] = dense[_at(row[inside] - start, acts), _at(latent[inside], acts)].double().cpu().numpy()
        start += n
    return found


def _at(index: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(index)).to(like.device)

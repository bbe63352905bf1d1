"""Which latents, and which of their activations: chosen by the seed, whatever the batch size and whoever else is scored.

Letters: ``S`` d_sae, ``C`` latents that are watched, ``K`` activations kept of each, ``Z`` activations given at once.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


def stratified(density: Int[np.ndarray, " S"], n: int, generator: torch.Generator) -> Int[np.ndarray, " C"]:
    """Return ``n`` of the latents that fire, one from each of ``n`` strata of neighbours in density, in ascending order.

    Strata are as equal as can be, so every latent has nearly the same chance and a mean over the sample estimates the mean over
    all latents that fire. All of them, if there are no more than ``n``.

    Args:
        density: Tokens at which each latent fires.
        n: Latents wanted.
        generator: On the CPU.
    """
    alive = np.flatnonzero(density > 0)
    if len(alive) <= n:
        return alive
    order = alive[np.argsort(density[alive], kind="stable")]
    edges = np.arange(n + 1) * len(order) // n
    draws = torch.rand(n, generator=generator, dtype=torch.float64).numpy()
    return np.sort(order[edges[:-1] + (draws * np.diff(edges)).astype(np.int64)])


class Kept:
    """Keeps ``K`` random activations of each latent, every subset of that size equally likely.

    Each activation has a random number, made by SplitMix64 of seed, token and latent; the ``K`` lowest stay. So the choice does
    not depend on the order in which they come.

    Args:
        n_latents: ``C``.
        k: ``K``.
        seed: Chooses.
    """

    def __init__(self, n_latents: int, k: int, seed: int) -> None:
        self._salt = _mixed(np.array([seed % (1 << 64)], dtype=np.uint64) * _STEP + _STEP)
        self._keys = np.full((n_latents, k), np.iinfo(np.uint64).max, dtype=np.uint64)
        self._places = np.full((n_latents, k), -1, dtype=np.int64)
        self._values = np.zeros((n_latents, k))

    def add(
        self,
        latent: Int[np.ndarray, " Z"],
        name: Int[np.ndarray, " Z"],
        place: Int[np.ndarray, " Z"],
        value: Float[np.ndarray, " Z"],
    ) -> None:
        """Take some activations.

        Args:
            latent: Number of each below ``C``.
            name: What the latent is called in the SAE.
            place: Its token, counted through the corpus.
            value: Kept with it.
        """
        if not self._keys.shape[1]:
            return
        key = _mixed(_mixed(place.astype(np.uint64) + self._salt) + name.astype(np.uint64) * _STEP)
        low = key < self._keys[latent].max(1) if len(key) < len(self._keys) else key < self._keys.max(1)[latent]
        latent, key, place, value = latent[low], key[low], place[low], value[low]
        touched = np.unique(latent)
        k = self._keys.shape[1]
        whose = np.concatenate([np.repeat(touched, k), latent])
        keys = np.concatenate([self._keys[touched].ravel(), key])
        places = np.concatenate([self._places[touched].ravel(), place])
        values = np.concatenate([self._values[touched].ravel(), value])
        order = np.lexsort((keys, whose))
        first = np.searchsorted(whose[order], touched)
        best = order[first[:, None] + np.arange(k)]
        self._keys[touched], self._places[touched], self._values[touched] = keys[best], places[best], values[best]

    def of(self, latent: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return (places, values) of what is kept of one latent, in random order."""
        there = self._places[latent] >= 0
        return self._places[latent][there], self._values[latent][there]


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return SplitMix64's output function of x. Source: Steele, Lea and Flood 2014, OOPSLA."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))

"""Which latents a dashboard shows: named by index, or chosen by what is known of them.

Letters: ``S`` d_sae.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from saebench.dashboard.records import Row
from saebench.errors import InputError, did_you_mean
from saebench.sae import SAEConfig

BY_SCORES = ("most_helpful", "most_harmful")
BY_DENSITY = ("densest", "rarest", "random")
HOW = (*BY_SCORES, *BY_DENSITY)
N = 10
"""How many, where nothing is said."""


class Choice(NamedTuple):
    """A way to choose latents, and how many."""

    how: str
    n: int


def parse_choice(text: str) -> Choice:
    """Return the choice that ``HOW[:N]`` says; raises ``InputError`` for another way, or no number of 1 or more."""
    how, colon, number = text.partition(":")
    if how not in HOW:
        raise InputError(f"--choose {text}: {how!r} is none of {', '.join(HOW)}.{did_you_mean(how, HOW)}")
    if colon and not (number.isascii() and number.isdigit() and int(number) > 0):
        raise InputError(f"--choose {text}: behind the colon stands how many, e.g. {how}:{N}")
    return Choice(how, int(number) if colon else N)


def parse_latents(text: str) -> tuple[int, ...]:
    """Return the indices in ``3,17``; raises ``InputError`` for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise InputError(f"--latents {text}: write indices with commas between them, e.g. --latents 3,17")
    return tuple(int(part) for part in parts)


def check_latents(latents: Sequence[int], sae: SAEConfig) -> None:
    """Raise ``InputError`` for a latent that the SAE does not have."""
    bad = next((latent for latent in latents if not 0 <= latent < sae.d_sae), None)
    if bad is not None:
        raise InputError(f"{sae.name} has no latent {bad}: it has {sae.d_sae}, numbered from 0 to {sae.d_sae - 1}")


def by_density(choice: Choice, density: Int[np.ndarray, " S"], seed: int) -> list[int]:
    """Return latents that fire: the densest or rarest first (of equal ones the lower index), or in random order.

    Args:
        choice: How, and how many at most.
        density: Tokens at which each latent fires.
        seed: Of the random order.
    """
    alive = np.flatnonzero(density > 0)
    if choice.how == "random":
        order = torch.randperm(len(alive), generator=torch.Generator().manual_seed(seed)).numpy()
    else:
        order = np.argsort(density[alive] * (-1 if choice.how == "densest" else 1), kind="stable")
    return alive[order[: choice.n]].tolist()


def by_scores(choice: Choice, rows: Sequence[Row]) -> list[int]:
    """Return the latents whose presence goes most surely with help, or with harm: of the smallest p, as ``cloze`` lists them.

    Where a latent was tested by several tasks or seeds, the smallest of its p counts.

    Args:
        choice: How, and how many at most.
        rows: Of tables ``latent_scores``.
    """
    sign = 1 if choice.how == "most_helpful" else -1
    best: dict[int, tuple[float, float]] = {}
    for row in rows:
        values = row.values
        p, z = values["p"], values["delta_lnp_z"]
        if p is not None and z is not None and z * sign > 0:
            key = (p, -abs(z))
            best[values["latent"]] = min(key, best.get(values["latent"], key))
    return sorted(best, key=lambda latent: (best[latent], latent))[: choice.n]

"""What is taken out at a token, one thing at a time: its active latents, or what they are compared with.

Letters: ``N`` tokens, ``A`` things taken out, ``a`` some of them, ``D`` width that is read, ``O`` width that is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.stream import centring, sae_space
from saebench.studies.ablation.sample import choose, generator_for

_LATENTS, _CHANNELS, _COMPONENTS, _NORMS, _DIRECTIONS = range(5)
"""Kinds of draws."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The sampled tokens of some contexts."""

    numbers: list[int]
    """Of each in the whole sample."""
    row: Int[Tensor, " N"]
    """Its context among these."""
    position: Int[Tensor, " N"]
    acts: Float[Tensor, "N D"]
    """Clean, at the site that is read."""
    target: Float[Tensor, "N O"]
    """Clean, at the site that is written."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """Things to take out, token by token."""

    token: Int[Tensor, " A"]
    """Rising."""
    which: Int[Tensor, " A"]
    """Number of the latent, channel or component; −1 for a random direction."""
    value: Float[Tensor, " A"]
    """Its activation, or coordinate."""
    change: Callable[[slice], Float[Tensor, "a O"]]
    """What taking some of them out adds at the site that is written."""

    def __len__(self) -> int:
        return len(self.token)


def active_latents(port: Port, sae: SAE, tokens: Tokens, *, per_token: int | None, seed: int) -> Removed:
    """Return the active latents of each token: −f_j W_dec[j], the input's normalisation undone.

    Args:
        port: The site.
        sae: The SAE.
        tokens: Where.
        per_token: How many at most, drawn by the seed; all if ``None``.
        seed: See there.
    """
    acts, _ = sae_space(sae, tokens.acts, centring(port, sae.config)[0])
    latents = sae.encode(acts)
    token = latents.rows()
    kept = torch.arange(len(token), device=token.device)
    if per_token is not None:
        kept = choose(token, tokens.numbers, per_token, seed=seed, kind=_LATENTS)
    token, which, value = token[kept], latents.indices[kept].long(), latents.values[kept]
    return Removed(token=token, which=which, value=value, change=lambda a: -sae.contributions(acts[token[a]], which[a], value[a]))


def channels(tokens: Tokens, *, n: int, seed: int) -> Removed:
    """Return ``n`` channels of each token's acts, chosen by the seed: each is set to 0."""
    token, which = _chosen(tokens, tokens.target.shape[1], n, seed=seed, kind=_CHANNELS)
    value = tokens.target[token, which]

    def change(a: slice) -> Float[Tensor, "a O"]:
        out = tokens.target.new_zeros(len(value[a]), tokens.target.shape[1])
        return out.scatter_(1, which[a, None], -value[a, None])

    return Removed(token=token, which=which, value=value, change=change)


def components(tokens: Tokens, mean: Float[Tensor, " O"], directions: Float[Tensor, "O C"], *, n: int, seed: int) -> Removed:
    """Return ``n`` principal components of each token, chosen by the seed: −((x − μ) · c) c.

    Args:
        tokens: Where.
        mean: μ.
        directions: One a column, of length 1.
        n: How many.
        seed: Which.
    """
    token, which = _chosen(tokens, directions.shape[1], n, seed=seed, kind=_COMPONENTS)
    value = ((tokens.target[token].to(mean.dtype) - mean) * directions.T[which]).sum(1)
    return Removed(token=token, which=which, value=value, change=lambda a: -value[a, None] * directions.T[which[a]])


def random_directions(tokens: Tokens, latents: Removed, *, n: int, seed: int) -> Removed:
    """Return directions drawn from the sphere, each as long as what one of the token's latents adds, ``n`` a token at most.

    Args:
        tokens: Where.
        latents: What the latents of these tokens add.
        n: How many.
        seed: Which.
    """
    kept = choose(latents.token, tokens.numbers, n, seed=seed, kind=_NORMS)
    token, width = latents.token[kept], tokens.target.shape[1]
    norms = [latents.change(slice(i, i + 1)).norm() for i in kept.tolist()]
    value = torch.stack(norms) if norms else tokens.target.new_zeros(0)
    drawn, counts = [], torch.bincount(token, minlength=len(tokens.numbers)).tolist()
    for number, count in zip(tokens.numbers, counts, strict=True):
        drawn.append(torch.randn(count, width, generator=generator_for(seed, number, _DIRECTIONS)))
    unit = torch.nn.functional.normalize(torch.cat(drawn), dim=1).to(value) if drawn else value.new_zeros(0, width)
    return Removed(token=token, which=torch.full_like(token, -1), value=value, change=lambda a: value[a, None] * unit[a])


def _chosen(tokens: Tokens, size: int, n: int, *, seed: int, kind: int) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"]]:
    """Return (token, which of ``size`` things), ``n`` a token."""
    device = tokens.row.device
    which = [torch.randperm(size, generator=generator_for(seed, number, kind))[:n] for number in tokens.numbers]
    token = torch.arange(len(which), device=device).repeat_interleave(min(n, size))
    return token, torch.cat(which).to(device) if which else token

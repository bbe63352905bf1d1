"""Least squares on a few variables, many problems at once, with or without z ≥ 0: projected gradient, then an active set.

Letters: ``n`` problems, ``K`` variables of each, ``A`` steps that are tried.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_RIDGE = 1e-11
_HALVINGS = 6
_PROJECTED = 12
TOLERANCE = 1e-8
"""Largest entry of |z − P(z + g)| over max|z₀| + max|g₀| at which a problem is solved."""


class Solved(NamedTuple):
    """The minimum of each problem."""

    z: Float[Tensor, "n K"]
    settled: Bool[Tensor, " n"]
    """Whether the conditions of a minimum hold to :data:`TOLERANCE`."""


def solve(gram: Float[Tensor, "n K K"], slope: Float[Tensor, "n K"], start: Float[Tensor, "n K"], *, nonnegative: bool) -> Solved:
    """Return z that minimises ½ (z−z₀)ᵀ G (z−z₀) − g₀ᵀ (z−z₀), with z ≥ 0 if asked for.

    With g = g₀ − G (z − z₀) the conditions of Karush, Kuhn and Tucker are g = 0 where z > 0 and g ≤ 0 where z = 0, that is
    z = P(z + g) with P(z) = max(z, 0), or without the bound g = 0. Each round tries the projected gradient step
    P(z + g/λ), λ ≥ the largest eigenvalue of G, and projected steps P(z + 2⁻ᵃ d) along Newton's direction d among the
    variables that are free (z > 0 or g > 0), and takes what lowers the objective most. The first alone would converge, slowly
    where rows are alike; the second finds the minimum at once where the variables at 0 are the right ones. What is not solved
    after a few rounds goes on from there with Lawson and Hanson's active set, which ends at the minimum. Where G is singular
    the step d is the shortest, so that z stays near z₀.

    Args:
        gram: G, positive semidefinite, with entries of 1 (or 0) on its diagonal; float64.
        slope: g₀, minus the gradient at z₀.
        start: z₀, ≥ 0 if z must be.
        nonnegative: Whether z must be ≥ 0.

    Source: Bertsekas 1982, Projected Newton methods for optimization problems with simple constraints, SIAM Journal on
    Control and Optimization 20, pp. 221-246; Lawson and Hanson 1974, Solving least squares problems, ch. 23.
    """
    z, settled = start.clone(), torch.zeros(len(start), dtype=torch.bool, device=start.device)
    if not start.shape[1]:
        return Solved(z, ~settled)
    bound = TOLERANCE * (start.abs().amax(1) + slope.abs().amax(1))
    going = torch.isfinite(gram.sum((1, 2)) + slope.sum(1) + start.sum(1)).nonzero()[:, 0]
    largest = gram.abs().sum(2).amax(1, keepdim=True).clamp_min(_RIDGE)
    passive = start > 0
    for turn in range(_PROJECTED + 3 * start.shape[1] + 10):
        G, now = gram[going], z[going]
        g = slope[going] - _times(G, now - start[going])
        wrong = ((now + g).clamp_min(0) - now if nonnegative else g).abs().amax(1)
        done = wrong <= bound[going]
        settled[going[done]] = True
        going, G, g, now = going[~done], G[~done], g[~done], now[~done]
        if not len(going):
            break
        if turn < _PROJECTED or not nonnegative:
            z[going] = _best_step(G, g, now, largest[going], nonnegative)
            passive[going] = z[going] > 0
        else:
            z[going], passive[going] = _exchange(G, g, now, largest[going], passive[going], bound[going])
    return Solved(z, settled)


def _exchange(
    G: Float[Tensor, "n K K"],
    g: Float[Tensor, "n K"],
    z: Float[Tensor, "n K"],
    largest: Float[Tensor, "n one"],
    passive: Bool[Tensor, "n K"],
    bound: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "n K"], Bool[Tensor, "n K"]]:
    """Return z and the passive set one step on: to the minimum over that set, or to where the first of it reaches 0 and leaves.

    Where the minimum over the set is reached already, the variable outside it with the largest g joins first.
    """
    at_best = torch.where(passive, g.abs(), 0.0).amax(1) <= bound
    best = torch.where(passive, -torch.inf, g).argmax(1)
    passive = passive.clone()
    passive[at_best.nonzero()[:, 0], best[at_best]] = True
    step = torch.where(passive, _newton(G, g, passive, largest), 0.0)
    falls = passive & (z + step <= 0) & (step < 0)
    share = torch.where(falls, z / -step, 1.0).amin(1, keepdim=True)
    new = (z + share * step).clamp_min(0)
    leaves = falls & (z / -step <= share)
    return torch.where(leaves, 0.0, new), passive & ~leaves


def _best_step(
    G: Float[Tensor, "n K K"],
    g: Float[Tensor, "n K"],
    z: Float[Tensor, "n K"],
    largest: Float[Tensor, "n one"],
    nonnegative: bool,
) -> Float[Tensor, "n K"]:
    free = (z > 0) | (g > 0) if nonnegative else torch.ones_like(z, dtype=torch.bool)
    newton = _newton(G, g, free, largest)
    lengths = 2.0 ** -torch.arange(_HALVINGS, dtype=z.dtype, device=z.device)
    tried = z[:, None] + torch.cat([(g / largest)[:, None], lengths[:, None] * newton[:, None]], 1)
    if nonnegative:
        tried = tried.clamp_min(0)
    step = tried - z[:, None]
    gain = (step * (g[:, None] - 0.5 * step @ G)).sum(2)
    return tried[torch.arange(len(z), device=z.device), gain.argmax(1)]


def _newton(
    G: Float[Tensor, "n K K"], g: Float[Tensor, "n K"], free: Bool[Tensor, "n K"], largest: Float[Tensor, "n one"]
) -> Float[Tensor, "n K"]:
    """Return the step to the minimum over the free variables, or along g where G is too near to singular for that."""
    matrix = torch.where(free[:, :, None] & free[:, None, :], G, 0.0)
    matrix.diagonal(dim1=1, dim2=2).add_(torch.where(free, _RIDGE, 1.0).to(G.dtype))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    right = torch.where(free, g, 0.0)
    step = torch.cholesky_solve(right[..., None], factor)[..., 0]
    good = (failed == 0) & torch.isfinite(step).all(1)
    return torch.where(good[:, None], step, right / largest)


def _times(G: Float[Tensor, "n K K"], z: Float[Tensor, "n K"]) -> Float[Tensor, "n K"]:
    return (G @ z[..., None])[..., 0]

"""What the tests of formats share: random numbers of odd shapes, and the comparison of an SAE with equations."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.sae import SAE

D, S, OUT = 12, 40, 9
"""d_in, d_sae and, for transcoders, d_out: no two alike, so that a missing transpose cannot pass."""


def rand(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Return standard normal numbers times ``scale``, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(sum(n * 31**i for i, n in enumerate(shape)) + 1009 * seed)
    return scale * torch.randn(*shape, generator=generator)


def acts(n: int = 64, d: int = D) -> Tensor:
    """Return activations whose mean is not 0."""
    return 2 * rand(n, d, seed=7) + 0.5


def agrees(sae: SAE, x: Tensor, latents: Tensor, recon: Tensor, tolerance: float = 1e-5) -> None:
    """Assert that ``sae`` encodes ``x`` to ``latents`` and decodes to ``recon``, relative to the largest entry."""
    assert bool((latents != 0).any()), "a test on silent latents proves nothing"
    assert bool((latents == 0).any()), "a test in which no latent is off says nothing of the activation"
    found = sae.encode(x)
    for ours, theirs in ((found.to_dense(), latents), (sae.reconstruct(x), recon), (sae.decode(found, x), recon)):
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        assert error < tolerance, f"{sae.config.format}: off by {error:.2e}"

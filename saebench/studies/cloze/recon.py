"""Recons as the splice takes them, for those who want to see the latents on the way."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from saebench.lm.port import Port
from saebench.sae import SAE, Latents
from saebench.stream import centring, sae_space

See = Callable[[slice, Float[Tensor, "m D"], Latents], None]
"""(which tokens, their acts as the SAE knows them, their latents), a chunk at a time."""


def recon_seen(port: Port, sae: SAE, acts: Float[Tensor, "n D"], target: Float[Tensor, "n O"], see: See) -> Float[Tensor, "n O"]:
    """Return what :func:`saebench.stream.recon_of` returns, and show ``see`` the latents of every chunk.

    Args:
        port: The site.
        sae: An SAE as it was loaded.
        acts: Clean acts at the site that is read.
        target: Clean acts at the site that is written.
        see: Told of each chunk.
    """
    reads, writes = centring(port, sae.config)
    known, _ = sae_space(sae, acts, reads)
    _, mean = sae_space(sae, target, writes)
    out, done = known.new_empty(target.shape), 0
    for latents, recon in sae.run(known):
        tokens = slice(done, done + len(recon))
        see(tokens, known[tokens], latents)
        out[tokens] = recon
        done = tokens.stop
    return (out + mean).to(target.dtype)

"""Runs where the real libraries are: writes SAEs of every kind with random parameters, and what the library makes of them.

Each folder under ``argv[1]`` gets the library's own files and ``oracle.npz`` with ``acts``, ``latents`` (dense) and ``recon``.
"""

from __future__ import annotations

import oracles_dictionary_learning
import oracles_sae_lens
import oracles_sae_lens_training
import oracles_sparsify

if __name__ == "__main__":
    oracles_sae_lens.write()
    oracles_sae_lens_training.write()
    oracles_dictionary_learning.write()
    oracles_sparsify.write()

"""Runs where the real libraries are: loads each folder that ``argv[1]/list.tsv`` names and keeps what the library makes of it.

Writes ``argv[1]/<name>/oracle.npz`` with ``latents`` (dense) and ``recon`` of ``argv[1]/acts.npy``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(sys.argv[1])


def saelens(folder: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import sae_lens

    sae = sae_lens.SAE.load_from_disk(folder, device="cpu")
    assert sae.cfg.metadata.hook_name.startswith("blocks.")
    assert (sae.cfg.metadata.model_name, sae.cfg.metadata.context_size) == ("openai-community/gpt2", 128)
    if sae.cfg.reshape_activations == "hook_z":
        x = x.view(len(x), 3, -1)
    latents = sae.encode(x)
    if "skip" in sae.cfg.architecture():
        return latents, sae(x)
    return latents, sae.decode(latents).reshape(len(x), -1)


def dictionary_learning(folder: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from dictionary_learning.utils import load_dictionary

    ae, _ = load_dictionary(folder, "cpu")
    latents = ae.encode(x)
    return latents, ae.decode(latents)


def sparsify(folder: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    from sparsify import SparseCoder

    coder = SparseCoder.load_from_disk(folder, device="cpu")
    top, indices, _ = coder.encode(x)
    latents = torch.zeros(len(x), coder.num_latents).scatter_(1, indices, top)
    recon = coder.decode(top, indices)
    return latents, recon if coder.W_skip is None else recon + x @ coder.W_skip.mT


if __name__ == "__main__":
    x = torch.from_numpy(np.load(ROOT / "acts.npy"))
    for line in (ROOT / "list.tsv").read_text().splitlines():
        library, name, folder = line.split("\t")
        with torch.no_grad():
            latents, recon = {"saelens": saelens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}[library](
                folder, x
            )
        np.savez(ROOT / name / "oracle.npz", latents=latents.numpy(), recon=recon.numpy())

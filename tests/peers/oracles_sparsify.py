"""SAEs and transcoders of sparsify."""

from __future__ import annotations

from typing import Any

import torch
from oracle_files import ROOT, D, K, S, acts, keep, randomise

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "topk": ("layers.1", {}),
    "topk-bfloat16": ("layers.1", {}),
    "topk-expansion": ("layers.1/seed3", {"num_latents": 0, "expansion_factor": 3}),
    "groupmax": ("layers.1", {"activation": "groupmax"}),
    "skip": ("layers.1.mlp", {"skip_connection": True}),
    "transcode": ("layers.1.mlp", {"transcode": True}),
    "transcode-skip": ("layers.1.mlp", {"transcode": True, "skip_connection": True}),
    "transcode-groupmax": ("layers.1.mlp", {"transcode": True, "activation": "groupmax", "skip_connection": True}),
}


def write() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    for name, (place, options) in CASES.items():
        coder = SparseCoder(D, SparseCoderConfig(**{"k": K, "num_latents": S} | options))
        randomise(coder)
        folder = ROOT / f"sparsify-{name}" / place
        (coder.bfloat16() if "bfloat16" in name else coder).save_to_disk(folder)
        coder = SparseCoder.load_from_disk(folder, device="cpu").float()
        x = acts()
        with torch.no_grad():
            top, indices, _ = coder.encode(x)
            recon = coder.decode(top, indices)
            if coder.W_skip is not None:
                recon = recon + x @ coder.W_skip.mT
            keep(folder, torch.zeros(len(x), coder.num_latents).scatter_(1, indices, top), recon)

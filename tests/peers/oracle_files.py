"""What the writers of oracles share: random parameters, and ``oracle.npz`` with what a library makes of an SAE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

D, S, OUT, K = 12, 40, 9, 4
ROOT = Path(sys.argv[1])


def randomise(module: torch.nn.Module) -> None:
    """Fill all parameters with random numbers: what libraries start with is zero in many places, which hides errors."""
    generator = torch.Generator().manual_seed(sum(p.numel() for p in module.parameters()))
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
            if "threshold" in name:
                p.abs_().mul_(0.3)


def acts() -> torch.Tensor:
    return 2 * torch.randn(64, D, generator=torch.Generator().manual_seed(7)) + 0.5


def keep(folder: Path, latents: torch.Tensor, recon: torch.Tensor, *, load: str = ".", **given: str) -> None:
    """Write what the library makes of ``acts()``, and how it is loaded.

    Args:
        folder: Where ``oracle.npz`` goes.
        latents: Dense.
        recon: As the library gives it.
        load: What is to be loaded, from the folder on.
        given: What has to be told besides the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(
        folder / "oracle.npz",
        acts=acts().numpy(),
        latents=latents.detach().float().numpy(),
        recon=recon.detach().float().reshape(len(recon), -1).numpy(),
    )
    (folder / "oracle.json").write_text(json.dumps({"load": load, "given": given}))

"""What Acorn's own training code would hold: the SAE in numpy, how it is saved, and one to try things with.

It knows nothing of saebench. The tests compare the format with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
D, S, K, SCALE = 12, 22, 3, 0.25


class AcornSAE(NamedTuple):
    """A TopK SAE of scaled acts; ``up`` lies as in ``nn.Linear``, one row a latent."""

    up: Floats
    up_bias: Floats
    down: Floats
    offset: Floats
    k: int
    act_scale: float

    def encode(self, x: Floats) -> Floats:
        """Return dense latents."""
        p = np.maximum((x * self.act_scale - self.offset) @ self.up.T + self.up_bias, 0)
        return np.where(p >= np.sort(p, axis=1)[:, [-self.k]], p, 0)

    def decode(self, f: Floats) -> Floats:
        """Return recons."""
        return (f @ self.down + self.offset) / self.act_scale

    def save(self, folder: str | Path, **about: Any) -> Path:
        """Write ``acorn.json`` and ``weights.npz``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        told = {"acorn": 1, "k": self.k, "act_scale": self.act_scale} | about
        (folder / "acorn.json").write_text(json.dumps(told, indent=1) + "\n")
        np.savez(folder / "weights.npz", up=self.up, up_bias=self.up_bias, down=self.down, offset=self.offset)
        return folder


def example(seed: int = 0) -> tuple[AcornSAE, Floats]:
    """Return an SAE and acts ``[800, D]`` that it explains well: sums of K of its directions."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(D, S // 2)))[0].T
    down = np.concatenate([basis, -basis]).astype(np.float32)
    offset = (rng.normal(size=D) / 4).astype(np.float32)
    sae = AcornSAE(down * 1.1, np.full(S, -0.1, np.float32), down, offset, K, SCALE)
    latents = np.zeros((800, S), np.float32)
    for row in latents:
        axes = rng.permutation(S // 2)[:K] + S // 2 * rng.integers(0, 2, K)
        row[axes] = rng.uniform(1, 2, K)
    return sae, sae.decode(latents)


if __name__ == "__main__":  # python -m saebench_acorn.lab FOLDER
    made, acts = example()
    place = made.save(sys.argv[1], model="acorn/tiny", layer=1, stream="before", context=64)
    np.save(place / "acts.npy", acts)

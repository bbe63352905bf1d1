"""A tiny model, contexts of random tokens, and the settings of a short run on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.lm.families import build

SITE = "blocks.1.hook_resid_pre"


def make_world(folder: Path) -> Path:
    """Write a tiny model and 60 contexts of 16 tokens, and return ``folder``."""
    build("llama", str(folder / "model"))
    tokens = np.random.default_rng(0).integers(4, 90, (60, 16))
    tokens[:, 0] = 1
    np.save(folder / "tokens.npy", tokens)
    return folder


def values(world: Path, out: Path, **more: Any) -> dict[str, Any]:
    """Return the settings of 40 steps."""
    return {
        "model": str(world / "model"), "site": SITE, "corpus": str(world / "tokens.npy"), "out": out,
        "tokens": 64 * 40, "batch_size": 64, "context_length": 16, "buffer_tokens": 300, "log_every": 5, "eval_contexts": 8,
        "checkpoint_every": 7, "d_sae": 32, "device": "cpu", "tensorboard": False, **more,
    }  # fmt: skip

"""Files that are broken on purpose or mean harm: each must end in one line, and nothing in them may run.

Every module adds cases to ``CASES``: a name, a function that writes the files into an empty folder and returns what is to be
loaded (``None``: the folder), and words that the refusal must hold.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.sae.formats.cases import D, S, rand

CANARY = "RAN"
"""File in the folder of a case that is there if something in it was executed."""
_MODULES = ("code", "archives", "headers", "views", "settings", "places")


class Case(NamedTuple):
    """One hostile file."""

    write: Callable[[Path], Path | None]
    said: tuple[str, ...]
    """Words of the refusal."""


CASES: dict[str, Case] = {}


def case(name: str, *said: str) -> Callable[[Callable[[Path], Path | None]], Callable[[Path], Path | None]]:
    """Return a decorator that makes a case of a function."""

    def add(write: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        assert name not in CASES, name
        CASES[name] = Case(write, said)
        return write

    return add


def all_cases() -> dict[str, Case]:
    """Return every case by its name."""
    for module in _MODULES:
        import_module(f"{__name__}.{module}")
    return CASES


def canary(folder: Path) -> str:
    """Return what hostile code would run: a command that leaves a file behind."""
    return f"touch '{folder / CANARY}'"


def linear() -> dict[str, Tensor]:
    """Return the tensors of a dictionary_learning SAE."""
    return {
        "encoder.weight": rand(S, D, seed=1), "encoder.bias": rand(S, seed=2), "decoder.weight": rand(D, S, seed=3),
        "bias": rand(D, seed=4),
    }  # fmt: skip


def plain() -> dict[str, Tensor]:
    """Return the tensors of a sae_lens SAE."""
    return {"W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, D, seed=3), "b_dec": rand(D, seed=4)}


def trained(folder: Path, weights: Any = None, settings: Any = None) -> Path:
    """Write an SAE of dictionary_learning; ``weights`` and ``settings`` may be bytes, which are written as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    content = linear() if weights is None else weights
    if isinstance(content, bytes):
        (folder / "ae.pt").write_bytes(content)
    else:
        torch.save(content, folder / "ae.pt")
    own = {"trainer": {"dict_class": "AutoEncoder", "layer": 1, "lm_name": "gpt2"}}
    put(folder / "config.json", own if settings is None else settings)
    return folder


def lens(folder: Path, weights: bytes | None = None, settings: Any = None) -> Path:
    """Write an SAE of sae_lens, likewise."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sae_weights.safetensors").write_bytes(save(plain()) if weights is None else weights)
    put(folder / "cfg.json", lens_settings() if settings is None else settings)
    return folder


def lens_settings(**changed: Any) -> dict[str, Any]:
    """Return the settings of that SAE."""
    meta = {"hook_name": "blocks.1.hook_resid_pre", "model_name": "gpt2", "context_size": 16}
    own = {"architecture": "topk", "k": 4, "d_in": D, "d_sae": S, "dtype": "float32", "normalize_activations": "none"}
    return own | {"apply_b_dec_to_input": True, "metadata": meta} | changed


def put(path: Path, content: Any) -> None:
    """Write bytes as they are, everything else as JSON."""
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

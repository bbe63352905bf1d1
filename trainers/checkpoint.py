"""Checkpoints: everything a run needs to go on as if it had never stopped, in files that hold no foreign classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.sae.files import load_torch
from saebench.store import write_atomic

from .ranks import Ranks


def checkpoint_file(folder: Path, ranks: Ranks) -> Path:
    """Return the file of this process."""
    return folder / ("checkpoint.pt" if ranks.first else f"checkpoint.rank{ranks.rank}.pt")


def save_checkpoint(folder: Path, ranks: Ranks, state: dict[str, Any]) -> Path:
    """Write ``state`` whole or not at all, in place of the last one, and return the file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = checkpoint_file(folder, ranks)
    write_atomic(path, buffer.getvalue())
    return path


def load_checkpoint(folder: Path, ranks: Ranks, *, config: str, corpus: str) -> dict[str, Any] | None:
    """Return this process's checkpoint in ``folder``, or ``None`` if there is none.

    Args:
        folder: The run's folder.
        ranks: The processes.
        config: The configuration, as text; the checkpoint's must be the same.
        corpus: Hash of the training tokens; likewise.

    Raises:
        InputError: It is damaged, or of another configuration or text.
    """
    path = checkpoint_file(folder, ranks)
    if not path.exists():
        return None
    state = load_torch(path)
    if state.get("config") != config:
        raise InputError(f"{path} belongs to a run with other settings; use the same ones, or another --out")
    if state.get("corpus") != corpus:
        raise InputError(f"{path} was trained on other text than is found now; restore that text, or use another --out")
    return state

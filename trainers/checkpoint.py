"""Checkpoints: everything a run needs to go on as if it had never stopped, in one file that holds no foreign classes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.sae.files import load_torch
from saebench.store import write_atomic

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> Path:
    """Write ``state`` whole or not at all, in place of the last one, and return the file."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path = folder / NAME
    write_atomic(path, buffer.getvalue())
    return path


def load_checkpoint(folder: Path, *, config: str, corpus: str) -> dict[str, Any] | None:
    """Return the checkpoint in ``folder``, or ``None`` if there is none.

    Args:
        folder: The run's folder.
        config: The configuration, as JSON; the checkpoint's must be the same.
        corpus: Hash of the training tokens; likewise.

    Raises:
        InputError: It is damaged, or of another configuration or text.
    """
    path = folder / NAME
    if not path.exists():
        return None
    state = load_torch(path)
    if state.get("config") != config:
        raise InputError(f"{path} belongs to a run with other settings; use the same ones, or another --out")
    if state.get("corpus") != corpus:
        raise InputError(f"{path} was trained on other text than is found now; restore that text, or use another --out")
    return state

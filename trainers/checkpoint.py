"""Checkpoints: everything a run needs to go on as if it had never stopped, in files that hold no foreign classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.sae.reading.containers import load_torch
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


def load_checkpoint(folder: Path, ranks: Ranks, *, config: str, corpus: str, model: str) -> dict[str, Any] | None:
    """Return this process's checkpoint in ``folder``, or ``None`` if there is none.

    Args:
        folder: The run's folder.
        ranks: The processes.
        config: The configuration, a JSON object; the checkpoint's must be the same.
        corpus: Hash of the training tokens; likewise.
        model: Hash or name of the model; likewise.

    Raises:
        InputError: It is damaged, or of another configuration, model or text.
    """
    path = checkpoint_file(folder, ranks)
    if not path.exists():
        return None
    state = load_torch(path)
    if state.get("config") != config:
        raise InputError(
            f"{path} belongs to a run with other settings ({_difference(state.get('config'), config)}); use the same ones, or "
            "another --out"
        )
    if state.get("model") != model:
        raise InputError(f"{path} was trained on another model than is found now; restore that model, or use another --out")
    if state.get("corpus") != corpus:
        raise InputError(f"{path} was trained on other text than is found now; restore that text, or use another --out")
    return state


def _difference(old: Any, new: str) -> str:
    """Return the first settings that differ between two configurations, e.g. ``k: 3 there, 4 now``."""
    try:
        then, now = _flat(json.loads(old)), _flat(json.loads(new))
    except (TypeError, ValueError):
        return "of another version of saebench"
    told = [f"{key}: {then.get(key)} there, {now.get(key)} now" for key in {**then, **now} if then.get(key) != now.get(key)]
    return "; ".join(told[:3]) or "in another order"


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = {f"run {i}" if len(value) > 1 else "": part for i, part in enumerate(value, 1)}
    if not isinstance(value, dict):
        return {name.strip(): json.dumps(value)}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name} {key}".strip()).items()}

"""The native format: ``config.json`` + ``sae.safetensors``, tensors named as in :class:`saebench.sae.sae.SAEWeights`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError, did_you_mean
from saebench.registry import FORMATS
from saebench.sae.files import load_safetensors, read_json, take
from saebench.sae.sae import SAE, SAEConfig, SAEWeights

_VERSION = 1
_OWN = {f.name for f in dataclasses.fields(SAEConfig)} - {"path", "format", "name"}


@FORMATS.register("native")
class Native:
    """config.json + sae.safetensors, saebench's own."""

    looked_for = "config.json with saebench_format + sae.safetensors (native)"

    @staticmethod
    def detect(path: Path) -> bool:
        """Return whether this is a native folder."""
        config = path / "config.json"
        return (path / "sae.safetensors").is_file() and config.is_file() and "saebench_format" in read_json(config)

    @staticmethod
    def load(path: Path) -> SAE:
        """Load the folder; unknown keys are errors."""
        file = path / "config.json"
        data = read_json(file)
        if data.pop("saebench_format", None) != _VERSION:
            raise InputError(f"{file}: written by a newer saebench; upgrade saebench to read it")
        data.pop("training", None)
        data.pop("name", None)
        for key in data:
            if key not in _OWN:
                raise InputError(f"{file}: unknown key {key!r}.{did_you_mean(key, _OWN)}")
        for key in ("activation", "d_in", "d_out", "d_sae"):
            if key not in data:
                raise InputError(f"{file} lacks {key!r}")
        for key in ("assumptions", "warnings"):
            data[key] = tuple(data.get(key, ()))
        weights = path / "sae.safetensors"
        tensors = load_safetensors(weights)
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            take(tensors, name, weights)
        known = {f.name for f in dataclasses.fields(SAEWeights)}
        extra = [name for name in tensors if name not in known]
        if extra:
            raise InputError(f"{weights}: unknown tensor {extra[0]!r}.{did_you_mean(extra[0], known)}")
        return SAE(SAEConfig(**data, format="native", path=str(path)), SAEWeights(**tensors))


def save_native(sae: SAE, folder: str | Path, *, training: dict[str, Any] | None = None) -> Path:
    """Write ``sae`` to ``folder`` in the native format and return the folder.

    Args:
        sae: What to write.
        folder: Made if absent.
        training: The config that made it, kept in ``config.json`` for people.
    """
    from safetensors.torch import save

    from saebench.store import write_atomic

    folder = Path(folder)
    own = {key: getattr(sae.config, key) for key in sorted(_OWN)}
    data = {"saebench_format": _VERSION} | own | ({"training": training} if training else {})
    tensors: dict[str, torch.Tensor] = {name: t.detach().cpu().contiguous().clone() for name, t in sae.weights.items()}
    write_atomic(folder / "sae.safetensors", save(tensors))
    write_atomic(folder / "config.json", (json.dumps(data, indent=1) + "\n").encode())
    return folder

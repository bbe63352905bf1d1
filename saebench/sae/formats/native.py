"""The native format: ``config.json`` + ``sae.safetensors``, tensors named as in :class:`saebench.sae.sae.SAEWeights`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args

import torch

from saebench.errors import InputError, did_you_mean
from saebench.registry import FORMATS
from saebench.sae.pursuit import Pursuit
from saebench.sae.reading.files import n_tokens, number, real, take, text
from saebench.sae.sae import SAE, Activation, Normalisation, Residual, SAEConfig, SAEWeights
from saebench.sae.source import Entry, Source

_VERSION = 1
_WEIGHTS = "sae.safetensors"
_OWN = {f.name for f in dataclasses.fields(SAEConfig)} - {"path", "format", "name"}


@FORMATS.register("native")
class Native:
    """config.json + sae.safetensors, saebench's own."""

    looked_for = "config.json with saebench_format + sae.safetensors (native)"
    rank = 0

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights of a native folder."""
        there = source.has("config.json", _WEIGHTS) and "saebench_format" in source.json("config.json")
        return _WEIGHTS if there else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings; unknown keys are errors."""
        file = source.at("config.json")
        data = dict(source.json("config.json"))
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
        _check_values(data, file)
        for key in ("assumptions", "warnings"):
            data[key] = tuple(data.get(key, ()))
        weights, tensors = source.at(_WEIGHTS), source.headers(_WEIGHTS)
        known = {f.name for f in dataclasses.fields(SAEWeights)}
        extra = [name for name in tensors if name not in known]
        if extra:
            raise InputError(f"{weights}: unknown tensor {extra[0]!r}.{did_you_mean(extra[0], known)}")

        def load() -> SAEWeights:
            tensors = source.tensors(_WEIGHTS)
            return SAEWeights(**{name: take(tensors, name, weights) for name in ("W_enc", "b_enc", "W_dec", "b_dec", *tensors)})

        return Entry(config=SAEConfig(**data, format="native", path=str(source.path)), weights=load)


def _check_values(data: dict[str, Any], file: Path) -> None:
    for key in ("d_in", "d_out", "d_sae"):
        data[key] = number(data, key, file)
    if data.get("k") is not None:
        data["k"] = number(data, "k", file)
    data["context_length"] = n_tokens(data, "context_length", file)
    for key in ("site", "site_out", "model_id", "architecture"):
        text(data, key, file)
    for key, kind in {"activation": Activation, "normalisation": Normalisation, "residual": Residual}.items():
        if key in data and data[key] not in get_args(kind):
            raise InputError(f"{file}: {key!r} should be one of {', '.join(get_args(kind))}; found {data[key]!r}")
    scale = data.get("norm_scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float | None) or not math.isfinite(scale or 0):
        raise InputError(f"{file}: 'norm_scale' should be a number, found {scale!r}")
    if data.get("pursuit") is not None:
        data["pursuit"] = _pursuit(data["pursuit"], file)
    for key in ("assumptions", "warnings"):
        if not isinstance(data.get(key, []), list) or not all(isinstance(line, str) for line in data.get(key, [])):
            raise InputError(f"{file}: {key!r} should be a list of lines, found {data[key]!r}")


def _pursuit(value: Any, file: Path) -> Pursuit:
    names = [one.name for one in dataclasses.fields(Pursuit)]
    if not isinstance(value, dict) or value.keys() != set(names) or not isinstance(value["stop_on_repeat"], bool):
        raise InputError(f"{file}: 'pursuit' should hold {', '.join(names)}; found {value!r}")
    return Pursuit(
        residual_threshold=real(value, "residual_threshold", file),
        max_iterations=number(value, "max_iterations", file),
        stop_on_repeat=value["stop_on_repeat"],
    )


def save_native(
    sae: SAE, folder: str | Path, *, training: dict[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Path:
    """Write ``sae`` to ``folder`` in the native format and return the folder.

    Args:
        sae: What to write.
        folder: Made if absent.
        training: The config that made it, kept in ``config.json`` for people.
        dtype: What the matrices are stored in; as they are if ``None``. Biases and thresholds stay as they are: they weigh
            little, and where the mean of the acts is large beside what varies, rounding ``b_dec`` would move scores. Loading
            makes float32 of float16 and bfloat16.

    Raises:
        InputError: A weight does not fit ``dtype``.
    """
    from safetensors.torch import save

    from saebench.store import write_atomic

    folder = Path(folder)
    own = {key: getattr(sae.config, key) for key in sorted(_OWN)}
    if own["pursuit"] is None:
        del own["pursuit"]  # so that files without one stay as they were
    else:
        own["pursuit"] = dataclasses.asdict(own["pursuit"])
    data = {"saebench_format": _VERSION} | own | ({"training": training} if training else {})
    tensors: dict[str, torch.Tensor] = {
        name: t.detach().to("cpu", dtype if dtype and t.ndim > 1 else t.dtype).contiguous().clone()
        for name, t in sae.weights.items()
    }
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{sae.config.name}: {name} does not fit {kind}; store it as bfloat16 or float32")
    write_atomic(folder / "sae.safetensors", save(tensors))
    write_atomic(folder / "config.json", (json.dumps(data, indent=1) + "\n").encode())
    return folder

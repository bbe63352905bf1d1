"""What SAEs are, from settings and headers alone: no language model is loaded, and no weights but small ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.sae.find import Found, find_all, find_names, locate
from saebench.sae.hub.remote import is_remote
from saebench.sae.load import damage, read_entry
from saebench.sae.sae import SAE
from saebench.sae.source import WEIGHTS, Given

_TOLD = ("architecture", "site", "model_id", "d_in", "d_sae", "k")
_HASHED_BYTES = 128 << 20
"""Weights up to which the hash is worked out unasked: it reads them all."""


def inspect_sae(
    path: str | Path, format: str | None = None, *, given: Mapping[str, str] | None = None, hash: bool | None = None
) -> dict[str, object]:
    """Return format, architecture, shapes, site, model, normalisation, hash, assumptions and warnings as plain data.

    Args:
        path: As :func:`saebench.sae.load_sae`.
        format: Its format; found from the files if ``None``.
        given: What its files do not say.
        hash: Whether all weights are read, checked and hashed; ``None``: if the files are not larger than 128 MB.

    ``bytes`` counts what the SAE is read from, weights and settings, not what lies beside it.

    Raises:
        InputError: As :func:`saebench.sae.load_sae`.
    """
    found = locate(path, format, Given(given))
    found.source.used.clear()  # by those who looked for a format
    config, entry = read_entry(found, path)
    about: dict[str, Any] = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(config).items()}
    files = sorted(name for name in found.source.used if found.source.at(name).is_file())
    about["bytes"] = sum(found.source.at(name).stat().st_size for name in files)
    if hash or (hash is None and about["bytes"] <= _HASHED_BYTES):
        with damage(found):
            sae = SAE(config, entry.weights())
        about["dtype"] = str(sae.dtype).removeprefix("torch.")
        about["sha256"] = sae.sha256
        about["tensors"] = {name: list(tensor.shape) for name, tensor in sae.weights.items()}
        return about
    about["sha256"] = None
    about["tensors"] = _stored(found, files)
    return about


def list_saes(
    path: str | Path, select: str | None = None, format: str | None = None, *, given: Mapping[str, str] | None = None
) -> list[dict[str, object]]:
    """Return a row for each SAE at a path and below: path and format, then architecture, site and sizes, or why it is refused.

    Of SAEs that lie in a repository the rows hold the names alone.
    """
    rows: list[dict[str, object]] = []
    if is_remote(path):  # the names say no more, and nothing is fetched to list them
        nothing: dict[str, object] = {key: None for key in ("format", *_TOLD, "refused")}
        return [{"path": name, **nothing} for name in find_names(path, select, format)]
    for found in find_all(path, select, format, Given(given)):
        row: dict[str, object] = {"path": found.path, "format": found.format}
        try:
            config, _ = read_entry(found, found.path)
            rows.append(row | {key: getattr(config, key) for key in _TOLD} | {"refused": None})
        except InputError as error:
            rows.append(row | dict.fromkeys(_TOLD) | {"refused": str(error)})
    return rows


def _stored(found: Found, files: Sequence[str]) -> dict[str, list[int]]:
    source = found.source
    weights = [name for name in files if name.endswith(WEIGHTS)]
    return {key: list(one.shape) for name in weights for key, one in source.headers(name).items()}

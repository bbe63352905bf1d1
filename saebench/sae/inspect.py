"""What an SAE is, without any language model."""

from __future__ import annotations

from pathlib import Path

from saebench.sae.load import load_sae


def inspect_sae(path: str | Path, format: str | None = None) -> dict[str, object]:
    """Return format, architecture, shapes, site, model, normalisation, hash, assumptions and warnings as plain data.

    Raises:
        InputError: As :func:`saebench.sae.load_sae`.
    """
    return load_sae(path, format=format).describe()

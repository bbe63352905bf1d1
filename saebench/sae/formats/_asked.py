"""What files may leave out and the user is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.sae.reading.files import number
from saebench.sae.source import Source


def stated_k(cfg: dict[str, Any], source: Source, file: Path) -> int:
    """Return the number of active latents per token, from the settings or as it was told.

    Args:
        cfg: The settings.
        source: The files.
        file: The file of settings, for messages.

    Raises:
        InputError: Nobody says it, or it is no whole number.
    """
    if cfg.get("k") is not None:
        return number(cfg, "k", file)
    k = source.given.get("k", int)
    if k is None:
        raise InputError(f"{file} does not say k, the number of active latents; give it with --set k=N")
    return k

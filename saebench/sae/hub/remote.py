"""Paths that are no files: ``hub:`` and ``saelens:``."""

from __future__ import annotations

from pathlib import Path

from saebench.sae.hub import repository, saelens
from saebench.sae.source import Given, Source


def is_remote(path: str | Path) -> bool:
    """Return whether ``path`` names an SAE somewhere else; a folder called ``hub:…`` is ``./hub:…``."""
    return str(path).startswith((repository.PREFIX, saelens.PREFIX))


def open_remote(path: str | Path, given: Given | None = None) -> Source:
    """Return the one SAE at ``path``, its files fetched.

    Raises:
        InputError: It cannot be had, or there are several; the message says what to do.
    """
    text = str(path)
    return repository.open_hub(text, given) if text.startswith(repository.PREFIX) else saelens.open_saelens(text, given)


def list_remote(path: str | Path, select: str | None = None) -> list[str]:
    """Return names of the SAEs at ``path`` and below that open one each; no weights are fetched.

    Args:
        path: As a user wrote it.
        select: Shell pattern of the part of the name below ``path``; ``None``: all.

    Raises:
        InputError: As :func:`open_remote`, or ``select`` fits none.
    """
    text = str(path)
    return repository.list_hub(text, select) if text.startswith(repository.PREFIX) else saelens.list_saelens(text, select)

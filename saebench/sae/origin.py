"""Where an SAE's files were fetched from, and what is known of it besides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from saebench.sae.sae import SAEConfig


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What fetched files cannot say of themselves.

    Args:
        place: What names it in records and messages and can be opened again: ``hub:REPO@COMMIT``.
        inside: Folder or file of that place; empty for the place itself.
        format: Its format, where the place says it.
        settings: By name of a file of settings: keys and values that take the place of those in the file.
        amend: Completes the configuration that a format made of the files.
    """

    place: str
    inside: str = ""
    format: str | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    amend: Callable[[SAEConfig], SAEConfig] = lambda config: config

    @property
    def name(self) -> str:
        """What records and messages call it."""
        return f"{self.place}:{self.inside}" if self.inside else self.place

    def below(self, path: str) -> Origin:
        """Return the origin of something deeper: ``path`` is relative, with slashes; ``.`` is the same place."""
        return self if path == "." else replace(self, inside=f"{self.inside}/{path}" if self.inside else path)

"""Registries: names found by decorator, by entry point, never by editing a list.

A registry holds one kind of thing (metrics, studies, formats, recipes). Built-in members register themselves when the package
that holds them is imported; third parties name an entry point in the registry's group. Both happen on first look-up, so that
``saebench --help`` imports nothing heavy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from saebench.errors import InputError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind, each bound to one object.

    Args:
        kind: The word for one member, used in messages (``"metric"``).
        package: The package whose modules register the built-in members when imported.
        group: The entry-point group third parties use (``"saebench.metrics"``).
    """

    def __init__(self, kind: str, *, package: str, group: str) -> None:
        self.kind = kind
        self._kinds = f"{kind.removesuffix('y')}ies" if kind.endswith("y") else f"{kind}s"
        self._package = package
        self._group = group
        self._members: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that binds ``name`` to the decorated object; a name taken already raises ``InputError``."""

        def bind(member: T) -> T:
            if name in self._members and self._members[name] is not member:
                raise InputError(f"two {self._kinds} are called {name!r}; rename one of them")
            self._members[name] = member
            return member

        return bind

    def get(self, name: str) -> T:
        """Return the member called ``name``; an unknown name raises ``InputError`` with the nearest ones."""
        self._load()
        if name not in self._members:
            raise InputError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, self._members)} Known: {', '.join(self.names()) or 'none'}."
            )
        return self._members[name]

    def names(self) -> list[str]:
        """Return every name, sorted."""
        self._load()
        return sorted(self._members)

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield (name, member), sorted by name."""
        for name in self.names():
            yield name, self._members[name]

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for point in sorted(importlib.metadata.entry_points(group=self._group), key=lambda p: p.name):
            try:
                member = point.load()
            except Exception as error:  # a broken plug-in must be named, whatever it raised
                raise InputError(
                    f"the plug-in {point.value!r} (entry point {point.name!r} of {self._group}) does not load: {error}; "
                    "mend or uninstall it"
                ) from error
            self.register(point.name)(member)
        self._loaded = True


METRICS: Registry = Registry("metric", package="saebench.metrics", group="saebench.metrics")
FORMATS: Registry = Registry("format", package="saebench.sae.formats", group="saebench.formats")
RECIPES: Registry = Registry("recipe", package="saebench.trainers.recipes", group="saebench.trainers")
STUDIES: Registry = Registry("study", package="saebench.studies", group="saebench.studies")

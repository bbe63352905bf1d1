"""Pickles that bring classes of their own: read with classes that do nothing in the place of theirs, or not at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.sae.reading.pickle_imports import foreign_classes

_MOST = 1000
"""Imports that are looked at: a configuration and its tensors need a handful."""


class Inert:
    """Takes the place of a class that a pickle names: it keeps the attributes that the pickle gives it, and does nothing else.

    No argument, no state and no name of an attribute makes it do something: ``attributes`` is a dictionary beside the object,
    and there is no ``__dict__`` in which a method could be hidden.
    """

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls, *_args: Any, **_options: Any) -> Inert:
        """Return an object without attributes, whatever it is called with."""
        made = super().__new__(cls)
        made.attributes = {}
        return made

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Keep what the pickle says the attributes are: a dictionary, or a pair of them (that of slots second)."""
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.attributes.update((key, value) for key, value in dict.items(part) if isinstance(key, str))

    def __repr__(self) -> str:
        return f"<a {type(self).__name__}>"


def imports_of(path: Path) -> list[str]:
    """Return each class and function that the pickle at ``path`` names beyond those of plain tensors, once, unexecuted."""
    return list(dict.fromkeys(islice(foreign_classes(path), _MOST)))


def stand_ins(path: Path, packages: Sequence[str]) -> list[type[Inert]]:
    """Return a class that does nothing for each one that the pickle at ``path`` names.

    Args:
        path: A torch file.
        packages: Whose names may be stood in for, such as ``sae_training``.

    Raises:
        InputError: It names something else.
    """
    names = imports_of(path)
    for name in names:
        if not is_of(name, packages):
            raise InputError(
                f"{path} is a pickle that wants to run {name}; refused, nothing was executed (only names of "
                f"{' and '.join(packages)} are harmless here, which are not run either). Convert it to safetensors"
            )
    return [_stand_in(name) for name in names]


def is_of(name: str, packages: Sequence[str]) -> bool:
    """Return whether ``name``, as ``module.name``, is of one of these packages."""
    return any(re.fullmatch(rf"{re.escape(package)}(\.[A-Za-z_]\w*)+", name, re.ASCII) for package in packages)


def _stand_in(name: str) -> type[Inert]:
    module, _, own = name.rpartition(".")
    return type(own, (Inert,), {"__slots__": (), "__module__": module})

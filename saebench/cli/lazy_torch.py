"""torch, put off until something of it is used: importing it takes seconds, and a command that reads headers needs none of it.

What such a command runs through (``saebench.sae`` and all below it but ``export``) keeps to three rules: it writes ``import
torch`` and never ``from torch import …``, annotations are not evaluated (``from __future__ import annotations``), and nothing
at the top of a module, a decorator, a base class or a constant, looks a name of torch up. ``tests/cli/test_lazy_torch.py`` runs
the command on every kind of header and sees that torch was never loaded.

``importlib.util.LazyLoader`` will not do: with it the second ``import torch`` of a process loads it (it asks for ``__spec__``).
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A module that becomes itself when it is asked for a name that it has not got yet."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        assert spec is not None and spec.loader is not None
        self.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]
        self.__path__ = spec.submodule_search_locations or []
        spec.loader.exec_module(self)
        return getattr(self, name)


def put_off_torch() -> None:
    """Let ``import torch`` do nothing in this process until one of torch's names is looked up, which then loads it."""
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None:  # it is there already, or nowhere: who imports it is told so
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Later
    del module.__path__  # so that ``import torch.nn`` asks for it
    sys.modules["torch"] = module

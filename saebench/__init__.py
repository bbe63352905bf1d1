"""saebench: how good is a sparse autoencoder, where does it break, and is it better than that other one?

The public names below are loaded on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("saebench-harness")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+uninstalled"

_PUBLIC = {
    "check_format": "saebench.check",
    "check_sae": "saebench.check",
    "load_sae": "saebench.sae",
    "load_model": "saebench.api",
    "load_session": "saebench.api",
    "evaluate": "saebench.api",
    "read_results": "saebench.api",
}
__all__ = [
    "__version__", "check_format", "check_sae", "evaluate", "load_model", "load_sae", "load_session", "read_results",  # pyright: ignore[reportUnsupportedDunderAll]
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

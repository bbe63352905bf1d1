"""Options that tell of an SAE what its files cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from saebench.errors import InputError

_HELP = "What the SAE's files do not say, e.g. k=50; may be repeated."


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--set KEY=VALUE`` to a command, as the parameter ``given``."""
    return click.option("--set", "given", multiple=True, metavar="KEY=VALUE", help=_HELP)(command)


def pairs(given: Sequence[str]) -> dict[str, str]:
    """Return ``KEY=VALUE`` texts as a dictionary.

    Raises:
        InputError: One has no ``=``, or two tell the same.
    """
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write KEY=VALUE, e.g. --set k=50")
        if key in found:
            raise InputError(f"--set {key} is given twice; give it once")
        found[key] = value
    return found

"""``saebench inspect``: what an SAE is, without loading a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saebench.cli.output import json_option, put_json, put_text


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", metavar="FORMAT", help="File format, if it is not recognised.")
@json_option
def inspect(path: Path, format: str | None, as_json: bool) -> int:
    """Say what the SAE at PATH is: format, architecture, shapes, site, normalisation, hash, warnings."""
    from saebench.sae.inspect import inspect_sae

    found = inspect_sae(path, format=format)
    if as_json:
        put_json(found)
    else:
        put_text(_text(found))
    return 0


def _text(found: dict[str, Any]) -> str:
    from saebench.report.terminal import clean

    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        if isinstance(value, dict):
            lines += [(f"{key}.{name}", _one(part)) for name, part in value.items()]
        elif isinstance(value, list | tuple) and any(isinstance(part, str) for part in value):
            lines += [(key if i == 0 else "", str(part)) for i, part in enumerate(value)]
        else:
            lines.append((key, _one(value)))
    width = max(len(key) for key, _ in lines)
    return "".join(f"{key:<{width}}  {clean(value)}".rstrip() + "\n" for key, value in lines)


def _one(value: object) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, list | tuple):
        return " × ".join(str(part) for part in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)

"""``saebench inspect``: what an SAE is, or which SAEs lie in a folder, without loading a language model."""

from __future__ import annotations

import shlex
from typing import Any

import click

from saebench.cli.lazy_torch import put_off_torch
from saebench.cli.output import json_option, put_json, put_rows, put_text, say
from saebench.cli.sae_options import pairs, set_option
from saebench.errors import InputError, one_line

_NEEDED_BY_SOME = ("k", "norm_scale", "pursuit", "site_out")
"""What is none of an SAE's business where its activation, its normalisation or its kind does not ask for it."""

_LONGEST = 80


@click.command()
@click.argument("path")
@click.option("--format", metavar="FORMAT", help="File format, if it is not recognised.")
@click.option("--select", metavar="GLOB", help="List only these SAEs of a folder of many.")
@click.option("--hash", is_flag=True, help="Read, check and hash the weights even if they are large (above 128 MB).")
@click.option("--headers-only", is_flag=True, help="Read no weights, small ones neither, which is quicker.")
@set_option
@json_option
def inspect(
    path: str, format: str | None, select: str | None, hash: bool, headers_only: bool, given: tuple[str, ...], as_json: bool
) -> int:
    """Say what the SAE at PATH is: format, architecture, shapes, site, normalisation, hash, assumptions, warnings.

    PATH is a folder, a file, FILE#PART, `reference:NAME`, `hub:REPO[:FOLDER]` or `saelens:RELEASE/ID`. Of a folder that holds
    several, each is one row. Settings and headers are read; weights only to hash them.
    """
    if hash and headers_only:
        raise InputError("--hash reads the weights and --headers-only does not; give one of them")
    put_off_torch()
    from saebench.sae.find import find_names
    from saebench.sae.inspect import inspect_sae, list_saes
    from saebench.sae.source import Given

    told = pairs(given)
    several = select is not None or len(find_names(path, None, format, Given(told))) > 1
    if several:
        rows = list_saes(path, select, format, given=told)
        if as_json:
            put_json(rows)
        else:
            put_rows(_table(rows, path))
            chosen = "GLOB" if select is None else shlex.quote(select)
            say(f"{len(rows)} SAE{'s' * (len(rows) > 1)}; to score: saebench run --sae {path} --select {chosen}")
        return 0
    found = inspect_sae(path, format=format, given=told, hash=False if headers_only else hash or None)
    put_json(found) if as_json else put_text(_text(found))
    return 0


def _table(rows: list[dict[str, object]], path: str) -> list[dict[str, str]]:
    """Return the rows as they are shown: paths below the folder, and a column only where there is something in it."""
    columns = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    blank = {*_NEEDED_BY_SOME, "refused"}
    shown = [
        {key: "" if row[key] is None and (row["refused"] or key in blank) else _one(row[key]) for key in columns} for row in rows
    ]
    return [row | {"path": str(row["path"]).removeprefix(f"{path.rstrip('/')}/")} for row in shown]


def _text(found: dict[str, Any]) -> str:
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        if value is None and key in _NEEDED_BY_SOME:
            continue
        if isinstance(value, dict):
            lines += [(f"{key}.{name}", _one(part)) for name, part in value.items()]
        elif isinstance(value, list | tuple) and any(isinstance(part, str) for part in value):
            lines += [(key if i == 0 else "", str(part)) for i, part in enumerate(value)]
        else:
            lines.append((key, _one(value)))
    lines = [(one_line(key)[:_LONGEST], one_line(value)) for key, value in lines]  # tensors have names of the file's own
    width = max(len(key) for key, _ in lines)
    return "".join(f"{key:<{width}}  {value}".rstrip() + "\n" for key, value in lines)


def _one(value: object) -> str:
    if value is None:
        return "not stated"
    if isinstance(value, list | tuple):
        return " × ".join(str(part) for part in value) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)

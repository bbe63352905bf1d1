"""What the commands share for writing: JSON, plain tables, warnings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def put_json(data: Any) -> None:
    """Write ``data`` to standard output as strict JSON."""
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False, default=str) + "\n")


def put_rows(rows: Sequence[Mapping[str, object]]) -> None:
    """Write ``rows`` to standard output as a table; nothing if there are none."""
    from saebench.report.terminal import dict_grid, show_grid

    if rows:
        show_grid(dict_grid(rows), sys.stdout)


def put_text(text: str) -> None:
    """Write ``text`` to standard output as it is."""
    sys.stdout.write(text)


def say(message: str) -> None:
    """Write one line to standard error."""
    click.echo(f"saebench: {message}", err=True)

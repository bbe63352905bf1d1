"""``saebench list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable

import click

from saebench.cli.output import json_option, put_json, put_rows, say

Rows = list[dict[str, object]]


@click.command("list")
@click.argument("what", type=click.Choice(["metrics", "tasks", "suites", "formats", "recipes", "models"]))
@json_option
def list_(what: str, as_json: bool) -> int:
    """List what is installed, plug-ins included."""
    rows = _LISTS[what]()
    if as_json:
        put_json(rows)
    else:
        put_rows([{key: _short(value) for key, value in row.items()} for row in rows])
        if not rows:
            say(f"no {what} are installed")
    return 0


def _metrics() -> Rows:
    from saebench.registry import METRICS

    return [
        {
            "metric": name,
            "version": metric.version,
            "about": _headline(metric),
            "scores": [s.name for s in metric.specs],
        }
        for name, metric in METRICS.items()
    ]


def _tasks() -> Rows:
    from saebench.tasklist import all_tasks

    return [
        {"task": t.name, "version": t.version, "metrics": list(t.metrics), "corpus": t.corpus.source}
        for t in all_tasks().values()
    ]


def _suites() -> Rows:
    from saebench.tasklist import all_suites

    return [
        {"suite": s.name, "tasks": list(s.tasks), "contexts": s.limit or "all", "description": s.description}
        for s in all_suites().values()
    ]


def _formats() -> Rows:
    from saebench.registry import FORMATS

    return [{"format": name, "about": _headline(member)} for name, member in FORMATS.items()]


def _recipes() -> Rows:
    from saebench.registry import RECIPES

    return [{"recipe": name, "about": _headline(member)} for name, member in RECIPES.items()]


def _models() -> Rows:
    from saebench.lm.families import FAMILIES

    return [{"family": name, "example": example} for name, example in FAMILIES.items()]


_LISTS: dict[str, Callable[[], Rows]] = {
    "metrics": _metrics,
    "tasks": _tasks,
    "suites": _suites,
    "formats": _formats,
    "recipes": _recipes,
    "models": _models,
}


def _short(value: object) -> object:
    return f"{len(value)} scores" if isinstance(value, list) and len(value) > 5 else value


def _headline(member: object) -> str:
    return (getattr(member, "__doc__", None) or "").strip().split("\n")[0]

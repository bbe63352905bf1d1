"""``saebench list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from saebench.cli.lazy_torch import put_off_torch
from saebench.cli.output import json_option, put_json, put_rows, say

Rows = list[dict[str, object]]


@click.command("list")
@click.argument(
    "what", type=click.Choice(["metrics", "studies", "tasks", "probes", "suites", "formats", "recipes", "models", "saes"])
)
@json_option
def list_(what: str, as_json: bool) -> int:
    """List what is installed, plug-ins included."""
    rows = _LISTS[what]()
    if as_json:
        put_json(rows)
    else:
        put_rows([{key: _short(value) for key, value in row.items()} for row in rows])
        if not rows:
            say(f"no {what} are {'bundled' if what == 'saes' else 'installed'}")
    return 0


def _metrics() -> Rows:
    from saebench.registry import METRICS

    return [_measure("metric", name, metric) for name, metric in METRICS.items()]


def _studies() -> Rows:
    from saebench.registry import STUDIES

    return [_measure("study", name, study) for name, study in STUDIES.items()]


def _measure(kind: str, name: str, measure: Any) -> dict[str, object]:
    scores = [s.name for s in measure.specs]
    return {kind: name, "version": measure.version, "about": _headline(measure), "scores": scores}


def _tasks() -> Rows:
    from saebench.tasklist import StudyTask, all_tasks

    return [
        {"task": t.name, "version": t.version}
        | (
            {"study": t.study, "metrics": [], "corpus": None}
            if isinstance(t, StudyTask)
            else {"study": None, "metrics": list(t.metrics), "corpus": t.corpus.source}
        )
        for t in all_tasks().values()
    ]


def _probes() -> Rows:
    from saebench.probelist import all_probe_tasks

    return [
        {
            "probe": task.name,
            "version": task.version,
            "positive": task.classes[1],
            "negative": task.classes[0],
            "sources": list(dict.fromkeys(source.name() for source in task.sources)),
            "gao61": None if task.gao61 is None else task.gao61.mark,
        }
        for task in all_probe_tasks().values()
    ]


def _suites() -> Rows:
    from saebench.tasklist import all_suites

    return [
        {"suite": s.name, "tasks": list(s.tasks), "contexts": s.limit or "all", "description": s.description}
        for s in all_suites().values()
    ]


def _formats() -> Rows:
    put_off_torch()
    from saebench.registry import FORMATS

    return [{"format": name, "about": _headline(member)} for name, member in FORMATS.items()]


def _recipes() -> Rows:
    from saebench.registry import RECIPES

    return [{"recipe": name, "about": _headline(member)} for name, member in RECIPES.items()]


def _models() -> Rows:
    from saebench.lm.families import FAMILIES
    from saebench.reference import MODEL, has_model

    models = [("gpt2", MODEL, "yes")] if has_model() else []
    models += [(name, example, "no") for name, example in FAMILIES.items()]
    return [{"family": name, "example": example, "bundled": bundled} for name, example, bundled in models]


def _saes() -> Rows:
    from saebench.reference import describe

    return describe()


_LISTS: dict[str, Callable[[], Rows]] = {
    "metrics": _metrics,
    "studies": _studies,
    "tasks": _tasks,
    "probes": _probes,
    "suites": _suites,
    "formats": _formats,
    "recipes": _recipes,
    "models": _models,
    "saes": _saes,
}


def _short(value: object) -> object:
    if value is None or value == []:
        return ""
    return f"{len(value)} scores" if isinstance(value, list) and len(value) > 5 else value


def _headline(member: object) -> str:
    return (getattr(member, "__doc__", None) or "").strip().split("\n")[0]

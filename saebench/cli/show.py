"""``saebench show``: the definition of a metric or a task."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from saebench.cli.output import json_option, put_json, put_text
from saebench.errors import InputError, did_you_mean


@click.command()
@click.argument("kind", type=click.Choice(["metric", "task"]))
@click.argument("name")
@json_option
def show(kind: str, name: str, as_json: bool) -> int:
    """Show the definition of the metric (or one score of it) or the task called NAME."""
    if kind == "metric":
        found = _metric(name)
        text = _metric_text
    else:
        from saebench.tasklist import load_task

        found = load_task(name).model_dump(mode="json")
        text = _task_text
    if as_json:
        put_json(found)
    else:
        put_text(text(found))
    return 0


def _metric(name: str) -> dict[str, Any]:
    from saebench.registry import METRICS

    metrics = dict(METRICS.items())
    scores = {spec.name: metric for metric, cls in metrics.items() for spec in cls.specs}
    if name not in metrics and name not in scores:
        near = did_you_mean(name, [*metrics, *scores])
        raise InputError(f"unknown metric {name!r}.{near} Metrics: {', '.join(metrics)}; or the name of a score.")
    metric = name if name in metrics else scores[name]
    cls = metrics[metric]
    return {
        "metric": metric,
        "version": cls.version,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        "scores": [dataclasses.asdict(spec) for spec in cls.specs if name in (metric, spec.name)],
    }


def _metric_text(found: dict[str, Any]) -> str:
    parts = [f"{found['metric']}, version {found['version']}\n\n{found['about']}\n"]
    for s in found["scores"]:
        facts = [f"better: {s['better']}", f"unit: {s['unit'] or 'none'}", f"over: {s['unit_n']}"]
        source = f"\n  source: {s['source']}" if s["source"] else ""
        parts.append(f"{s['name']}\n  {s['definition']}\n  {', '.join(facts)}{source}\n")
    return "\n".join(parts)


def _task_text(found: dict[str, Any]) -> str:
    corpus = "".join(f"  {k}: {'not fixed' if v is None else v}\n" for k, v in found["corpus"].items())
    metrics = ", ".join(found["metrics"])
    return (
        f"{found['name']}, version {found['version']}\n\n{found['description']}\n\nmetrics: {metrics}\n"
        f"corpus:\n{corpus}licence of the data: {found['licence']}\n\n{found['citation'].rstrip()}\n"
    )

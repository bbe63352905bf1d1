"""``saebench show``: the definition of a metric, a study, a task or a probe task."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import click

from saebench.cli.output import json_option, put_json, put_text
from saebench.errors import InputError, did_you_mean


@click.command()
@click.argument("kind", type=click.Choice(["metric", "study", "task", "probe"]))
@click.argument("name")
@json_option
def show(kind: str, name: str, as_json: bool) -> int:
    """Show the definition of the metric or study (or one score of it), the task or the probe task called NAME."""
    if kind == "task":
        found, text = _task(name), _task_text
    elif kind == "probe":
        found, text = _probe(name), _probe_text
    else:
        found, text = _measure(kind, name), _measure_text
    if as_json:
        put_json(found)
    else:
        put_text(text(found))
    return 0


def _measure(kind: str, name: str) -> dict[str, Any]:
    """Return a metric or study by its name or that of one of its scores; a score that only the other kind has is found too."""
    from saebench.registry import METRICS, STUDIES

    kinds: dict[str, dict[str, Any]] = {"metric": dict(METRICS.items()), "study": dict(STUDIES.items())}
    order = [kind, *(k for k in kinds if k != kind)]
    if name in kinds[kind]:
        return _defined(kind, name, kinds[kind][name], None)
    for k in order:
        for measure, cls in kinds[k].items():
            if any(spec.name == name for spec in cls.specs):
                return _defined(k, measure, cls, name)
    known = kinds[kind]
    near = did_you_mean(name, [*known, *(spec.name for of in kinds.values() for cls in of.values() for spec in cls.specs)])
    plural = "Metrics" if kind == "metric" else "Studies"
    raise InputError(f"unknown {kind} {name!r}.{near} {plural}: {', '.join(known)}; or the name of a score.")


def _defined(kind: str, name: str, cls: Any, score: str | None) -> dict[str, Any]:
    settings = {"settings": cls.Settings.model_json_schema().get("properties", {})} if kind == "study" else {}
    return {
        kind: name,
        "version": cls.version,
        "about": inspect.cleandoc(cls.__doc__ or ""),
        **settings,
        "scores": [dataclasses.asdict(spec) for spec in cls.specs if score in (None, spec.name)],
    }


def _task(name: str) -> dict[str, Any]:
    from saebench.studies.settings import study_of
    from saebench.tasklist import StudyTask, load_task

    task = load_task(name)
    found = task.model_dump(mode="json")
    if isinstance(task, StudyTask):
        found["settings"] = study_of(task)[1].model_dump(mode="json")
    return found


def _probe(name: str) -> dict[str, Any]:
    from saebench.probelist import MARKS, probe_task

    task = probe_task(name)
    found = task.model_dump(mode="json")
    found["sources"] = [source.model_dump(mode="json", exclude_defaults=True) for source in task.sources]
    if task.gao61 is not None:
        found["gao61"]["means"] = MARKS[task.gao61.mark]
    return found


def _probe_text(found: dict[str, Any]) -> str:
    rules = ("keep", "text", "label", "positive", "negative", "group", "train", "balance", "split", "n_train", "n_test")
    sources = "".join("  " + ", ".join(f"{k}: {v}" for k, v in source.items()) + "\n" for source in found["sources"])
    lines = "".join(f"{key}: {found[key]!r}\n" for key in rules if found[key] is not None)
    negative, positive = found["classes"]
    gao = found["gao61"]
    paper = (
        f"task {gao['number']} of Gao et al.'s 61, {gao['mark']}: {gao['means']}. Not known: {gao['unknown']}\n" if gao else ""
    )
    get = f"how to get it: {found['get']}\n" if found["get"] else ""
    instead = f"much the same, of data that are easier to get: {found['stand_in']}\n" if found["stand_in"] else ""
    return (
        f"{found['name']}, version {found['version']}\n\n{found['description']}\n\npositive: {positive}\nnegative: {negative}\n"
        f"sources:\n{sources}{lines}{paper}{get}{instead}"
        f"licence of the data: {found['licence']}\n\n{found['citation'].rstrip()}\n"
    )


def _measure_text(found: dict[str, Any]) -> str:
    name = found.get("metric") or found["study"]
    parts = [f"{name}, version {found['version']}\n\n{found['about']}\n"]
    if found.get("settings"):
        parts.append("settings:\n" + "".join(f"  {key}: {_setting(about)}\n" for key, about in found["settings"].items()))
    for s in found["scores"]:
        facts = [f"better: {s['better']}", f"unit: {s['unit'] or 'none'}", f"over: {s['unit_n']}"]
        source = f"\n  source: {s['source']}" if s["source"] else ""
        parts.append(f"{s['name']}\n  {s['definition']}\n  {', '.join(facts)}{source}\n")
    return "\n".join(parts)


def _setting(about: dict[str, Any]) -> str:
    default = "required" if "default" not in about else f"{about['default']} unless the task says otherwise"
    return f"{default}. {about['description']}" if "description" in about else default


def _task_text(found: dict[str, Any]) -> str:
    if "study" in found:
        lines = "".join(f"  {k}: {'not fixed' if v is None else v}\n" for k, v in found["settings"].items())
        measures = f"study: {found['study']}\n" + (f"settings:\n{lines}" if lines else "")
    else:
        lines = "".join(f"  {k}: {'not fixed' if v is None else v}\n" for k, v in found["corpus"].items())
        measures = f"metrics: {', '.join(found['metrics'])}\ncorpus:\n{lines}"
    return (
        f"{found['name']}, version {found['version']}\n\n{found['description']}\n\n{measures}"
        f"licence of the data: {found['licence']}\n\n{found['citation'].rstrip()}\n"
    )

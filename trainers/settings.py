"""From key=value words and YAML to the settings of one run or of a sweep of runs."""

from __future__ import annotations

import itertools
import typing
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from saebench.errors import InputError, did_you_mean
from saebench.registry import RECIPES
from saebench.store import slug

from .config import RecipeSettings, TrainConfig
from .recipe import Recipe

_OF_A_RUN = ("site", "seed", "residual", "export")
"""Settings of the run that may differ within a sweep; the others belong to the stream of acts that all share."""


class Run(NamedTuple):
    """One SAE to train."""

    config: TrainConfig
    recipe: type[Recipe]
    settings: RecipeSettings


def as_values(assignments: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Return settings from a YAML file and ``key=value`` words; the words win.

    Raises:
        InputError: The file cannot be read, or a word has no ``=``.
    """
    import yaml

    values: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, dict):
            raise InputError(f"{file} must hold key: value pairs")
        _check_names(loaded, str(file))
        values |= loaded
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set {word!r} should be key=value")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            values[key] = value
    return values


def _check_names(values: dict[Any, Any], where: str) -> None:
    for key in values:
        if not isinstance(key, str):  # YAML reads a bare `on`, `no` or 3 as something else
            raise InputError(f"{where} has the key {key!r}, which is not a name; correct it, or put it in quotes")


def runs_of(recipe: str | None, values: dict[str, Any]) -> list[Run]:
    """Return the run, or the runs of a sweep.

    A sweep is a value ``recipes``: a list of mappings, each with ``recipe`` and its settings. There, and for ``site`` and
    ``seed``, a list means every one of its entries; for a setting that is itself a list, a list of lists does. The runs share
    everything else, and are written to folders under ``out`` that are named after what differs.

    Args:
        recipe: Name of the recipe of a single run.
        values: Settings of the run (:class:`saebench.trainers.config.TrainConfig`) and of the recipe, by name.

    Raises:
        InputError: An unknown recipe or setting (with near ones), or an impossible value.
    """
    values = dict(values)
    entries, named = values.pop("recipes", None), values.pop("recipe", None)
    if recipe is not None and named not in (None, recipe):
        raise InputError(f"the configuration is of the recipe {named!r}, not {recipe!r}; leave one of them out")
    recipe = named if recipe is None else recipe
    if entries is None:
        if recipe is None:
            raise InputError("no recipe given; name one (see `saebench list recipes`), or a sweep with --config")
        return [_run(recipe, values)]
    if recipe is not None:
        raise InputError(f"the configuration lists recipes already; leave {recipe!r} out")
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "recipe" in e for e in entries):
        raise InputError("recipes must be a list of mappings, each with `recipe: NAME` and its settings")
    for entry in entries:
        _check_names(entry, "an entry of recipes")
    points = [point for entry in entries for point in _grid(values, entry)]
    varied = [key for key in dict.fromkeys(k for point in points for k in point) if len({str(p.get(key)) for p in points}) > 1]
    names = [_name(point, varied) for point in points]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"the sweep has the run {twice} twice; take one out")
    if not isinstance(values.get("out"), str | Path):
        raise InputError("no out given, the folder of the sweep; use --out")
    out = Path(values["out"])
    return [
        _run(p["recipe"], {k: v for k, v in p.items() if k != "recipe"} | {"out": out / name})
        for p, name in zip(points, names, strict=True)
    ]


def _name(point: dict[str, Any], varied: list[str]) -> str:
    parts = [str(point["recipe"])]
    parts += [
        str(point[k]) if k == "site" else f"{k}-{point[k]}".replace("+", "") for k in varied if k in point and k != "recipe"
    ]
    return slug("_".join(parts))


def _grid(shared: dict[str, Any], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of one entry of ``recipes``, the shared values included."""
    kind, values = _kind(entry["recipe"]), shared | entry
    for key in entry:
        if key in TrainConfig.model_fields and key not in ("recipe", *_OF_A_RUN):
            raise InputError(f"{key} is shared by all runs of a sweep; give it beside `recipes`, not inside")
    axes = [[(key, v) for v in _choices(key, value, kind.Settings)] for key, value in values.items()]
    return [dict(point) for point in itertools.product(*axes)]


def _choices(key: str, value: Any, settings: type[RecipeSettings]) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    field = settings.model_fields.get(key) or TrainConfig.model_fields.get(key)
    is_list = field is not None and typing.get_origin(field.annotation) is tuple
    if is_list and not all(isinstance(v, list) for v in value):
        return [value]
    if not is_list and key in TrainConfig.model_fields and key not in _OF_A_RUN:
        raise InputError(f"{key} is shared by all runs of a sweep and takes one value, not {value}")
    if not value:
        raise InputError(f"{key} is an empty list; name at least one value, or leave it out")
    return value


def _kind(recipe: Any) -> type[Recipe]:
    if not isinstance(recipe, str):
        raise InputError(f"recipe should be one name, not {recipe!r}; a sweep has an entry of its own for each recipe")
    return RECIPES.get(recipe)


def _run(recipe: Any, values: dict[str, Any]) -> Run:
    kind = _kind(recipe)
    run, own = TrainConfig.model_fields, kind.Settings.model_fields
    for key in values:
        if key not in run and key not in own:
            raise InputError(f"unknown setting {key!r} of {recipe}.{did_you_mean(key, [*run, *own])}")
    config = _validated(TrainConfig, {k: v for k, v in values.items() if k in run} | {"recipe": recipe})
    return Run(config, kind, _validated(kind.Settings, {k: v for k, v in values.items() if k in own}))


def _validated(model: type[BaseModel], values: dict[str, Any]) -> Any:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name, said = ".".join(str(part) for part in first["loc"]) or "settings", first["msg"].removeprefix("Value error, ")
        given = "" if first["type"] == "missing" or not first["loc"] else f"={first['input']!r}"
        raise InputError(f"setting {name}{given}: {said}") from None

"""Tasks and suites, read from the YAML files of ``saebench.tasks``. Imports neither torch nor transformers."""

from __future__ import annotations

import functools
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saebench.errors import InputError, did_you_mean

_SUITES = "suites.yaml"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Spec = TypeVar("Spec", bound=_Frozen)


class TaskCorpus(_Frozen):
    """Which text a task reads, and how much of it."""

    source: str
    """Hub id, or a path."""
    config: str | None = None
    """Configuration of the hub data set; its default one if ``None``."""
    split: str = "train"
    text_column: str = "text"
    n_contexts: int = Field(ge=1)
    context_length: int | None = Field(default=None, ge=2)
    """Tokens per context, BOS included; the model's maximum if ``None``."""
    separator: Literal["auto", "eos", "bos", "none"] = "auto"
    """What stands between two documents of one context (see ``saebench.data.CorpusSpec``)."""


class TaskSpec(_Frozen):
    """One task: what is measured, on which text."""

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    """Raised when the meaning of a score changes; records of two versions are never mixed."""
    description: str
    metrics: tuple[str, ...] = Field(min_length=1)
    corpus: TaskCorpus
    citation: str
    """BibTeX of the data."""
    licence: str


class SuiteSpec(_Frozen):
    """A named set of tasks."""

    name: str
    description: str
    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    """Number of contexts of each task at most; ``None`` for all."""


def read_tasks(folder: Traversable) -> dict[str, TaskSpec]:
    """Return every task defined in ``folder`` by name, sorted.

    Raises:
        InputError: A file is not a task (the message names file and key), or two files define one name.
    """
    found: dict[str, TaskSpec] = {}
    origin: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml") or file.name == _SUITES:
            continue
        task = _validate(TaskSpec, _load_yaml(file), file.name)
        if task.name in found:
            raise InputError(f"{origin[task.name]} and {file.name} both define task {task.name!r}; rename one of them")
        found[task.name], origin[task.name] = task, file.name
    return dict(sorted(found.items()))


def read_suites(folder: Traversable) -> dict[str, SuiteSpec]:
    """Return every suite of ``folder``'s ``suites.yaml`` by name, in the file's order; ``InputError`` as for tasks."""
    data = _load_yaml(folder / _SUITES)
    return {
        name: _validate(SuiteSpec, body | {"name": name} if isinstance(body, dict) else body, f"{_SUITES}, {name}")
        for name, body in data.items()
    }


def all_tasks() -> dict[str, TaskSpec]:
    """Return the tasks that come with the package, by name."""
    return _tasks()


def all_suites() -> dict[str, SuiteSpec]:
    """Return the suites that come with the package, by name."""
    return _suites()


def load_task(name: str) -> TaskSpec:
    """Return the task called ``name``, or the one that a YAML file defines.

    Args:
        name: Name of a task that comes with the package, or a path that ends in ``.yaml`` or ``.yml``.

    Raises:
        InputError: An unknown name (with the nearest ones), no such file, a file that is not a task, or one that takes the
            name of a task of the package.
    """
    if not name.endswith((".yaml", ".yml")):
        return _pick("task", name, _tasks())
    file = Path(name).expanduser()
    task = _validate(TaskSpec, _load_yaml(file), name)
    if task.name in _tasks():
        raise InputError(f"{name}: the task {task.name!r} comes with saebench; give yours another name")
    return task


def load_suite(name: str) -> SuiteSpec:
    """Return the suite called ``name``; an unknown name raises ``InputError`` with the nearest ones."""
    return _pick("suite", name, _suites())


@functools.cache
def _tasks() -> dict[str, TaskSpec]:
    return read_tasks(resources.files("saebench.tasks"))


@functools.cache
def _suites() -> dict[str, SuiteSpec]:
    return read_suites(resources.files("saebench.tasks"))


def _pick(kind: str, name: str, known: dict[str, Spec]) -> Spec:
    if name not in known:
        raise InputError(f"unknown {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def _load_yaml(file: Traversable) -> dict[str, Any]:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is given twice, which YAML itself lets the later one win."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value]
            twice = [key for key in keys if keys.count(key) > 1]
            if twice:
                raise yaml.YAMLError(f"{twice[0]!r} is given twice")
            return super().construct_mapping(node, deep)

    try:
        data = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise InputError(f"{file.name} must hold key: value pairs")
    return data


def _validate(model: type[Spec], data: Any, where: str) -> Spec:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        keys = [str(part) for part in first["loc"]]
        path = ".".join(keys) or "file"
        if first["type"] == "extra_forbidden":
            known = TaskCorpus if len(keys) > 1 else model
            near = did_you_mean(keys[-1], known.model_fields)
            raise InputError(f"{where}: unknown key {path!r}.{near}") from None
        raise InputError(f"{where}: {path}: {first['msg']}") from None

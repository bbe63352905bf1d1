"""Tasks and suites, read from the YAML files of ``saebench.tasks``. Imports neither torch nor transformers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saebench.errors import InputError, did_you_mean

_SUITES = "suites.yaml"
LM_EVAL = "lm-eval:"
"""What stands before the name of a task of lm-eval, or the path of a file that defines one."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Spec = TypeVar("Spec", bound=BaseModel)
Named = TypeVar("Named")


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


class _Task(_Frozen):
    """What every task says of itself."""

    name: str = Field(min_length=1)
    version: int = Field(ge=1)
    """Raised when the meaning of a score changes; records of two versions are never mixed."""
    description: str
    citation: str
    """BibTeX of the data."""
    licence: str


class StreamTask(_Task):
    """Streaming metrics, fed by one pass over a corpus."""

    metrics: tuple[str, ...] = Field(min_length=1)
    corpus: TaskCorpus


class StudyTask(_Task):
    """A study, which brings its own texts."""

    study: str = Field(min_length=1)
    """Its name in the registry ``STUDIES``."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Options of the study; its own class checks them (:func:`saebench.studies.settings.study_of`)."""


TaskSpec: TypeAlias = StreamTask | StudyTask
"""One task: what is measured, on which text. A file with the key ``study`` is a study, any other one is streaming."""


class SuiteSpec(_Frozen):
    """A named set of tasks."""

    name: str
    description: str
    tasks: tuple[str, ...] = Field(min_length=1)
    limit: int | None = Field(default=None, ge=1)
    """Number of contexts of each task at most, of examples for a study; ``None`` for all."""


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
        task = _task(load_yaml(file), file.name)
        if task.name in found:
            raise InputError(f"{origin[task.name]} and {file.name} both define task {task.name!r}; rename one of them")
        found[task.name], origin[task.name] = task, file.name
    return dict(sorted(found.items()))


def read_suites(folder: Traversable) -> dict[str, SuiteSpec]:
    """Return every suite of ``folder``'s ``suites.yaml`` by name, in the file's order; ``InputError`` as for tasks."""
    data = load_yaml(folder / _SUITES)
    return {
        name: validate(SuiteSpec, body | {"name": name} if isinstance(body, dict) else body, f"{_SUITES}, {name}")
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
        name: Name of a task that comes with the package, a path that ends in ``.yaml`` or ``.yml``, or ``lm-eval:`` and the name
            or the file of a task of lm-eval.

    Raises:
        InputError: An unknown name (with the nearest ones), no such file, a file that is not a task, or one that takes the
            name of a task of the package.
    """
    if name.startswith(LM_EVAL):
        return _lm_eval_task(name.removeprefix(LM_EVAL))
    if not name.endswith((".yaml", ".yml")):
        return _pick("task", name, _tasks())
    file = Path(name).expanduser()
    task = _task(load_yaml(file), name)
    if task.name in _tasks():
        raise InputError(f"{name}: the task {task.name!r} comes with saebench; give yours another name")
    return task


def _lm_eval_task(asked: str) -> StudyTask:
    """Return the task that asks what lm-eval's task of that name or file asks; lm-eval itself looks when it is run."""
    if not asked:
        raise InputError("name a task of lm-eval, as in lm-eval:hellaswag, or a file that defines one")
    settings: dict[str, Any] = {"task": asked}
    if asked.endswith((".yaml", ".yml")):
        file = Path(asked).expanduser()
        if not file.is_file():
            raise InputError(f"no such lm-eval task file: {file}")
        settings["task_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return StudyTask(
        name=LM_EVAL + (Path(asked).stem if "task_sha256" in settings else asked),
        version=1,
        description=f"The task {asked} of lm-eval, clean and with recons in place of acts.",
        citation="that of the task, in its folder of lm-eval",
        licence="that of the task's data",
        study="lm_eval",
        settings=settings,
    )


def load_suite(name: str) -> SuiteSpec:
    """Return the suite called ``name``; an unknown name raises ``InputError`` with the nearest ones."""
    return _pick("suite", name, _suites())


@functools.cache
def _tasks() -> dict[str, TaskSpec]:
    return read_tasks(resources.files("saebench.tasks"))


@functools.cache
def _suites() -> dict[str, SuiteSpec]:
    return read_suites(resources.files("saebench.tasks"))


def _pick(kind: str, name: str, known: dict[str, Named]) -> Named:
    if name not in known:
        raise InputError(f"unknown {kind} {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def load_yaml(file: Traversable) -> dict[str, Any]:
    """Return what a YAML file holds; not readable, a key given twice or no mapping raises ``InputError``."""
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


def _task(data: dict[str, Any], where: str) -> TaskSpec:
    streaming = next((key for key in ("metrics", "corpus") if key in data), None)
    if "study" in data and streaming:
        raise InputError(f"{where}: a task is either a study or metrics over a corpus; leave out {streaming!r} or 'study'")
    if "study" in data:
        return validate(StudyTask, data, where)
    return validate(StreamTask, data, where, also=StudyTask.model_fields if "corpus" not in data else ())


def validate(model: type[Spec], data: Any, where: str, *, also: Iterable[str] = ()) -> Spec:
    """Return ``data`` as a ``model``.

    Args:
        model: A pydantic model that takes no unknown keys.
        data: What a file holds.
        where: The file's name, for the message.
        also: Keys that are known elsewhere, to be suggested for an unknown one.

    Raises:
        InputError: An unknown key (with the nearest ones), or the first thing that is wrong otherwise.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
        keys = [str(part) for part in first["loc"]]
        path = ".".join(keys)
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, keys[:-1])
            near = did_you_mean(keys[-1], [*known, *(also if len(keys) == 1 else ())])
            raise InputError(f"{where}: unknown key {path!r}.{near}") from None
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(": ".join([where, path, what] if path else [where, what])) from None


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    """Return the names of the fields of the model that lies at ``keys`` inside ``model``."""
    for key in keys:
        if key.isdigit():  # the place in a list, whose kind has been looked at
            continue
        field = model.model_fields.get(key)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)

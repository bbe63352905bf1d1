"""Probe tasks, read from the YAML files of ``saebench.tasks/probes``. Imports neither torch nor transformers.

A probe task says which texts there are and which of two classes each is of. Tasks in the sense of :mod:`saebench.tasklist`
(``settings: {tasks: [...]}`` of the study ``probes``) name probe tasks, one by one or by a pattern such as ``gao61/*``.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from saebench.errors import InputError, did_you_mean
from saebench.sandbox import check_expression, check_template
from saebench.tasklist import load_yaml, validate

EACH = "<each>"
"""Stands in a file that defines several tasks for what they differ in."""
MARKS = {
    "noted": "the table of Kantamneni et al. names Gao et al. beside the row",
    "placed": "stands in the block of that table that is taken from Gao et al.; the place, citation or name says so",
    "adjacent": "stands near that block only",
    "remembered": "no source was found; from memory of the paper",
}
"""How sure it is that Gao et al. used this task, surest first."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProbeSource(_Frozen):
    """Rows: of a hub data set, of a file of the package ``sae-probes``, or made by a recipe."""

    hub: str | None = None
    """Hub id; a folder of the same name in the local mirror is read instead."""
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    """Hub commit, tag or branch; the present one if ``None``. Rows of a mirror have none."""
    rows: int = Field(default=20_000, ge=1)
    """Rows to read at most; the hub's come in the seed's order."""
    sae_probes: str | None = None
    """Name of a file of the package, without ``.csv.zst``; its columns are ``prompt``, ``target`` and ``positive``."""
    mirror: str | None = None
    """Folder of the local mirror, under ``sae-probes``, that holds the file or a part of it, where it has another name."""
    recipe: str | None = None
    """Name of a recipe; its rows have the columns that it says."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the recipe takes; it checks them itself."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Columns to add to every row, where several sources are told apart."""

    @model_validator(mode="after")
    def _one(self) -> ProbeSource:
        told = [key for key in ("hub", "sae_probes", "recipe") if getattr(self, key) is not None]
        if len(told) != 1:
            raise ValueError(f"a source needs exactly one of hub, sae_probes and recipe; it has {' and '.join(told) or 'none'}")
        if self.options and self.recipe is None:
            raise ValueError("options are for a recipe; leave them out")
        if self.recipe or self.sae_probes:
            extra = [key for key in ("config", "revision") if getattr(self, key) is not None]
            if extra:
                raise ValueError(f"{extra[0]} is for a hub data set; leave it out")
        return self

    def name(self) -> str:
        """Return where the rows are from, in a few words."""
        if self.hub is not None:
            return "/".join(part for part in (self.hub, self.config, self.split) if part)
        return f"sae-probes:{self.sae_probes}" if self.sae_probes is not None else f"recipe:{self.recipe}"


class Attribution(_Frozen):
    """Which of the 61 tasks of Gao et al. (2024), sec. 4.2, this is taken to be, and how sure that is."""

    number: int = Field(ge=1, le=61)
    task: str
    """Its name there, where it is known."""
    mark: Literal["noted", "placed", "adjacent", "remembered"]
    """See ``MARKS``."""
    unknown: str
    """What the sources do not say about it: the text, the label, the split."""


class ProbeTask(_Frozen):
    """Texts in two classes, and how they become training and test examples."""

    name: str
    """``<suite>/<task>``."""
    version: int = Field(ge=1)
    """Raised when the examples change."""
    description: str
    sources: tuple[ProbeSource, ...] = Field(min_length=1)
    keep: str | None = None
    """Expression: which rows are taken; all if ``None``."""
    text: str = "{{ text }}"
    """Template of the text, in the row's columns; and ``answer``, where there are candidates."""
    label: str | None = None
    """Expression that must give true or false: is the row of the positive class?"""
    positive: str | None = None
    """Expression instead of ``label``: a list of candidates, each ``answer`` of a text of the positive class."""
    negative: str | None = None
    """The same for the negative class; the texts of one row stay in one split."""
    group: str | None = None
    """Expression: rows of one value stay in one split (the questions about one passage). Every row by itself if ``None``."""
    train: str | None = None
    """Expression: is the row for training? For data that come split; ``None``: the seed decides."""
    classes: tuple[str, str]
    """What the negative and the positive class are."""
    balance: Literal["equal", "as_is"] = "equal"
    """``equal``: as many of one class as of the other, in training and in test, by subsampling."""
    split: Literal["seeded", "sae-probes"] = "seeded"
    """``seeded``: no text in both splits, double texts left out. ``sae-probes``: exactly what that package does, where double
    texts stand in both."""
    n_train: int = Field(ge=2)
    """Training examples at most."""
    n_test: int = Field(ge=2)
    """Test examples at most; where there are fewer rows, both shrink alike."""
    licence: str
    citation: str
    """BibTeX of the data."""
    gao61: Attribution | None = None
    get: str | None = None
    """How to get the data where the hub has not got them."""
    stand_in: str | None = None
    """A probe task that asks much the same of data that are easier to get."""

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        if not re.fullmatch(r"[\w-]+/[\w-][\w .-]*", name):
            raise ValueError(f"{name!r} is not <suite>/<task>, of letters, digits, '_', '-' and, in the task, '.' and ' '")
        return name

    @field_validator("text")
    @classmethod
    def _template(cls, text: str) -> str:
        check_template(text)
        return text

    @field_validator("keep", "label", "positive", "negative", "group", "train")
    @classmethod
    def _expression(cls, source: str | None) -> str | None:
        if source is not None:
            check_expression(source)
        return source

    @model_validator(mode="after")
    def _labelled(self) -> ProbeTask:
        candidates = self.positive is not None, self.negative is not None
        if (self.label is not None) == any(candidates) or any(candidates) != all(candidates):
            raise ValueError("give either label, or both positive and negative")
        return self


def read_probe_tasks(folder: Traversable) -> dict[str, ProbeTask]:
    """Return every probe task defined in ``folder``, by name, in the order of the files.

    Raises:
        InputError: A file is not a probe task (the message names file and key), or a name is given twice.
    """
    found: dict[str, ProbeTask] = {}
    origin: dict[str, str] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if not file.name.endswith(".yaml"):
            continue
        for task in _tasks_of(file, file.name):
            if task.name in found:
                raise InputError(f"{origin[task.name]} and {file.name} both define probe task {task.name!r}; rename one of them")
            found[task.name], origin[task.name] = task, file.name
    return found


def _tasks_of(file: Traversable, where: str) -> Iterator[ProbeTask]:
    data = load_yaml(file)
    each = data.pop("each", None)
    if each is None:
        yield validate(ProbeTask, data, where)
        return
    if not isinstance(each, list) or not each or not all(isinstance(one, str) for one in each):
        raise InputError(f"{where}: each: must be a list of words")
    if EACH not in str(data.get("name", "")):
        raise InputError(f"{where}: with 'each', the name must have {EACH} in it, for the words of the list")
    for one in each:
        yield validate(ProbeTask, _filled(data, one), f"{where}, {one}")


def _filled(value: Any, word: str) -> Any:
    if isinstance(value, str):
        return value.replace(EACH, word)
    if isinstance(value, dict):
        return {key: _filled(inner, word) for key, inner in value.items()}
    return [_filled(inner, word) for inner in value] if isinstance(value, list) else value


@functools.cache
def all_probe_tasks() -> dict[str, ProbeTask]:
    """Return the probe tasks that come with the package, by name."""
    return read_probe_tasks(resources.files("saebench.tasks") / "probes")


def probe_task(name: str) -> ProbeTask:
    """Return the one probe task of a name or file; anything else raises ``InputError``."""
    found = probe_tasks([name])
    if len(found) > 1:
        raise InputError(f"{name} is {len(found)} probe tasks ({found[0].name}, {found[1].name}, …); name one of them")
    return found[0]


def probe_tasks(patterns: Sequence[str]) -> list[ProbeTask]:
    """Return the probe tasks that names, patterns or files name, in the order given, each once.

    Args:
        patterns: Names (``gao61/sciq``), patterns with ``*`` (``gao61/phrase_*``), or paths that end in ``.yaml`` or ``.yml``.

    Raises:
        InputError: A name or pattern that nothing has (with the nearest ones), a file that is not a probe task, two tasks of
            one name, or nothing at all.
    """
    if not patterns:
        raise InputError("no probe tasks are named; give names or patterns such as gao61/*")
    known = all_probe_tasks()
    found: dict[str, ProbeTask] = {}
    for pattern in patterns:
        for task in _file_tasks(pattern) if pattern.endswith((".yaml", ".yml")) else _named(pattern, known):
            if found.setdefault(task.name, task) != task:
                raise InputError(f"two probe tasks are called {task.name!r}; rename one of them")
    return list(found.values())


def _file_tasks(path: str) -> Iterable[ProbeTask]:
    tasks = list(_tasks_of(Path(path).expanduser(), path))
    taken = [task.name for task in tasks if task.name in all_probe_tasks()]
    if taken:
        raise InputError(f"{path}: the probe task {taken[0]!r} comes with saebench; give yours another name")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: a word stands in 'each' twice; leave one out")
    return tasks


def _named(pattern: str, known: dict[str, ProbeTask]) -> list[ProbeTask]:
    if pattern in known:
        return [known[pattern]]
    found = [task for name, task in known.items() if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        suites = ", ".join(dict.fromkeys(f"{name.split('/')[0]}/*" for name in known))
        raise InputError(f"unknown probe task {pattern!r}.{did_you_mean(pattern, known)} There are: {suites}.")
    return found

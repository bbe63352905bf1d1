"""Probe tasks as examples: texts, labels, and which are for training. What cannot be had is named, and the rest goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saebench.data.datasets import Row
from saebench.errors import InputError
from saebench.probelist import ProbeTask, probe_tasks
from saebench.sandbox import expression, template
from saebench.studies.probes.deal import deal, deal_as_sae_probes, generator, sizes
from saebench.studies.probes.recipe import Wanted
from saebench.studies.probes.rows import RowReader, data_of

SUITE = "gao61/*"
"""The probe tasks that are meant where none are named."""
_SEED_OF_SAE_PROBES = 42


@dataclass(frozen=True, eq=False)
class ProbeExamples:
    """One probe task, read: ``N`` texts in two classes, training examples first."""

    name: str
    """``<suite>/<task>``."""
    texts: tuple[str, ...]
    labels: NDArray[np.bool_]
    """[N] of the positive class?"""
    is_train: NDArray[np.bool_]
    """[N] for training, else for the test."""
    classes: tuple[str, str] = ("negative", "positive")
    """What the two classes are."""
    version: int = 1
    origin: str = ""
    """Where the rows came from: ``mirror:…``, ``hub:…``, ``package:…``, ``generated:…``, joined by commas."""
    revision: str | None = None
    """Commit of the hub data set; of several, joined by commas."""
    notes: tuple[str, ...] = ()
    """What the user should know: texts that were left out."""
    shuffled: bool = False
    """Whether the examples of either split are in random order."""

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.labels) == len(self.is_train):
            raise ValueError(f"{self.name}: {len(self.texts)} texts, {len(self.labels)} labels, {len(self.is_train)} splits")

    def __len__(self) -> int:
        return len(self.texts)

    def sha256(self) -> str:
        """Return the SHA-256 of texts, labels and split."""
        digest = hashlib.sha256()
        for text, label, train in zip(self.texts, self.labels.tolist(), self.is_train.tolist(), strict=True):
            digest.update(json.dumps([text, label, train], ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class MissingProbe:
    """A probe task that gives no examples here."""

    name: str
    reason: str
    """One line: what is missing, and how to get it."""


def load_examples(
    patterns: Sequence[str] = (SUITE,), *, seed: int = 0, limit: int | None = None, data_dir: Path | None = None,
    only: Sequence[str] | None = None,
) -> Iterator[ProbeExamples | MissingProbe]:  # fmt: skip
    """Yield every probe task that is named, read, or the reason why it cannot be.

    Args:
        patterns: Names, patterns with ``*``, or paths of YAML files (:func:`saebench.probelist.probe_tasks`).
        seed: Chooses the examples and their split.
        limit: Examples of one task at most, training and test together.
        data_dir: Folder of a local mirror; the environment variable ``SAEBENCH_DATA`` if ``None``.
        only: Names of those of them that are wanted; all if ``None``.

    Raises:
        InputError: Before the first one: a name that nothing has, or a file that is not a probe task.
    """
    tasks = [task for task in probe_tasks(patterns) if only is None or task.name in only]
    return _load(tasks, seed, limit, data_dir)


def _load(tasks: list[ProbeTask], seed: int, limit: int | None, data_dir: Path | None) -> Iterator[ProbeExamples | MissingProbe]:
    reader = RowReader(data_dir)
    last = {data_of(source): task.name for task in tasks for source in task.sources}
    for task in tasks:
        try:
            yield read_task(task, reader, seed=seed, limit=limit, data_dir=data_dir)
        except InputError as error:
            yield MissingProbe(task.name, _reason(task, str(error)))
        for source in task.sources:
            if last[data_of(source)] == task.name:
                reader.forget(source)


def _reason(task: ProbeTask, why: str) -> str:
    parts = [f"{task.name}: {why}"]
    if task.get:
        parts.append(f"How to get the data: {' '.join(task.get.split())}")
    if task.stand_in:
        parts.append(f"The probe task {task.stand_in} asks much the same of other data")
    return ". ".join(part.rstrip(". ") for part in parts)


def read_task(
    task: ProbeTask, reader: RowReader, *, seed: int, limit: int | None = None, data_dir: Path | None = None
) -> ProbeExamples:
    """Return the examples of one task.

    Raises:
        InputError: The data are not there; a template or expression fails; a text is empty; a split lacks a class.
    """
    n_train, n_test = sizes(task.n_train, task.n_test, limit=limit)
    wanted = Wanted(seed=seed, n_train=n_train, n_test=n_test, data_dir=data_dir)
    found = [reader.read(source, wanted) for source in task.sources]
    said = _Said.of(task, (row for one in found for row in one.rows))
    labels = np.array(said.labels, bool)
    if task.split == "sae-probes":
        dealt = deal_as_sae_probes(labels, seed=_SEED_OF_SAE_PROBES + seed, limit=limit)
    else:
        train = np.array(said.train, bool) if task.train is not None else None
        dealt = deal(
            said.texts, labels, said.groups, train, n_train=n_train, n_test=n_test, balance=task.balance,
            rng=generator(task.name, seed),
        )  # fmt: skip
    return ProbeExamples(
        name=task.name,
        texts=tuple(said.texts[number] for number in dealt.chosen),
        labels=labels[dealt.chosen],
        is_train=dealt.is_train,
        classes=task.classes,
        version=task.version,
        origin=_joined(one.origin for one in found) or "",
        revision=_joined(one.revision for one in found),
        notes=tuple(f"{task.name}: {note}" for note in dealt.notes),
        shuffled=dealt.shuffled,
    )


def _joined(parts: Iterator[str | None]) -> str | None:
    return ", ".join(dict.fromkeys(part for part in parts if part)) or None


@dataclass(frozen=True)
class _Said:
    """What the templates and expressions of a task say of its rows, one entry a text."""

    texts: list[str]
    labels: list[bool]
    groups: list[Hashable]
    train: list[bool]

    @classmethod
    def of(cls, task: ProbeTask, rows: Iterator[Row]) -> _Said:
        say = {key: _Expression.maybe(task, key) for key in ("keep", "label", "positive", "negative", "group", "train")}
        text = template(task.text, "text")
        out = cls([], [], [], [])
        for number, row in enumerate(rows):
            try:
                if say["keep"] is not None and not say["keep"].truth(row):
                    continue
                group = say["group"].key_of(row) if say["group"] is not None else number
                train = say["train"].truth(row) if say["train"] is not None else False
                for columns, label in _answers(row, say):
                    out.texts.append(text(columns))
                    out.labels.append(label)
                    out.groups.append(group)
                    out.train.append(train)
            except InputError as error:
                raise InputError(f"row {number}: {error}") from None
        return out


def _answers(row: Row, say: Mapping[str, _Expression | None]) -> Iterator[tuple[Row, bool]]:
    """Yield the columns and the label of each text of a row."""
    label = say["label"]
    if label is not None:
        yield row, label.truth(row)
        return
    for key, positive in (("negative", False), ("positive", True)):
        candidates = say[key]
        assert candidates is not None
        for answer in candidates.list(row):
            yield row | {"answer": answer}, positive


@dataclass(frozen=True)
class _Expression:
    """An expression of a task file, and what its value must be."""

    key: str
    source: str
    value: Callable[[Mapping[str, Any]], Any]

    @classmethod
    def maybe(cls, task: ProbeTask, key: str) -> _Expression | None:
        source = getattr(task, key)
        return None if source is None else cls(key, source, expression(source, key))

    def truth(self, row: Row) -> bool:
        found = self.value(row)
        if isinstance(found, bool | np.bool_) or (isinstance(found, int) and found in (0, 1)):
            return bool(found)
        raise InputError(f"{self.key}: {self.source!r} gives {found!r}; it must be true or false")

    def list(self, row: Row) -> Sequence[Any]:
        found = self.value(row)
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise InputError(f"{self.key}: {self.source!r} gives {found!r}; it must be a list")
        return found

    def key_of(self, row: Row) -> Hashable:
        found = self.value(row)
        return found if isinstance(found, str | int | float) else json.dumps(found, sort_keys=True, default=str)

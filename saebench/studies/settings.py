"""From the task file to the study: its class and its checked settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saebench.record import Record
from saebench.registry import STUDIES
from saebench.studies.base import AnyStudy, Lack, ModelStudy, StudySettings
from saebench.tasklist import StreamTask, StudyTask, TaskCorpus, TaskSpec, validate


def study_of(task: StudyTask) -> tuple[type[AnyStudy[Any]], StudySettings]:
    """Return the study that ``task`` names and its settings, defaults filled in.

    Raises:
        InputError: There is no such study (with the nearest names), or a setting is unknown or wrong.
    """
    study: type[AnyStudy[Any]] = STUDIES.get(task.study)
    return study, validate(study.Settings, task.settings, f"task {task.name!r}, settings")


def settings_record(task: StudyTask) -> dict[str, Any]:
    """Return what of a study moves a number, as the record keeps it; raises ``InputError`` as :func:`study_of`."""
    study, settings = study_of(task)
    return {"study": f"{task.study}@{study.version}", "settings": settings.model_dump(mode="json")}


def lacks(task: TaskSpec, record: Record, path: Path, *, data_dir: Path | None, known: dict[Any, Any]) -> Lack:
    """Return what a record of ``task`` lacks, and whether that can be had now: see :meth:`AnyStudy.lacks`."""
    if not isinstance(task, StudyTask):
        return Lack()
    study, settings = study_of(task)
    return study.lacks(record, path, settings, data_dir=data_dir, known=known)


def model_study_of(task: TaskSpec) -> type[ModelStudy[Any]] | None:
    """Return the study of a task that takes all SAEs of a model at once, ``None`` for any other task."""
    study = study_of(task)[0] if isinstance(task, StudyTask) else None
    return study if study is not None and issubclass(study, ModelStudy) else None


def with_all_latents(task: TaskSpec) -> StudyTask | None:
    """Return a task that takes a sample of the latents with all of them in its place; ``None`` for any other task."""
    if not isinstance(task, StudyTask):
        return None
    changes = study_of(task)[0].Settings.without_sample
    return task.model_copy(update={"settings": task.settings | dict(changes)}) if changes else None


def corpus_of(task: TaskSpec) -> TaskCorpus | None:
    """Return the corpus that a task names, a study's among its settings; ``None`` for a study that brings its own texts."""
    if isinstance(task, StreamTask):
        return task.corpus
    corpus = getattr(study_of(task)[1], "corpus", None)
    return corpus if isinstance(corpus, TaskCorpus) else None

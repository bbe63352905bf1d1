"""From the task file to the study: its class and its checked settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saebench.record import Record
from saebench.registry import STUDIES
from saebench.studies.base import Lack, Study, StudySettings
from saebench.tasklist import StudyTask, TaskSpec, validate


def study_of(task: StudyTask) -> tuple[type[Study[Any]], StudySettings]:
    """Return the study that ``task`` names and its settings, defaults filled in.

    Raises:
        InputError: There is no such study (with the nearest names), or a setting is unknown or wrong.
    """
    study: type[Study[Any]] = STUDIES.get(task.study)
    return study, validate(study.Settings, task.settings, f"task {task.name!r}, settings")


def settings_record(task: StudyTask) -> dict[str, Any]:
    """Return what of a study moves a number, as the record keeps it; raises ``InputError`` as :func:`study_of`."""
    study, settings = study_of(task)
    return {"study": f"{task.study}@{study.version}", "settings": settings.model_dump(mode="json")}


def lacks(task: TaskSpec, record: Record, path: Path, *, data_dir: Path | None, known: dict[Any, Any]) -> Lack:
    """Return what a record of ``task`` lacks, and whether that can be had now: see :meth:`Study.lacks`."""
    if not isinstance(task, StudyTask):
        return Lack()
    study, settings = study_of(task)
    return study.lacks(record, path, settings, data_dir=data_dir, known=known)

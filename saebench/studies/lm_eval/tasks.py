"""From a name or a YAML file to lm-eval's task objects, checked before anything is computed."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saebench.errors import InputError, did_you_mean, first_line

_SEED, _PYTHON_SEED = 1234, 0
"""lm-eval's own default seeds: for few-shot examples and NumPy, and for Python's ``random``."""
_KINDS = ("loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until")


def load_tasks(name: str, *, include_path: str | None, num_fewshot: int | None, allow_code: bool) -> dict[str, Any]:
    """Return lm-eval's tasks by name: one, or those of a group or a tag.

    lm-eval's own 14,000 tasks are only looked through if ``name`` is one of them, which takes seconds.

    Args:
        name: A task, group or tag, or the path of a YAML file that defines one.
        include_path: Folder with tasks of one's own.
        num_fewshot: Examples in front of each question, in place of the task's own number.
        allow_code: Whether tasks may run code that the model has written.

    Raises:
        InputError: There is no such task (with the nearest names), its file is wrong or its data cannot be had; it runs code and
            may not; or it asks for something that is no text.
    """
    with quiet(), seeded():
        manager, spec = _manager(name, include_path)
        _refuse_code(manager, name, allow_code)
        try:
            tasks = manager.load([spec])["tasks"]
        except Exception as error:  # the library, the data sets and the files of tasks raise all there is
            raise InputError(
                f"lm-eval cannot load the task {name} ({type(error).__name__}: {first_line(error)}); without network its data "
                "must be in the cache of the datasets library, or in files that the task names (dataset_path: json)"
            ) from None
    if not tasks:
        raise InputError(f"lm-eval has no task in {name}; name a task, a group or a tag")
    for key, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not allow_code:
            raise _code(key)
        if task.OUTPUT_TYPE not in _KINDS or getattr(task, "MULTIMODAL", False):
            raise InputError(f"the lm-eval task {key} asks for {task.OUTPUT_TYPE}, which a text model cannot answer")
        own = task.get_config("num_fewshot")
        if own is None or (num_fewshot is not None and own != 0):
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=_SEED)
    return dict(tasks)


def is_path(name: str) -> bool:
    """Return whether a task is named by its file."""
    return name.endswith((".yaml", ".yml"))


def _manager(name: str, include_path: str | None) -> tuple[Any, str]:
    """Return a manager that knows the task, and what to ask it for."""
    if include_path is not None and not Path(include_path).expanduser().is_dir():
        raise InputError(f"include_path: no such folder: {include_path}")
    own = str(Path(include_path).expanduser()) if include_path else None
    if is_path(name):
        file = Path(name).expanduser()
        if not file.is_file():
            raise InputError(f"no such lm-eval task file: {file}")
        return _index(own, False), str(file)
    if own is not None and name in _index(own, False).all_tasks:
        return _index(own, False), name
    manager = _index(own, True)
    if name not in manager.all_tasks:
        raise InputError(f"unknown lm-eval task {name!r}.{did_you_mean(name, manager.all_tasks)} `lm-eval ls tasks` lists them.")
    return manager, name


@functools.lru_cache(maxsize=4)
def _index(include_path: str | None, stock: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=stock)


def _refuse_code(manager: Any, name: str, allow_code: bool) -> None:
    """Raise ``InputError`` for a task whose file says that it runs code: loading it may do so already."""
    entry = manager.task_index.get(name)
    if entry is not None and (entry.cfg or {}).get("unsafe_code") and not allow_code:
        raise _code(name)


def _code(name: str) -> InputError:
    return InputError(
        f"the lm-eval task {name} runs code that the model has written; if that is safe here, make a task file with "
        "`study: lm_eval` and `allow_code: true` under its settings"
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's bars and remarks off the terminal, where our own bar is."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators as lm-eval's evaluation does, for tasks that shuffle answers or draw rows, and put them back."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(_PYTHON_SEED)
    np.random.seed(_SEED)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)

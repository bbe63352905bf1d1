"""The plan: which SAE × task × seed is to be done, grouped so that SAEs of one model and site share a pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saebench.config import RunConfig
from saebench.errors import InputError, RecordError
from saebench.resume import corpus_identity, same_name, same_settings, table_missing
from saebench.sae import SAE, SAEConfig, Site, load_sae
from saebench.sae.find import find_names
from saebench.sae.hub.remote import is_remote
from saebench.sae.source import Given
from saebench.store import read_record, record_path
from saebench.studies.settings import lacks, settings_record
from saebench.tasklist import StreamTask, StudyTask, TaskSpec, load_suite, load_task


@dataclass(frozen=True, kw_only=True)
class PlannedSAE:
    """An SAE that was loaded once to be checked and hashed, and is loaded again when its turn comes: ten need not fit at once."""

    config: SAEConfig
    sha256: str
    dtype: str
    load: Callable[[], SAE]

    @property
    def n_bytes(self) -> int:
        """Size of encoder and decoder in float32."""
        return 4 * self.config.d_sae * (self.config.d_in + self.config.d_out)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One SAE × task × seed."""

    sae: PlannedSAE
    task: TaskSpec
    seed: int
    path: Path
    done: bool
    note: str | None = None
    missing: tuple[str, ...] = ()
    """What a finished record lacks and cannot be had now either."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Everything that shares one model and one site."""

    model: str
    site: str
    site_out: str
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All groups, in the order in which they run."""

    groups: list[Group]

    @property
    def items(self) -> list[Item]:
        """Every item of every group."""
        return [item for group in self.groups for item in group.items]

    def rows(self) -> list[dict[str, str]]:
        """Return the plan as plain rows, for ``--dry-run``."""
        return [
            {
                "sae": item.sae.config.name,
                "model": group.model,
                "site": group.site,
                "task": f"{item.task.name}@{item.task.version}",
                "seed": str(item.seed),
                "state": "finished" if item.done else "to do",
                "record": str(item.path),
            }
            for group in self.groups
            for item in group.items
        ]


def tasks_of(config: RunConfig) -> tuple[list[TaskSpec], int | None]:
    """Return the tasks asked for and the limit on contexts that the suite brings."""
    if not config.tasks:
        suite = load_suite(config.suite or "full")
        return [load_task(name) for name in suite.tasks], suite.limit
    tasks = [load_task(name) for name in dict.fromkeys(config.tasks)]
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two files define the task {twice!r}; rename one of them, or give one")
    return tasks, load_suite(config.suite).limit if config.suite else None


def settings_of(config: RunConfig, task: TaskSpec, sae: SAEConfig, limit: int | None) -> dict[str, Any]:
    """Return the options that move a number; a finished record counts only if its own are the same."""
    model = config.model or sae.model_id
    return {
        "model": model and same_name(model),
        "limit": config.limit or limit,
        "splice_bos": config.splice_bos,
        "residual": sae.residual,
        "trained_context": sae.context_length,
        "dtype": config.dtype or "float32",
        **(settings_record(task) if isinstance(task, StudyTask) else _text_settings(config, task)),
    }


def _text_settings(config: RunConfig, task: StreamTask) -> dict[str, Any]:
    source = config.corpus or task.corpus.source
    name, digest = corpus_identity(source, task, own=config.corpus is None, data_dir=config.data_dir)
    return {
        "corpus": name,
        "corpus_file_sha256": digest,
        "context_length": config.context_length,
        "metrics": list(task.metrics),
    }


def make_plan(config: RunConfig) -> Plan:
    """Load the SAEs, find what is finished already, and group the rest.

    Raises:
        InputError: Bad SAE, unknown task, no model or site, or a finished record made with other settings.
    """
    if not config.saes:
        raise InputError("no SAE given; use --sae PATH (repeat it for several)")
    tasks, limit = tasks_of(config)
    groups: dict[tuple[str, str, str], Group] = {}
    seen: dict[Path, str] = {}
    known: dict[Any, Any] = {}
    for path in _paths(config):
        sae = _planned(path, config)
        c = sae.config
        model = config.model or c.model_id
        if not model:
            raise InputError(f"{path} does not say which model it was trained on; give --model")
        if not c.site:
            raise InputError(f"{path} does not say at which site it was trained; give --site, e.g. blocks.3.hook_resid_pre")
        for site in (c.site, c.site_out or c.site):
            Site.parse(site)
        key = (same_name(model), c.site, c.site_out or c.site)
        group = groups.setdefault(key, Group(model=key[0], site=key[1], site_out=key[2]))
        for task in tasks:
            for seed in config.seeds:
                item = _item(config, group, sae, task, seed, settings_of(config, task, c, limit), known)
                if item.path in seen:
                    raise InputError(f"{path} and {seen[item.path]} are the same SAE; give it once")
                seen[item.path] = path
                group.items.append(item)
    return Plan(groups=list(groups.values()))


def _paths(config: RunConfig) -> list[str]:
    """Return what is meant by ``saes``: with ``select`` each may be a folder of many."""
    if config.select is None:
        return list(config.saes)
    given = Given(config.given)
    return [name for path in config.saes for name in find_names(path, config.select, config.format, given)]


def _planned(path: str, config: RunConfig) -> PlannedSAE:
    load = functools.partial(
        load_sae,
        path,
        format=config.format,
        site=config.site,
        model_id=config.model,
        residual=config.residual,
        context_length=config.trained_context,
        given=config.given,
    )
    sae = load()
    if is_remote(path):  # the same commit again, whatever the branch is by then
        load = functools.partial(load.func, sae.config.path, **load.keywords)
    return PlannedSAE(config=sae.config, sha256=sae.sha256, dtype=str(sae.dtype).removeprefix("torch."), load=load)


def _item(
    config: RunConfig, group: Group, sae: PlannedSAE, task: TaskSpec, seed: int, settings: dict[str, Any], known: dict[Any, Any]
) -> Item:
    path = record_path(
        config.out,
        model=Path(group.model).name if Path(group.model).exists() else group.model,
        site=group.site,
        sae=sae.config.name,
        sha256=sae.sha256,
        task=task.name,
        version=task.version,
        seed=seed,
    )
    done, note, missing = False, None, ()
    if path.exists() and not config.force:
        try:
            record = read_record(path)
        except RecordError as error:
            note = f"{error}; it is run again"
        else:
            same_settings(path, record, settings)
            note = table_missing(path, record)
            done = note is None
            if done:
                lack = lacks(task, record, path, data_dir=config.data_dir, known=known)
                missing = lack.missing
                if lack.now is not None:
                    done, note = False, f"{path} is without {lack.now}, which can be had now; it is run again"
    return Item(sae=sae, task=task, seed=seed, path=path, done=done, note=note, missing=missing)


def that_fit(items: Sequence[Item], budget: int) -> list[list[Item]]:
    """Return ``items`` in runs whose SAEs together need at most ``budget`` bytes (one SAE at least). Moves no score."""
    runs: list[list[Item]] = []
    used = 0
    for item in items:
        if not runs or used + item.sae.n_bytes > budget:
            runs.append([])
            used = 0
        runs[-1].append(item)
        used += item.sae.n_bytes
    return runs


def pending(items: Sequence[Item]) -> dict[tuple[str, int], list[Item]]:
    """Return the unfinished items of a group by (task, seed): each such list is one pass."""
    passes: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        if not item.done:
            passes.setdefault((item.task.name, item.seed), []).append(item)
    return passes

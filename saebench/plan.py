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
from saebench.store import read_record, record_path, sae_label
from saebench.studies.settings import corpus_of, lacks, model_study_of, settings_record, with_all_latents
from saebench.tasklist import StreamTask, StudyTask, TaskCorpus, TaskSpec, load_suite, load_task


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
    settings: dict[str, Any]
    """What its record says under ``settings``, as :func:`settings_of` gives it."""
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
    saes: list[PlannedSAE] = field(default_factory=list)
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
    """Return the tasks asked for, as the options change them, and the limit on contexts that the suite brings."""
    tasks, limit = _named_tasks(config)
    if not config.all_latents:
        return tasks, limit
    whole = [with_all_latents(task) for task in tasks]
    if not any(whole):
        names = ", ".join(task.name for task in tasks)
        raise InputError(f"--all does not apply to {names}: no sample of latents is taken there; leave it out")
    return [new or task for new, task in zip(whole, tasks, strict=True)], limit


def _named_tasks(config: RunConfig) -> tuple[list[TaskSpec], int | None]:
    if not config.tasks:
        suite = load_suite(config.suite or "full")
        return [load_task(name) for name in suite.tasks], suite.limit
    tasks = [load_task(name) for name in dict.fromkeys(config.tasks)]
    names = [task.name for task in tasks]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two files define the task {twice!r}; rename one of them, or give one")
    return tasks, load_suite(config.suite).limit if config.suite else None


def settings_of(config: RunConfig, task: TaskSpec, sae: SAEConfig, limit: int | None, together: Sequence[str]) -> dict[str, Any]:
    """Return the options that move a number; a finished record counts only if its own are the same.

    Args:
        config: The run's.
        task: What is measured.
        sae: Of which SAE.
        limit: The suite's.
        together: All SAEs of the model, by :func:`saebench.store.sae_label`.
    """
    model, corpus = config.model or sae.model_id, corpus_of(task)
    return {
        "model": model and same_name(model),
        "limit": config.limit or limit,
        "splice_bos": config.splice_bos,
        "residual": sae.residual,
        "trained_context": sae.context_length,
        "dtype": config.dtype or "float32",
        **(settings_record(task) if isinstance(task, StudyTask) else {}),
        **(_text_settings(config, corpus) if corpus is not None else {}),
        **({"metrics": list(task.metrics)} if isinstance(task, StreamTask) else {}),
        **({"saes_together": sorted(together)} if model_study_of(task) is not None else {}),
    }


def _text_settings(config: RunConfig, corpus: TaskCorpus) -> dict[str, Any]:
    source = config.corpus or corpus.source
    name, digest = corpus_identity(source, corpus, own=config.corpus is None, data_dir=config.data_dir)
    return {"corpus": name, "corpus_file_sha256": digest, "context_length": config.context_length}


def make_plan(config: RunConfig) -> Plan:
    """Load the SAEs, find what is finished already, and group the rest.

    Raises:
        InputError: Bad SAE, unknown task, no model or site, too few SAEs for a study that compares those of a model, or a
            finished record made with other settings.
    """
    if not config.saes:
        raise InputError("no SAE given; use --sae PATH (repeat it for several)")
    tasks, limit = tasks_of(config)
    groups: dict[tuple[str, str, str], Group] = {}
    found: list[tuple[str, Group, PlannedSAE]] = []
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
        group.saes.append(sae)
        found.append((path, group, sae))
    plan = Plan(groups=list(groups.values()))
    _check_together(plan, tasks)
    seen: dict[Path, str] = {}
    known: dict[Any, Any] = {}
    for path, group, sae in found:
        together = [sae_label(g.site, s.config.name, s.sha256) for g in plan.groups if g.model == group.model for s in g.saes]
        for task in tasks:
            for seed in config.seeds:
                item = _item(config, group, sae, task, seed, settings_of(config, task, sae.config, limit, together), known)
                if item.path in seen:
                    raise InputError(f"{path} and {seen[item.path]} are the same SAE; give it once")
                seen[item.path] = path
                group.items.append(item)
    return plan


def _check_together(plan: Plan, tasks: Sequence[TaskSpec]) -> None:
    """Raise ``InputError`` if a study that takes all SAEs of a model together has too few of one model."""
    for task in tasks:
        study = model_study_of(task)
        for model in dict.fromkeys(group.model for group in plan.groups):
            names = [sae.config.name for group in plan.groups if group.model == model for sae in group.saes]
            if study is not None and len(names) < study.n_saes_min:
                raise InputError(
                    f"{task.name} compares SAEs of one model and needs {study.n_saes_min} or more, best of several layers, but "
                    f"of {model} there is only {', '.join(names)}; give more with --sae, or leave the task out"
                )


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
    return Item(sae=sae, task=task, seed=seed, path=path, settings=settings, done=done, note=note, missing=missing)


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
    """Return the unfinished items of a group by (task, seed): each such list is one pass.

    Those of a study that takes all SAEs of a model are left out: see :func:`pending_together`.
    """
    passes: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        if not item.done and model_study_of(item.task) is None:
            passes.setdefault((item.task.name, item.seed), []).append(item)
    return passes


def pending_together(groups: Sequence[Group]) -> list[list[tuple[Group, Item]]]:
    """Return, for each (task, seed) of which a record of a study on all SAEs of the model is missing, the items of all SAEs.

    Args:
        groups: All groups of one model.
    """
    passes: dict[tuple[str, int], list[tuple[Group, Item]]] = {}
    for group in groups:
        for item in group.items:
            if model_study_of(item.task) is not None:
                passes.setdefault((item.task.name, item.seed), []).append((group, item))
    return [members for members in passes.values() if not all(item.done for _, item in members)]

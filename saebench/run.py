"""The runner: carries out a plan, writes records, and is the one place where errors are caught."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from saebench.config import RunConfig
from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.errors import InputError, SaebenchError, first_line
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.metrics.base import Metric
from saebench.plan import Group, Item, Plan, make_plan, pending, pending_together, tasks_of, that_fit
from saebench.progress import Progress, SilentProgress
from saebench.provenance import peak_memory_bytes
from saebench.registry import METRICS
from saebench.sae import SAE
from saebench.store import check_writable
from saebench.stream import Pass, check_widths
from saebench.studies.base import (
    AnyStudy,
    AtSite,
    ModelSetting,
    ModelStudy,
    Study,
    StudyResult,
    StudySetting,
    StudySettings,
    text_info,
)
from saebench.studies.settings import corpus_of, model_study_of, study_of
from saebench.tasklist import StreamTask, StudyTask, TaskSpec
from saebench.writing import Outcome, write_outcome


@dataclass(kw_only=True)
class RunReport:
    """What a run did."""

    plan: list[dict[str, str]] = field(default_factory=list)
    records: list[Path] = field(default_factory=list)
    """Every record asked for that now exists, new or found."""
    skipped: list[Path] = field(default_factory=list)
    """Those of them that were there already."""
    failures: list[str] = field(default_factory=list)
    """One line for each SAE × task × seed that has no record."""
    refused: dict[str, str] = field(default_factory=dict)
    """Those of them that an input error is behind, with what it says of the task."""

    @property
    def exit_code(self) -> int:
        """0 if every record exists, else 3."""
        return 3 if self.failures else 0


def run(config: RunConfig, progress: Progress | SilentProgress | None = None) -> RunReport:
    """Score every SAE × task × seed of ``config`` that has no finished record yet.

    Records are written whole, one at a time, as they are finished; what fails is named in the report and the rest goes on.

    Args:
        config: What to run.
        progress: Told what happens; silent if ``None``.

    Raises:
        InputError: Something in ``config`` or the files it names is wrong, found before anything was computed; or there is no
            record and input errors are behind everything that failed.
    """
    progress = progress or SilentProgress()
    _check(config)
    plan = make_plan(config)
    report = RunReport(plan=plan.rows())
    told: set[tuple[str, str]] = set()
    for item in plan.items:  # one for each task and seed
        if item.note:
            progress.note(item.note)
        for warning in item.sae.config.warnings:
            if (item.sae.sha256, warning) not in told:
                told.add((item.sae.sha256, warning))
                progress.note(f"{item.sae.config.name}: {warning}")
    if config.dry_run:
        return report
    check_writable(config.out)
    done = [item.path for item in plan.items if item.done]
    report.skipped += done
    report.records += done
    report.failures += dict.fromkeys(f"{i.task.name}: {what}" for i in plan.items if i.done for what in i.missing)
    for model_id in dict.fromkeys(group.model for group in plan.groups):
        groups = [g for g in plan.groups if g.model == model_id]
        if any(not item.done for group in groups for item in group.items):
            _run_model(config, model_id, groups, plan, report, progress)
    progress.done()
    if report.failures and not report.records and report.refused.keys() >= set(report.failures):
        raise InputError("; ".join(dict.fromkeys(report.refused.values())))
    return report


def _check(config: RunConfig) -> None:
    """Raise ``InputError`` for a metric, study or setting that does not exist, and for options that nothing would heed."""
    tasks = tasks_of(config)[0]
    for task in tasks:
        if isinstance(task, StudyTask):
            study_of(task)
        else:
            _check_metrics(task)
    if any(corpus_of(task) is not None for task in tasks):
        return
    for option in ("corpus", "context_length"):
        if getattr(config, option) is not None:
            names = ", ".join(task.name for task in tasks)
            raise InputError(
                f"--{option.replace('_', '-')} does not apply to {names}: studies bring their own texts; leave it out"
            )


def _check_metrics(task: StreamTask) -> None:
    """Raise ``InputError`` for a metric that does not exist, or for two that give scores of one name."""
    owner: dict[str, str] = {}
    for name in task.metrics:
        for spec in METRICS.get(name).specs:
            if owner.setdefault(spec.name, name) != name:
                raise InputError(
                    f"task {task.name!r}: {owner[spec.name]} and {name} both give {spec.name}; leave one of them out"
                )


class _Job(NamedTuple):
    """Items of one task and seed whose SAEs are loaded together: of one site, or for some studies all those of the model."""

    ports: list[Port]
    """Of each item; items of one site share theirs and stand side by side."""
    items: list[Item]
    corpus: Corpus | None
    """``None`` for a study that brings its own texts."""

    @property
    def task(self) -> TaskSpec:
        """The task of all its items."""
        return self.items[0].task

    @property
    def title(self) -> str:
        """What it is, for the progress bar."""
        sites = list(dict.fromkeys(port.read.name for port in self.ports))
        n = len(self.items)
        return f"{self.task.name} · {sites[0] if len(sites) == 1 else f'{len(sites)} sites'} · {n} SAE{'s' if n > 1 else ''}"


def _run_model(
    config: RunConfig, model_id: str, groups: list[Group], plan: Plan, report: RunReport, progress: Progress | SilentProgress
) -> None:
    """Run all groups of one model. Input errors before the first result are the caller's; later ones cost only their own work."""
    first = not report.records or model_id == plan.groups[0].model
    try:
        jobs = _jobs(config, load_model(model_id, device=config.device, dtype=config.dtype), groups, progress)
    except SaebenchError as error:
        if first:
            raise
        failed = [f"{i.sae.config.name}: {error}" for g in groups for i in g.items if not i.done]
        report.failures += failed
        if isinstance(error, InputError):
            report.refused |= dict.fromkeys(failed, str(error))
        return
    for job in jobs:
        try:
            _run_job(config, job, report, progress)
        except Exception as error:  # the one place that catches: what fails is named, the rest goes on
            if os.environ.get("SAEBENCH_DEBUG"):
                traceback.print_exc()
            failed = [_failure(item, error) for item in job.items if not item.done]
            report.failures += failed
            if isinstance(error, InputError):
                report.refused |= dict.fromkeys(failed, f"{job.task.name}: {error}")


def _jobs(config: RunConfig, model: LanguageModel, groups: Sequence[Group], progress: Progress | SilentProgress) -> list[_Job]:
    """Return what is to be done on one model, site by site, and at last what takes all sites together."""
    together = pending_together(groups)
    passes = [[(group, item) for item in items] for group in groups for items in pending(group.items).values()]
    ports: dict[int, Port] = {}
    for group, _ in (member for members in (*passes, *together) for member in members):
        if id(group) not in ports:
            port = ports[id(group)] = Port(model, group.site, group.site_out)
            check_widths(port, [sae.config for sae in group.saes])
    jobs: list[_Job] = []
    for members in (*passes, *together):
        items = [item for _, item in members]
        corpus = _corpus(config, items[0], model)
        if corpus is not None:
            for warning in (*corpus.warnings, *_too_few(config, corpus.name, len(corpus.tokens), "contexts")):
                progress.note(warning)
        at = [ports[id(group)] for group, _ in members]
        parts = [items] if model_study_of(items[0].task) else that_fit(items, _sae_budget(model.device))
        jobs += [_Job(at[: len(some)], some, corpus) for some in parts]
    return jobs


def _failure(item: Item, error: Exception) -> str:
    what = str(error) if isinstance(error, SaebenchError) else f"{type(error).__name__}: {first_line(error)}"
    return f"{item.sae.config.name} × {item.task.name} × seed {item.seed}: {what}"


def _run_job(config: RunConfig, job: _Job, report: RunReport, progress: Progress | SilentProgress) -> None:
    started = time.monotonic()
    model = job.ports[0].model
    fit = len(that_fit(job.items, _sae_budget(model.device))) == 1
    saes = [item.sae.load().to(device=model.device if fit else "cpu") for item in job.items]
    if isinstance(job.task, StudyTask):
        outcomes, missing = _study(config, job, saes, progress)
        report.failures += [f"{job.task.name}: {what}" for what in missing]
    else:
        outcomes = _stream(config, job, saes, progress)
    seconds = time.monotonic() - started
    timing = {
        "seconds_pass": round(seconds, 3),
        "saes_in_pass": float(len(saes)),
        "peak_memory_bytes": float(peak_memory_bytes(str(model.device))),
    }
    for port, item, outcome in zip(job.ports, job.items, outcomes, strict=True):
        if item.done:
            continue
        try:
            failed = write_outcome(config, model, port, item, outcome, timing)
            report.records.append(item.path)
        except Exception as error:  # what else this job has found must still be written
            if os.environ.get("SAEBENCH_DEBUG"):
                traceback.print_exc()
            report.failures.append(_failure(item, error))
            continue
        if failed:
            more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
            progress.note(f"{item.sae.config.name}: {', '.join(failed[:3])}{more} could not be computed; the record says why")


def _stream(config: RunConfig, job: _Job, saes: list[SAE], progress: Progress | SilentProgress) -> list[Outcome]:
    """Feed the metrics of a streaming task by one pass over the corpus."""
    task, corpus = job.task, job.corpus
    assert isinstance(task, StreamTask) and corpus is not None
    metrics: list[type[Metric]] = [METRICS.get(name) for name in task.metrics]
    progress.start(len(corpus.tokens), job.title)
    the_pass = Pass(job.ports[0], saes, metrics, corpus, splice_bos=config.splice_bos, batch_size=config.batch_size)
    return [
        Outcome(
            results=result.results,
            data=text_info(corpus, n_scored=result.n_acts),
        )
        for result in the_pass.run(progress.advance)
    ]


def _study(
    config: RunConfig, job: _Job, saes: list[SAE], progress: Progress | SilentProgress
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Run a study on all SAEs of the job; return what it found, and what of it could not be had."""
    task = job.task
    assert isinstance(task, StudyTask)
    kind, settings = study_of(task)
    about: dict[str, Any] = {
        "seed": job.items[0].seed,
        "limit": config.limit or tasks_of(config)[1],
        "batch_size": config.batch_size,
        "splice_bos": config.splice_bos,
        "data_dir": config.data_dir,
        "corpus": job.corpus,
        "advance": progress.advance,
    }
    with np.errstate(all="ignore"):  # what overflows becomes a score without a value, with its reason
        results = _results(kind, settings, about, job, saes, progress)
    few = _too_few(config, task.name, results[0].data.n_contexts, "examples") if job.corpus is None else ()
    for note in (*results[0].notes, *few):
        progress.note(note)
    outcomes = [Outcome(results=[result], data=result.data, tables=result.tables, texts=result.texts) for result in results]
    return outcomes, results[0].missing


def _results(
    kind: type[AnyStudy[Any]],
    settings: StudySettings,
    about: dict[str, Any],
    job: _Job,
    saes: list[SAE],
    progress: Progress | SilentProgress,
) -> list[StudyResult]:
    if issubclass(kind, ModelStudy):
        whole = kind(ModelSetting(model=job.ports[0].model, **about), settings)
        progress.start(whole.total(), job.title)
        there: dict[Port, list[SAE]] = {}
        for port, sae in zip(job.ports, saes, strict=True):
            there.setdefault(port, []).append(sae)
        return whole.run([AtSite(port=port, saes=tuple(some)) for port, some in there.items()])
    assert issubclass(kind, Study)
    study = kind(StudySetting(port=job.ports[0], **about), settings)
    progress.start(study.total(), job.title)
    return study.run(saes)


def _sae_budget(device: torch.device) -> int:
    """Return how many bytes of SAEs one pass may hold: half of what a GPU has free, 4 GiB on the CPU."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 4 << 30


def _corpus(config: RunConfig, item: Item, model: LanguageModel) -> Corpus | None:
    if corpus_of(item.task) is None:
        return None
    _, limit = tasks_of(config)
    return build_corpus(
        corpus_spec(config, item.task),
        model.tokenizer,
        seed=item.seed,
        max_context=model.n_ctx,
        limit=None if config.limit else limit,
        data_dir=config.data_dir,
        vocab_size=model.d_vocab,
    )


def _too_few(config: RunConfig, name: str, n: int, what: str) -> list[str]:
    if config.limit is None or n >= config.limit:
        return []
    return [f"{name} gives only {n} {what} of the {config.limit} that --limit asks for"]


def corpus_spec(config: RunConfig, task: TaskSpec) -> CorpusSpec:
    """Return the task's corpus, or the one that ``--corpus`` puts in its place; ``--limit`` is the number of its contexts."""
    own = corpus_of(task)
    if own is None:
        raise InputError(f"{task.name} brings its own texts")
    length = config.context_length or own.context_length
    if config.corpus is None:
        changes = {"context_length": length, "n_contexts": config.limit or own.n_contexts}
        return CorpusSpec(**dict(own.model_copy(update=changes)))
    return CorpusSpec(
        source=config.corpus,
        context_length=length,
        n_contexts=config.limit or (None if _is_tokens(config.corpus) else own.n_contexts),
        separator=own.separator,
    )


def _is_tokens(source: str) -> bool:
    """Whether a path given with ``--corpus`` holds token ids: all of them are used, unless ``--limit`` says fewer."""
    return source.endswith((".npy", ".parquet")) or Path(source).expanduser().is_dir()

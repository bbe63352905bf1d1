"""The runner: carries out a plan, writes records, and is the one place where errors are caught."""

from __future__ import annotations

import hashlib
import io
import os
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from saebench.config import RunConfig
from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.errors import InputError, SaebenchError, first_line
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.metrics.base import Metric, MetricResult, finite_or_none
from saebench.plan import Group, Item, Plan, PlannedSAE, make_plan, pending, settings_of, tasks_of, that_fit
from saebench.progress import Progress, SilentProgress
from saebench.provenance import machine, peak_memory_bytes, source_commit, versions
from saebench.record import DataInfo, ModelInfo, Record, SaeInfo, Table, TaskInfo
from saebench.registry import METRICS
from saebench.store import check_writable, write_atomic, write_record
from saebench.stream import Pass, PassResult, centring, check_widths
from saebench.tasklist import TaskSpec


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
        InputError: Something in ``config`` or the files it names is wrong, found before anything was computed.
    """
    progress = progress or SilentProgress()
    for task in tasks_of(config)[0]:
        _check_metrics(task)
    plan = make_plan(config)
    report = RunReport(plan=plan.rows())
    for item in plan.items:
        if item.note:
            progress.note(item.note)
        for warning in item.sae.config.warnings:
            progress.note(f"{item.sae.config.name}: {warning}")
    if config.dry_run:
        return report
    check_writable(config.out)
    done = [item.path for item in plan.items if item.done]
    report.skipped += done
    report.records += done
    for model_id in dict.fromkeys(group.model for group in plan.groups):
        groups = [g for g in plan.groups if g.model == model_id and pending(g.items)]
        if groups:
            _run_model(config, model_id, groups, plan, report, progress)
    progress.done()
    return report


def _check_metrics(task: TaskSpec) -> None:
    """Raise ``InputError`` for a metric that does not exist, or for two that give scores of one name."""
    owner: dict[str, str] = {}
    for name in task.metrics:
        for spec in METRICS.get(name).specs:
            if owner.setdefault(spec.name, name) != name:
                raise InputError(
                    f"task {task.name!r}: {owner[spec.name]} and {name} both give {spec.name}; leave one of them out"
                )


def _run_model(
    config: RunConfig, model_id: str, groups: list[Group], plan: Plan, report: RunReport, progress: Progress | SilentProgress
) -> None:
    """Run all groups of one model. Input errors before the first result are the caller's; later ones cost only their own work."""
    first = not report.records or model_id == plan.groups[0].model
    try:
        model = load_model(model_id, device=config.device, dtype=config.dtype)
        jobs = []
        for group in groups:
            port = Port(model, group.site, group.site_out)
            check_widths(port, [item.sae.config for item in group.items])
            for items in pending(group.items).values():
                corpus = _corpus(config, items[0], model)
                for warning in (*corpus.warnings, *_too_few(config, corpus)):
                    progress.note(warning)
                jobs += [(port, some, corpus) for some in that_fit(items, _sae_budget(model.device))]
    except SaebenchError as error:
        if first:
            raise
        report.failures += [f"{i.sae.config.name}: {error}" for g in groups for i in g.items if not i.done]
        return
    for port, items, corpus in jobs:
        try:
            _run_job(config, model, port, items, corpus, report, progress)
        except Exception as error:  # the one place that catches: what fails is named, the rest goes on
            if os.environ.get("SAEBENCH_DEBUG"):
                traceback.print_exc()
            report.failures += [_failure(item, error) for item in items]


def _failure(item: Item, error: Exception) -> str:
    what = str(error) if isinstance(error, SaebenchError) else f"{type(error).__name__}: {first_line(error)}"
    return f"{item.sae.config.name} × {item.task.name} × seed {item.seed}: {what}"


def _run_job(
    config: RunConfig,
    model: LanguageModel,
    port: Port,
    items: list[Item],
    corpus: Corpus,
    report: RunReport,
    progress: Progress | SilentProgress,
) -> None:
    started = time.monotonic()
    task = items[0].task
    metrics: list[type[Metric]] = [METRICS.get(name) for name in task.metrics]
    saes = [item.sae.load().to(device=model.device) for item in items]
    progress.start(len(corpus.tokens), f"{task.name} · {port.read.name} · {len(items)} SAE{'s' if len(items) > 1 else ''}")
    the_pass = Pass(port, saes, metrics, corpus, splice_bos=config.splice_bos, batch_size=config.batch_size)
    results = the_pass.run(progress.advance)
    seconds = time.monotonic() - started
    timing = {
        "seconds_pass": round(seconds, 3),
        "saes_in_pass": float(len(items)),
        "peak_memory_bytes": float(peak_memory_bytes(str(model.device))),
    }
    for item, result in zip(items, results, strict=True):
        try:
            failed = _write(config, model, port, item, corpus, result, timing)
            report.records.append(item.path)
        except Exception as error:  # what else this pass has found must still be written
            if os.environ.get("SAEBENCH_DEBUG"):
                traceback.print_exc()
            report.failures.append(_failure(item, error))
            continue
        if failed:
            more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
            progress.note(f"{item.sae.config.name}: {', '.join(failed[:3])}{more} could not be computed; the record says why")


def _sae_budget(device: torch.device) -> int:
    """Return how many bytes of SAEs one pass may hold: half of what a GPU has free, 4 GiB on the CPU."""
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 4 << 30


def _write(
    config: RunConfig,
    model: LanguageModel,
    port: Port,
    item: Item,
    corpus: Corpus,
    result: PassResult,
    timing: dict[str, float],
) -> list[str]:
    """Write one record and return the names of the scores that failed."""
    _, limit = tasks_of(config)
    record = Record(
        sae=sae_info(item.sae, port),
        model=model_info(model),
        task=TaskInfo(name=item.task.name, version=item.task.version),
        seed=item.seed,
        scores=[score for r in result.results for score in r.scores],
        series=[series for r in result.results for series in r.series],
        raw={key: finite_or_none(value) for r in result.results for key, value in r.raw.items()},
        data=DataInfo(
            corpus=corpus.name,
            revision=corpus.revision,
            sha256=corpus.sha256,
            n_contexts=len(corpus.tokens),
            context_length=corpus.context_length,
            n_tokens_scored=result.n_acts,
            rule=corpus.rule,
        ),
        settings=settings_of(config, item.task, item.sae.config, limit)
        | {"bos": _bos_rule(config), "residual_used": "centred" if any(centring(port, item.sae.config)) else "raw"},
        environment={"versions": versions(), **source_commit(), **machine(str(model.device)), "dtype": str(model.dtype)},
        timing=dict(timing),
        tables=_write_tables(item, result.results),
    )
    write_record(item.path, record)
    return [score.name for score in record.scores if score.status == "failed"]


def _bos_rule(config: RunConfig) -> str:
    return "replaced by splice and ablations" if config.splice_bos else "left clean by splice and ablations"


def _write_tables(item: Item, results: list[MetricResult]) -> dict[str, Table]:
    columns: dict[str, Any] = {name: values for r in results for name, values in r.per_latent.items()}
    if not columns:
        return {}
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = len(next(iter(columns.values())))
    table = pa.table({"latent": range(rows)} | {name: pa.array(values) for name, values in columns.items()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    path = item.path.with_name(f"seed{item.seed}.latents.parquet")
    write_atomic(path, buffer.getvalue())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    return {"latents": Table(file=path.name, sha256=digest, rows=rows, columns=table.column_names)}


def sae_info(sae: PlannedSAE, port: Port) -> SaeInfo:
    """Return the record's account of the SAE."""
    c = sae.config
    return SaeInfo(
        name=c.name,
        path=str(c.path),
        sha256=sae.sha256,
        format=c.format,
        architecture=c.architecture,
        d_in=c.d_in,
        d_out=c.d_out,
        d_sae=c.d_sae,
        k=c.k,
        site=port.read.name,
        site_out=port.write.name,
        normalisation=c.normalisation,
        residual=c.residual,
        context_length=c.context_length,
        dtype=sae.dtype,
        warnings=[*c.assumptions, *c.warnings],
    )


def model_info(model: LanguageModel) -> ModelInfo:
    """Return the record's account of the language model."""
    return ModelInfo(
        id=model.id,
        name=model.name,
        revision=model.revision,
        sha256=model.sha256,
        family=model.family,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def _corpus(config: RunConfig, item: Item, model: LanguageModel) -> Corpus:
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


def _too_few(config: RunConfig, corpus: Corpus) -> list[str]:
    if config.limit is None or len(corpus.tokens) >= config.limit:
        return []
    return [f"{corpus.name} gives only {len(corpus.tokens)} contexts of the {config.limit} that --limit asks for"]


def corpus_spec(config: RunConfig, task: TaskSpec) -> CorpusSpec:
    """Return the task's corpus, or the one that ``--corpus`` puts in its place; ``--limit`` is the number of its contexts."""
    own = task.corpus
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

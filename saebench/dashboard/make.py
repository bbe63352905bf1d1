"""From an SAE to its page: which latents, one pass over the text, what the records say, patterns, the file."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from saebench.api import Session, session_of
from saebench.config import RunConfig
from saebench.dashboard.choose import BY_DENSITY, BY_SCORES, HOW, Choice, by_density, by_scores, check_latents
from saebench.dashboard.collect import Collector, Seen, densities
from saebench.dashboard.logits import pushes
from saebench.dashboard.page import Found, render
from saebench.dashboard.records import Known, known_of
from saebench.dashboard.sections import Commands, sections_of
from saebench.errors import InputError, RecordError
from saebench.progress import SilentProgress
from saebench.reference import MODEL
from saebench.sae import SAE, load_sae
from saebench.store import check_writable, sae_label, slug, write_atomic
from saebench.studies.base import StudySetting
from saebench.studies.n2g import N2G, N2GSettings
from saebench.studies.n2g.reading import Fired, read
from saebench.studies.settings import corpus_of
from saebench.tasklist import load_task

_TASKS = {"n2g": "n2g", "ablation": "ablation", "probes": "probes61", "cloze": "lambada_openai"}
_BUNDLED = {name: f"storyworld_{name}" for name in ("n2g", "ablation", "probes")} | {"cloze": "storyworld_lambada"}
_LISTED = 10
_MANY = 200


class Made(NamedTuple):
    """A dashboard that was written."""

    file: Path
    latents: list[int]
    notes: list[str]
    """What the user should know; the page says it too."""
    damaged: list[RecordError]
    """Records and tables that could not be used."""


def make_dashboard(
    config: RunConfig,
    *,
    latents: Sequence[int] = (),
    choices: Sequence[Choice] = (),
    records: Sequence[Path] = (),
    examples: int = 8,
    progress: SilentProgress | None = None,
) -> Made:
    """Write ``<out>/<model>/<site>/<sae>-<sha8>.html`` and return what was written.

    The text is that of ``n2g`` (of ``storyworld_n2g``, for the bundled model) or of the one task that the config names, with its
    corpus, limit and context length in place of the task's own. It is read once for the latents, up to the site; once before if
    latents are chosen by density; and once more, in halves, for patterns that the records do not have.

    Args:
        config: One SAE, at most one task; the first seed chooses text, random latents and random activations.
        latents: Indices, to be shown first.
        choices: Ways to choose more.
        records: Folders that ``saebench run`` wrote to.
        examples: Contexts with the largest activations, and random activations, of each latent.
        progress: Whom to tell.

    Raises:
        InputError: Not one SAE; a latent that it does not have; nothing to choose from; and as :func:`saebench.api.load_session`.
        RecordError: A table cannot be read.
    """
    if len(config.saes) != 1:
        raise InputError("a dashboard is of one SAE; give --sae PATH once")
    if len(config.tasks) > 1:
        raise InputError("a dashboard reads the text of one task; give --task once")
    progress = progress or SilentProgress()
    sae = load_sae(
        config.saes[0], format=config.format, site=config.site, model_id=config.model, residual=config.residual,
        context_length=config.trained_context, given=config.given,
    )  # fmt: skip
    check_latents(latents, sae.config)
    check_writable(config.out)
    tasks = _BUNDLED if (config.model or sae.config.model_id) == MODEL else _TASKS
    known = known_of(sae, records)
    _check_scores(choices, known, sae, _command(config, tasks["cloze"], records))
    session = session_of(sae, config, task=next(iter(config.tasks), tasks["n2g"]))
    known = known.of_model(session.model)
    _check_scores(choices, known, sae, _command(config, tasks["cloze"], records))
    notes = list(session.corpus.warnings)
    shown = _choose(config, session, latents, choices, known, notes, progress)
    if len(shown) > _MANY:
        notes.append(f"{len(shown)} latents on one page: it will be large and slow to open; ask for fewer")
    seen = _collect(config, session, shown, examples, notes, progress)
    there = {row.values["latent"] for row in known.rows("n2g", shown)}
    computed, without = _patterns(config, session, [one for one in seen if one.latent not in there], tasks["n2g"], progress)
    commands = Commands(**{study: _command(config, tasks[study], records) for study in ("ablation", "probes", "cloze")})
    page = render(
        Found(
            session=session, seed=config.seeds[0], seen=seen, pushes=pushes(session.port, session.sae, shown, _LISTED),
            sections=sections_of(shown, known, computed, without, commands), notes=notes,
        )
    )  # fmt: skip
    label = sae_label(session.port.read.name, sae.config.name, sae.sha256)
    file = config.out / slug(session.model.name) / f"{label}.html"
    write_atomic(file, page.encode("utf-8", "backslashreplace"))
    return Made(file, shown, notes, known.damaged)


def _check_scores(choices: Sequence[Choice], known: Known, sae: SAE, command: str) -> None:
    """Raise ``InputError`` if latents are to be chosen by scores that no record holds."""
    asked = next((choice.how for choice in choices if choice.how in BY_SCORES), None)
    if asked is not None and not known.of_study("cloze"):
        raise InputError(
            f"--choose {asked} needs scores by latent, which no record of {sae.config.name} holds; make them with: {command}, "
            "then give its --out as --records"
        )


def _choose(
    config: RunConfig,
    session: Session,
    latents: Sequence[int],
    choices: Sequence[Choice],
    known: Known,
    notes: list[str],
    progress: SilentProgress,
) -> list[int]:
    """Return the latents to be shown, each once; with neither latents nor choices, some random ones."""
    choices = choices or ([] if latents else [Choice("random", 10)])
    found = list(latents)
    density = None
    for choice in sorted(set(choices), key=lambda choice: HOW.index(choice.how)):
        if choice.how in BY_DENSITY:
            if density is None:
                density = densities(_batches(config, session, progress, "density of all latents"), session.sae.config.d_sae)
            some = by_density(choice, density, config.seeds[0])
        else:
            some = by_scores(choice, known.rows("cloze"))
        if len(some) < choice.n:
            what = "were tested and go that way" if choice.how in BY_SCORES else "fire on this text"
            notes.append(f"--choose {choice.how}:{choice.n}: only {len(some)} latents {what}")
        found += some
    if not found:
        raise InputError(
            f"no latent to show: {notes[-1]}; give more text or prompts with --limit, or name latents with --latents"
        )
    return list(dict.fromkeys(found))


def _batches(config: RunConfig, session: Session, progress: SilentProgress, what: str) -> Iterator[Iterator[Fired]]:
    """Yield where the latents fire, batch by batch of the text."""
    n = len(session.corpus.tokens)
    progress.start(n, what)
    for batch in read(session.port, [session.sae], session.corpus, range(n), batch_size=config.batch_size):
        yield batch.fired[0]
        progress.advance(batch.contexts.stop - batch.contexts.start)


def _collect(
    config: RunConfig, session: Session, latents: Sequence[int], examples: int, notes: list[str], progress: SilentProgress
) -> list[Seen]:
    collector = Collector(
        np.array(latents, dtype=np.int64), d_sae=session.sae.config.d_sae, length=session.corpus.context_length,
        n_top=examples, n_random=examples, seed=config.seeds[0],
    )  # fmt: skip
    for fired in _batches(config, session, progress, f"activations of {len(latents)} latents"):
        collector.add(fired)
    if collector.n_not_finite:
        notes.append(f"{collector.n_not_finite:,} activations are infinite or NaN and are left out")
    return collector.seen()


def _patterns(
    config: RunConfig, session: Session, seen: Sequence[Seen], task: str, progress: SilentProgress
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Return rows of the table ``n2g`` by latent, and why other latents have none."""
    without = {one.latent: "There are none: it fires nowhere on this text." for one in seen if not one.n_fires}
    latents = tuple(sorted(one.latent for one in seen if one.n_fires))
    if not latents:
        return {}, without
    corpus = corpus_of(load_task(task))
    assert corpus is not None  # the text of the session; this one is only named
    setting = StudySetting(
        port=session.port, seed=config.seeds[0], batch_size=config.batch_size, corpus=session.corpus, advance=progress.advance
    )
    study = N2G(setting, N2GSettings(corpus=corpus, latents=latents))
    progress.start(study.total(), f"patterns of {len(latents)} latents")
    try:
        with np.errstate(all="ignore"):
            table = study.run([session.sae])[0].tables["n2g"]
    except InputError as error:  # no usable pad token, or a single context
        return {}, without | {latent: f"Not made: {error}" for latent in latents}
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    return {row["latent"]: row for row in rows}, without


def _command(config: RunConfig, task: str, records: Sequence[Path]) -> str:
    """Return the command that makes records of a task for this SAE on this model."""
    words = ["saebench", "run", "--sae", config.saes[0]]
    for key in ("model", "site", "residual", "format", "trained_context", "data_dir"):
        value = getattr(config, key)
        if value is not None:
            words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in config.given.items():
        words += ["--set", f"{key}={value}"]
    return shlex.join([*words, "--task", task, "--out", str(records[0] if records else "results")])

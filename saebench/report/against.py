"""Our scores beside published ones, layer by layer, with the difference in standard errors.

    z = (ours − published) / √(s.e.² of ours + s.e.² of the published)

the two taken as independent; where only one has a standard error that one stands alone, and where none has there is no z.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from saebench.errors import InputError
from saebench.record import Record, Score
from saebench.report.published import About, PublishedScore, load_published
from saebench.report.select import natural
from saebench.report.terminal import Grid, plain


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One of our scores and the published one."""

    task: str
    score: str
    site: str
    sae: str
    seed: int
    ours: float | None
    ours_stderr: float | None
    published: float
    published_stderr: float | None
    difference: float | None
    """ours − published."""
    in_stderrs: float | None
    """The difference over the standard error of the difference; ``None`` where neither side has one."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that could be put side by side, and what must be said under it."""

    about: About
    pairs: list[Pair]
    notes: list[str]


def against(records: Sequence[Record], name: str) -> Comparison:
    """Put ``records`` beside the published numbers called ``name``.

    Args:
        records: Ours; those of other models, sites or tasks are passed over.
        name: A publication, such as ``anders2024``.

    Raises:
        InputError: There is no such publication, or no record that one of its numbers can stand beside.
    """
    about, published = load_published(name)
    ours = [r for r in records if {r.model.id, r.model.name} & set(about.models)]
    found = [
        (record, score, row)
        for row in published
        for record in ours
        if (record.task.name, record.sae.site) == (row.task, row.site)
        and row.context_length in (None, record.data.context_length)
        for score in record.scores
        if score.name == row.score
    ]
    if not found:
        raise InputError(_nothing(about, published, records, ours))
    pairs = [_pair(*one) for one in found]
    order = {score: i for i, score in enumerate(dict.fromkeys(row.score for row in published))}
    pairs.sort(key=lambda p: (p.task, order[p.score], natural(p.site), p.sae, p.seed))
    return Comparison(
        about=about,
        pairs=pairs,
        notes=[*about.notes, *_left_clean(about, [record for record, *_ in found]), *_missing(published, pairs)],
    )


def render(comparison: Comparison, view: str) -> str:
    """Return the comparison as ``table``, ``md``, ``csv`` or ``json``."""
    if view == "json":
        body = {"published": comparison.about.model_dump(), "scores": [asdict(pair) for pair in comparison.pairs]}
        return json.dumps(body | {"notes": comparison.notes}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if view == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(asdict(comparison.pairs[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(pair) for pair in comparison.pairs)
        return out.getvalue()
    grid = _grid(comparison.pairs)
    notes = [f"published: {comparison.about.title}; SAEs: {comparison.about.saes}", *comparison.notes]
    if view == "md":
        from saebench.report.markdown import table_lines

        return "\n".join([*table_lines(grid), "", *(f"- {note}" for note in notes)]) + "\n"
    return plain(grid) + "\n" + "".join(f"{note}\n" for note in notes)


def _pair(record: Record, score: Score, row: PublishedScore) -> Pair:
    difference = None if score.value is None else score.value - row.value
    error = math.hypot(score.stderr or 0.0, row.stderr or 0.0)
    return Pair(
        task=row.task,
        score=row.score,
        site=row.site,
        sae=f"{record.sae.name}-{record.sae.sha256[:8]}",
        seed=record.seed,
        ours=score.value,
        ours_stderr=score.stderr,
        published=row.value,
        published_stderr=row.stderr,
        difference=difference,
        in_stderrs=difference / error if difference is not None and error else None,
        source=row.source,
    )


def _grid(pairs: Sequence[Pair]) -> Grid:
    heads = ["task", "score", "site", "sae", "seed", "ours", "published", "difference", "in s.e."]
    rows = [
        [
            p.task, p.score, p.site, p.sae, str(p.seed), _number(p.ours, p.ours_stderr), _number(p.published, p.published_stderr),
            "n/a" if p.difference is None else f"{p.difference:+.4g}", "n/a" if p.in_stderrs is None else f"{p.in_stderrs:+.1f}",
        ]
        for p in pairs
    ]  # fmt: skip
    return Grid(heads, rows, [False] * 4 + [True] * 5, set())


def _number(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "n/a"
    return f"{value:.5g}" if stderr is None else f"{value:.5g} ± {stderr:.2g}"


def _left_clean(about: About, records: Sequence[Record]) -> list[str]:
    other = [r for r in records if r.task.name in about.every_position and not r.settings.get("splice_bos")]
    names = ", ".join(dict.fromkeys(f"{r.sae.name} ({r.task.name})" for r in other))
    return [f"not alike: {names} left position 0 clean, the published numbers did not; run with --splice-bos"] if names else []


def _missing(published: Sequence[PublishedScore], pairs: Sequence[Pair]) -> list[str]:
    there = {(p.task, p.site) for p in pairs}
    lost: dict[str, list[str]] = {}
    for row in published:
        if (row.task, row.site) not in there and row.site not in lost.setdefault(row.task, []):
            lost[row.task].append(row.site)
    return [f"published, without a record of ours: {task} at {', '.join(sites)}" for task, sites in lost.items() if sites]


def _nothing(about: About, published: Sequence[PublishedScore], records: Sequence[Record], ours: Sequence[Record]) -> str:
    if not ours:
        there = ", ".join(dict.fromkeys(r.model.id for r in records)) or "none"
        return f"{about.name} is about {about.models[-1]}; the records are of {there}. Score SAEs of that model first"
    tasks = ", ".join(dict.fromkeys(row.task for row in published))
    lengths = {row.context_length for row in published if row.context_length}
    at = f" (core at --context-length {' or '.join(map(str, sorted(lengths)))})" if lengths else ""
    return f"no record has a task and a site that {about.name} has numbers of; run {tasks}{at} on SAEs of its sites"

"""Two SAEs compared item by item: the same probe tasks, variables, examples or documents under both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from saebench.errors import InputError, did_you_mean
from saebench.record import Record
from saebench.report.items import items_of
from saebench.report.terminal import Grid
from saebench.report.views import render_view
from saebench.stats import Paired, paired

_SAME = ("study", "settings", "splice_bos", "dtype", "limit")
"""Settings that must be the same for two records to be of the same items."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One score of one task and seed, of two SAEs."""

    task: str
    version: int
    seed: int
    score: str
    better: str
    """``higher``, ``lower`` or ``none``."""
    what: str
    """What the items are."""
    found: Paired

    def verdict(self, a: str, b: str) -> str:
        """Return which is better, if the interval does not hold 0."""
        low, high = self.found.low, self.found.high
        if self.better == "none":
            return "n/a"
        if low is None or high is None or low <= 0 <= high:
            return "open"
        return b if (low > 0) == (self.better == "higher") else a


def compare(records: Mapping[Path, Record], score: str, a: str, b: str) -> list[Comparison]:
    """Compare two SAEs by one score, task by task and seed by seed, wherever both have a record with it.

    Args:
        records: By their files.
        score: Name of a score that is a mean over items.
        a: Name of an SAE, alone or with the first digits of its hash, as tables show it.
        b: The other one.

    Raises:
        InputError: A name that no SAE or several have; no task and seed at which both have the score; records of other texts
            or models; a score that is no mean over items that the records keep.
    """
    first, second = _of(records, a), _of(records, b)
    out = []
    for key, (path, record) in first.items():
        if key not in second or all(row.name != score for row in record.scores):
            continue
        other_path, other = second[key]
        items, others = items_of(record, path, score), items_of(other, other_path, score)
        if _texts(record) != _texts(other) or items.names != others.names:
            raise InputError(
                f"{a} and {b} were not asked the same by {key[0]}@{key[1]}, seed {key[2]}: other texts, settings or model; "
                "score both with one command"
            )
        out.append(
            Comparison(
                task=key[0],
                version=key[1],
                seed=key[2],
                score=score,
                better=record.score(score).better,
                what=items.what,
                found=paired(items.values, others.values),
            )
        )
    if not out:
        known = sorted({row.name for _, record in (*first.values(), *second.values()) for row in record.scores})
        raise InputError(f"{a} and {b} have no task and seed with {score!r} in common.{did_you_mean(score, known)}")
    return out


def render(found: Sequence[Comparison], a: str, b: str, view: str) -> str:
    """Return the comparisons as ``table``, ``md``, ``csv`` or ``json``."""
    rows = [
        {"task": c.task, "version": c.version, "seed": c.seed, "score": c.score, "a": a, "b": b, "better": c.better}
        | {f"value_{name}" if name in "ab" else name: value for name, value in asdict(c.found).items()}
        | {"items": c.what, "verdict": c.verdict(a, b)}
        for c in found
    ]
    heads = ["task", "seed", "score", a, b, "difference", "95% interval", "n", f"{b} higher / lower", "better"]
    grid = [
        [
            f"{c.task}@{c.version}", str(c.seed), c.score, f"{c.found.a:.4g}", f"{c.found.b:.4g}",
            f"{c.found.difference:+.4g}" + ("" if c.found.stderr is None else f" ± {c.found.stderr:.2g}"),
            "n/a" if c.found.low is None else f"{c.found.low:+.4g} … {c.found.high:+.4g}",
            f"{c.found.n:,} {c.what}", f"{c.found.n_higher} / {c.found.n_lower}", c.verdict(a, b),
        ]
        for c in found
    ]  # fmt: skip
    notes = [
        f"difference: {b} − {a} on the same items; ± is its standard error over them, the interval that of a bootstrap over them",
        "better: open where the interval holds 0; it is not widened for the number of comparisons that are looked at",
    ]
    numeric = [False, True, False, *[True] * 6, False]
    return render_view(view, Grid(heads, grid, numeric, set()), rows, notes)


def _of(records: Mapping[Path, Record], name: str) -> dict[tuple[str, int, int], tuple[Path, Record]]:
    """Return the records of one SAE by task, version and seed."""
    own = [(path, r) for path, r in records.items() if name in (r.sae.name, f"{r.sae.name}-{r.sae.sha256[:8]}")]
    full = {(r.model.name, r.sae.site, f"{r.sae.name}-{r.sae.sha256[:8]}") for _, r in own}
    if not own:
        known = sorted({r.sae.name for r in records.values()})
        raise InputError(f"no record of an SAE {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}.")
    if len(full) > 1:
        several = "; ".join(" ".join((sae, "at", site, "of", model)) for model, site, sae in sorted(full))
        raise InputError(f"several SAEs are called {name}: {several}; give the whole name, or narrow down with --where")
    found: dict[tuple[str, int, int], tuple[Path, Record]] = {}
    for path, record in own:
        key = (record.task.name, record.task.version, record.seed)
        if key in found:
            raise InputError(f"{name} has two records of {key[0]}, seed {key[2]}: {found[key][0]} and {path}; give one folder")
        found[key] = path, record
    return found


def _texts(record: Record) -> tuple[object, ...]:
    model = (record.model.sha256 or record.model.revision or record.model.id, record.model.dtype)
    return (record.data.sha256, *model, *(record.settings.get(key) for key in _SAME))

"""The leaderboard as rows and columns, before anybody decides how it looks.

One row per SAE × model × site × seed; one column per score and task version, so that two meanings never share a column.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from saebench.errors import InputError, did_you_mean
from saebench.record import Record, Score
from saebench.report.select import order

DEFAULT_SCORES = (
    "l0",
    "explained_variance",
    "ce_recovered_zero",
    "ce_recovered_mean",
    "ce_clean",
    "ce_spliced",
    "ce_zero",
    "ce_mean",
    "kl",
    "frac_alive",
    "context_degradation",
    "acc_clean",
    "acc_spliced",
    "acc_delta",
    "truth_f1_adjusted",
    "probe_loss",
    "probe_auc",
    "k_sparse_auc_k1",
    "n2g_f1",
    "explanation_delta_ce",
    "ablation_sparsity",
)
"""Columns shown where none are asked for; the raw losses always stand beside the ratios made of them."""

_ARROW = {"higher": "↑", "lower": "↓", "none": ""}
_CONFIDENT = 1.96
"""Half width of a 95 % interval in standard errors."""


@dataclass(frozen=True, kw_only=True, order=True)
class Column:
    """One score of one version of one task."""

    task: str
    version: int
    score: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One SAE on one model, site and seed, with the records that say something about it."""

    records: tuple[Record, ...]

    @property
    def first(self) -> Record:
        """Any of the records, for what they share."""
        return self.records[0]

    def cell(self, column: Column) -> Score | None:
        """Return the score, or ``None`` if no record has it."""
        for record in self.records:
            if (record.task.name, record.task.version) == (column.task, column.version):
                return next((s for s in record.scores if s.name == column.score), None)
        return None

    def identity(self) -> dict[str, str]:
        """Return what names the row."""
        r = self.first
        return {
            "sae": f"{r.sae.name}-{r.sae.sha256[:8]}",
            "format": r.sae.format,
            "architecture": r.sae.architecture,
            "d_sae": str(r.sae.d_sae),
            "model": r.model.name,
            "site": r.sae.site if r.sae.site == r.sae.site_out else f"{r.sae.site} → {r.sae.site_out}",
            "seed": str(r.seed),
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows × columns, and what must be said under them."""

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    order: str | None = None
    """What the order of the rows means, for the notes."""
    hidden: tuple[str, ...] = ()
    """Tasks of which no score is among the columns, where nobody chose these."""

    def label(self, column: Column) -> str:
        """Return the column's heading: score, version, direction; and the task where two tasks share a score name."""
        shared = len({c.task for c in self.columns if c.score == column.score}) > 1
        arrow = _ARROW[self.better(column)]
        return f"{column.task + ':' if shared else ''}{column.score}@{column.version}{' ' + arrow if arrow else ''}"

    def better(self, column: Column) -> str:
        """Return ``higher``, ``lower`` or ``none``."""
        return next((cell.better for cell in self._cells(column)), "none")

    def texts(self, column: Column) -> list[str]:
        """Return one text per row: value ± stderr with the same number of decimals down the column, or ``n/a``."""
        decimals = _decimals(self._cells(column))
        return [_text(row.cell(column), decimals) for row in self.rows]

    def best(self, column: Column) -> set[int]:
        """Return the rows whose value is best beyond noise.

        Rows are compared where model, site, seed and tokens are the same. The best value counts if its lead over the
        runner-up is more than 1.96 standard errors of the difference, the two taken as independent. Without a standard
        error nothing counts.
        """
        sign = {"higher": 1.0, "lower": -1.0, "none": 0.0}[self.better(column)]
        groups: dict[tuple[str, ...], list[tuple[float, float | None, int]]] = {}
        for i, row in enumerate(self.rows):
            cell = row.cell(column)
            if sign and cell is not None and cell.value is not None:
                groups.setdefault(_same_ground(row, column), []).append((sign * cell.value, cell.stderr, i))
        winners = set()
        for group in groups.values():
            first, *others = sorted(group, key=lambda entry: entry[0], reverse=True)
            if others and first[1] is not None and others[0][1] is not None:
                if first[0] - others[0][0] > _CONFIDENT * math.hypot(first[1], others[0][1]):
                    winners.add(first[2])
        return winners

    def shared_identity(self) -> dict[str, str]:
        """Return the parts of the identity that are the same in every row (never the SAE)."""
        rows = [row.identity() for row in self.rows]
        return {k: v for k, v in rows[0].items() if k != "sae" and all(r[k] == v for r in rows)} if rows else {}

    def notes(self) -> list[str]:
        """Return the lines under the table: what n is, why values are missing, what must not be compared."""
        return [*([self.order] if self.order else []), *self._counts(), *self._missing(), *self._grounds(), *self._not_shown()]

    def footer(self) -> str:
        """Return the line that says what made the numbers: version, commit, task versions, number of records."""
        records = [record for row in self.rows for record in row.records]
        tasks = sorted({f"{r.task.name}@{r.task.version}" for r in records})
        return f"{', '.join(_unique(_made_by(r) for r in records))}; {', '.join(tasks)}; {_plural(len(records), 'record')}"

    def _cells(self, column: Column) -> list[Score]:
        return [cell for row in self.rows if (cell := row.cell(column)) is not None]

    def _counts(self) -> list[str]:
        by_count: dict[str, list[str]] = {}
        for column in self.columns:
            cells = [c for c in self._cells(column) if c.value is not None and c.n is not None]
            if cells:
                low, high = min(c.n or 0 for c in cells), max(c.n or 0 for c in cells)
                count = f"{low:,}" if low == high else f"{low:,} to {high:,}"
                by_count.setdefault(f"{count} {cells[0].unit_n}", []).append(column.score)
        return [f"n = {count}: {', '.join(_unique(names))}" for count, names in by_count.items()]

    def _missing(self) -> list[str]:
        reasons: dict[tuple[str, str], list[str]] = {}
        for column in self.columns:
            for row in self.rows:
                cell = row.cell(column)
                name = row.identity()["sae"]
                if cell is None:
                    key = (f"{column.score}@{column.version}", f"no record of {column.task}@{column.version} has it")
                    reasons.setdefault(key, []).append(name)
                elif cell.value is None:
                    reasons.setdefault((f"{column.score}@{column.version}", cell.reason or cell.status), []).append(name)
        lines = []
        for (score, reason), saes in reasons.items():
            who = "every row" if len(saes) == len(self.rows) else ", ".join(_unique(saes))
            lines.append(f"n/a {score} ({who}): {reason}")
        return lines

    def _not_shown(self) -> list[str]:
        if not self.hidden:
            return []
        return [f"not shown: {', '.join(self.hidden)}; `saebench report --metric all` shows every score"]

    def _grounds(self) -> list[str]:
        lines = []
        seen: dict[tuple[str, int], dict[str, list[str]]] = {}
        for record in (record for row in self.rows for record in row.records):
            differing = seen.setdefault((record.task.name, record.task.version), {})
            for key, value in _conditions(record).items():
                differing.setdefault(key, []).append(value)
        for (task, version), conditions in seen.items():
            odd = {k: _unique(v) for k, v in conditions.items() if len(set(v)) > 1}
            if odd:
                what = "; ".join(f"{key}: {', '.join(values)}" for key, values in odd.items())
                lines.append(f"rows of {task}@{version} were measured differently ({what}); compare only those that were not")
        return lines


def make_table(records: Sequence[Record], *, scores: Sequence[str] = (), sort: str | None = None) -> Table:
    """Return the table of ``records``.

    Args:
        records: What to show.
        scores: Names of the columns: ``name``, ``name@version``, or ``all``; :data:`DEFAULT_SCORES` if empty.
        sort: Score by which the rows are ordered, best first and missing last; by name if ``None``.

    Raises:
        InputError: A score that no record has.
    """
    rows = _rows(records)
    present = _present(sorted(records, key=order))
    columns = tuple(_choose(present, scores))
    shown, tasks = {(c.task, c.version) for c in columns}, dict.fromkeys((c.task, c.version) for c in present)
    hidden = () if scores else tuple(f"{task}@{version}" for task, version in tasks if (task, version) not in shown)
    table = Table(rows=tuple(rows), columns=columns, hidden=hidden)
    return _sorted(table, present, sort) if sort else table


def chosen_scores(records: Sequence[Record], scores: Sequence[str]) -> set[tuple[str, int, str]]:
    """Return (task, version, score) of every score asked for; all of them if ``scores`` is empty."""
    return {(c.task, c.version, c.score) for c in _choose(_present(records), scores or ("all",))}


def _present(records: Sequence[Record]) -> list[Column]:
    columns = (Column(task=r.task.name, version=r.task.version, score=s.name) for r in records for s in r.scores)
    return list(dict.fromkeys(columns))


def _rows(records: Sequence[Record]) -> list[Row]:
    """One row per SAE × model × site × seed; records that say the same thing twice get rows of their own."""
    rows: dict[tuple[str, ...], list[list[Record]]] = {}
    for r in sorted(records, key=order):
        model = (r.model.name, r.model.revision or "", r.model.sha256 or "", r.model.dtype)
        key = (*model, r.sae.site, r.sae.site_out, r.sae.name, r.sae.sha256, str(r.seed))
        for row in rows.setdefault(key, []):
            if all((r.task.name, r.task.version) != (o.task.name, o.task.version) for o in row):
                row.append(r)
                break
        else:
            rows[key].append([r])
    return [Row(records=tuple(row)) for group in rows.values() for row in group]


def _choose(present: list[Column], scores: Sequence[str]) -> list[Column]:
    if "all" in scores:
        return present
    chosen: dict[Column, None] = {}
    for name in scores or DEFAULT_SCORES:
        score, _, version = name.partition("@")
        found = sorted(c for c in present if c.score == score and version in ("", str(c.version)))
        if not found and scores:
            known = sorted({c.score for c in present})
            raise InputError(f"no record has a score {name!r}.{did_you_mean(score, known)} There are: {', '.join(known)}.")
        chosen.update(dict.fromkeys(found))
    return list(chosen) or present


def _sorted(table: Table, present: list[Column], name: str) -> Table:
    column = _choose(present, [name])[-1]
    cells = [row.cell(column) for row in table.rows]
    better = next((c.better for c in cells if c is not None), "none")
    sign = -1.0 if better == "higher" else 1.0

    def key(i: int) -> tuple[bool, float]:
        cell = cells[i]
        missing = cell is None or cell.value is None
        return missing, 0.0 if missing else sign * float(cell.value)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]

    return replace(table, rows=tuple(table.rows[i] for i in sorted(range(len(cells)), key=key)))


def _conditions(r: Record) -> dict[str, str]:
    """What must be the same for two scores to be compared, beyond the tokens, which the seed changes on purpose."""
    return {
        "corpus": r.data.corpus,
        "n_contexts": str(r.data.n_contexts),
        "context_length": str(r.data.context_length),
        "splice_bos": str(r.settings.get("splice_bos", False)).lower(),
        "model dtype": r.model.dtype,
    }


def _same_ground(row: Row, column: Column) -> tuple[str, ...]:
    r = next(x for x in row.records if (x.task.name, x.task.version) == (column.task, column.version))
    where = (r.model.name, r.model.sha256 or r.model.revision or "", r.sae.site, r.sae.site_out)
    return (*where, str(r.seed), r.data.sha256, *_conditions(r).values())


def _made_by(r: Record) -> str:
    versions = r.environment.get("versions")
    version = versions.get("saebench", "unknown") if isinstance(versions, dict) else "unknown"
    commit = r.environment.get("commit")
    dirty = " + changes" if r.environment.get("dirty") else ""
    return f"saebench {version}" + (f" (commit {str(commit)[:8]}{dirty})" if commit else "")


def _decimals(cells: Sequence[Score]) -> int:
    """Decimals at which every standard error shows two digits, or a value without one shows four."""
    wanted = [0]
    for cell in cells:
        if cell.stderr:
            wanted.append(1 - math.floor(math.log10(cell.stderr)))
        elif cell.value and not cell.value.is_integer():
            wanted.append(3 - math.floor(math.log10(abs(cell.value))))
    return min(max(wanted), 5)


def _text(cell: Score | None, decimals: int) -> str:
    if cell is None or cell.value is None:
        return "n/a"
    value = _number(cell.value, decimals)
    return value if cell.stderr is None else f"{value} ± {_number(cell.stderr, decimals)}"


def _number(value: float, decimals: int) -> str:
    if value and abs(value) < 10.0**-decimals:
        return f"{value:.1e}"
    return f"{value:,.{decimals}f}"


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))

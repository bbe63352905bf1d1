"""Whether scores put SAEs in the order in which one of them, such as what is known to be true, does: rank correlation.

Letters: ``n`` SAEs, ``B`` draws of the bootstrap.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saebench.errors import InputError
from saebench.record import Record
from saebench.report.items import Items, items_of
from saebench.report.table import Column, Row, make_table
from saebench.report.terminal import Grid
from saebench.report.views import render_view
from saebench.stats import INTERVAL, drawn

Floats = NDArray[np.float64]
DRAWS = 2_000
_EXACT = 8
"""SAEs up to which every order is tried, 8! = 40,320; of more, :data:`_ORDERS` are drawn."""
_ORDERS = 20_000
_CLOSE = 1e-12
_SIGN = {"lower": -1.0, "higher": 1.0, "none": 1.0}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far one score orders the SAEs as the other does."""

    score: str
    task: str
    version: int
    n: int
    """SAEs that have both."""
    spearman: float | None
    """ρ, 1 if both have one order of better and worse; ``None`` where a score has one value for all."""
    spearman_low: float | None
    spearman_high: float | None
    kendall: float | None
    """τ-b."""
    kendall_low: float | None
    kendall_high: float | None
    p: float | None
    """Share of all orders of the SAEs that have a ρ as high or higher."""
    last: str
    """The SAE that is worst by this score."""
    last_share: float | None
    """Share of the draws in which it is."""
    drawn: str
    """What the draws are of."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Known:
    """One score of all SAEs; the higher, the better."""

    column: Column
    values: Floats
    """[n]"""
    draws: Floats
    """[B, n]"""
    drawn: str


class _Draws:
    """Draws of things, the same for all scores that are means over the same things."""

    def __init__(self, draws: int, seed: int) -> None:
        self._draws, self._seed = draws, seed
        self._known: dict[tuple[str, ...], Floats] = {}

    def of(self, names: tuple[str, ...]) -> Floats:
        """Return how often each of some things is drawn ``[B, items]``."""
        if names not in self._known:
            rng = np.random.default_rng([self._seed, len(self._known)])
            self._known[names] = drawn(len(names), self._draws, rng)
        return self._known[names]

    def noise(self, n: int) -> Floats:
        """Return standard normal numbers ``[B, n]``, others each time."""
        rng = np.random.default_rng([self._seed, len(self._known), 1])
        self._known[(f"noise {len(self._known)}",)] = np.zeros(0)
        return rng.standard_normal((self._draws, n))


def agreement(
    records: Mapping[Path, Record], reference: str, scores: Sequence[str] = (), *, draws: int = DRAWS, seed: int = 0
) -> list[Agreement]:
    """Return how far scores order SAEs as ``reference`` does, over all SAEs that have both.

    Values are turned so that more is better, ranked with ties at their mean rank, and correlated: Spearman's ρ and Kendall's
    τ-b. The interval is between the 2.5th and the 97.5th percentile of what draws give: for a score that is a mean over items
    that the records keep (probe tasks, variables, examples) items are drawn with replacement, the same for all SAEs and for
    both scores if both are over them; for another with a standard error, normal noise of that size is added to each SAE's
    value on its own. The SAEs stay the same, so the interval does not say what other SAEs would give; ``p`` does for
    "no agreement".

    Args:
        records: By their files; of one model, and of one seed.
        reference: Name of a score.
        scores: Names of others, ``name`` or ``name@version``; all that have a better and a worse if empty.
        draws: ``B``.
        seed: Of the draws.

    Raises:
        InputError: No record has a score of the name; fewer than three SAEs have both; records of several models or seeds.
    """
    for what in ({r.model.name for r in records.values()}, {str(r.seed) for r in records.values()}):
        if len(what) > 1:
            raise InputError(f"SAEs of one model and seed are ranked, not of {', '.join(sorted(what))}; choose with --where")
    table = make_table(list(records.values()), scores=[reference, *(scores or ("all",))])
    path = {id(record): file for file, record in records.items()}
    of, *others = make_table(list(records.values()), scores=[reference]).columns
    if others:
        tasks = ", ".join(f"{c.task}@{c.version}" for c in (of, *others))
        raise InputError(f"{reference} is of {tasks}; choose with --where task=… (again for the others' tasks)")
    out, last = [], ""
    for column in table.columns:
        if column == of or (not scores and table.better(column) == "none"):
            continue
        rows = [row for row in table.rows if _value(row, of) is not None and _value(row, column) is not None]
        if len(rows) < 3:
            last = f"{column.score}: {len(rows)} SAEs have both"
            continue
        shared = _Draws(draws, seed)
        out.append(_agreement(_known(rows, of, path, shared), _known(rows, column, path, shared), rows))
    if not out:
        raise InputError(f"three SAEs or more with {reference} and another score are needed ({last or 'no other score'})")
    return out


def ranks(x: Floats) -> Floats:
    """Return the rank of every number within its row ``[B, n]``, ties at their mean rank."""
    below = (x[..., None, :] < x[..., :, None]).sum(-1)
    as_high = (x[..., None, :] <= x[..., :, None]).sum(-1)
    return (below + as_high + 1) / 2


def spearman(x: Floats, y: Floats) -> Floats:
    """Return Spearman's ρ of rows ``[B, n]`` or ``[1, n]``, NaN where one is constant."""
    a, b = (r - r.mean(-1, keepdims=True) for r in (ranks(x), ranks(y)))
    return _over((a * b).sum(-1), np.square(a).sum(-1) * np.square(b).sum(-1))


def kendall(x: Floats, y: Floats) -> Floats:
    """Return Kendall's τ-b of rows ``[B, n]`` or ``[1, n]``, NaN where one is constant."""
    a, b = (np.sign(v[..., :, None] - v[..., None, :]) for v in (x, y))
    return _over((a * b).sum((-1, -2)), np.abs(a).sum((-1, -2)) * np.abs(b).sum((-1, -2)))


def render(found: Sequence[Agreement], reference: str, view: str) -> str:
    """Return the agreements as ``table``, ``md``, ``csv`` or ``json``."""
    heads = ["score", "task", "SAEs", "Spearman's ρ [95%]", "Kendall's τ [95%]", "p", "last", "in draws"]
    grid = [
        [
            one.score, f"{one.task}@{one.version}", str(one.n), _interval(one.spearman, one.spearman_low, one.spearman_high),
            _interval(one.kendall, one.kendall_low, one.kendall_high), "n/a" if one.p is None else f"{one.p:.2g}", one.last,
            "n/a" if one.last_share is None else f"{100 * one.last_share:.0f}%",
        ]
        for one in found
    ]  # fmt: skip
    how = {one.drawn: [o.score for o in found if o.drawn == one.drawn] for one in found}
    notes = [
        f"rank correlation with {reference}, better and worse of both turned alike: 1 is the same order, −1 the reverse",
        *(f"[95%] over draws of {what}: {', '.join(dict.fromkeys(names))}" for what, names in how.items()),
        "p: share of all orders of these SAEs with a ρ as high; last: the SAE that is worst by the score, and in how many draws",
    ]
    numeric = [False, False, True, True, True, True, False, True]
    rows = [vars(one) | {"reference": reference} for one in found]
    return render_view(view, Grid(heads, grid, numeric, set()), rows, notes)


def _value(row: Row, column: Column) -> float | None:
    cell = row.cell(column)
    return None if cell is None else cell.value


def _known(rows: Sequence[Row], column: Column, path: Mapping[int, Path], shared: _Draws) -> _Known:
    cells = [cell for row in rows if (cell := row.cell(column)) is not None]
    sign = _SIGN[cells[0].better]
    values = sign * np.array([cell.value for cell in cells], dtype=np.float64)
    items = _items(rows, column, path)
    if items is not None:
        weights = shared.of(items[0].names)
        draws = sign * weights @ np.stack([one.values for one in items], 1) / len(items[0].names)
        return _Known(column=column, values=values, draws=draws, drawn=items[0].what)
    errors = np.array([cell.stderr or 0.0 for cell in cells])
    some = bool(errors.any())
    draws = values + errors * shared.noise(len(values))
    return _Known(column=column, values=values, draws=draws, drawn="noise of its standard errors" if some else "nothing")


def _items(rows: Sequence[Row], column: Column, path: Mapping[int, Path]) -> list[Items] | None:
    """Return the items of a score of every SAE, or ``None`` where they are not kept or not the same."""
    out = []
    for row in rows:
        record = next(r for r in row.records if (r.task.name, r.task.version) == (column.task, column.version))
        try:
            out.append(items_of(record, path[id(record)], column.score))
        except InputError:
            return None
    return out if len({one.names for one in out}) == 1 else None


def _agreement(reference: _Known, one: _Known, rows: Sequence[Row]) -> Agreement:
    both = reference.values[None], one.values[None]
    rho, tau = float(spearman(*both)[0]), float(kendall(*both)[0])
    worst = int(one.values.argmin())
    low, high = _percentiles(spearman(reference.draws, one.draws))
    tau_low, tau_high = _percentiles(kendall(reference.draws, one.draws))
    return Agreement(
        score=one.column.score, task=one.column.task, version=one.column.version, n=len(rows),
        spearman=_finite(rho), spearman_low=low, spearman_high=high, kendall=_finite(tau), kendall_low=tau_low,
        kendall_high=tau_high, p=_p(*both, rho), last=rows[worst].first.sae.name,
        last_share=float((one.draws.argmin(1) == worst).mean()) if one.drawn != "nothing" else None,
        drawn=" and ".join(dict.fromkeys((reference.drawn, one.drawn))),
    )  # fmt: skip


def _p(x: Floats, y: Floats, rho: float) -> float | None:
    if math.isnan(rho):
        return None
    n = x.shape[1]
    if n <= _EXACT:
        orders = np.array(list(itertools.permutations(range(n))))
        return float((spearman(x[0][orders], y) >= rho - _CLOSE).mean())
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(n), (_ORDERS, 1)), axis=1)
    return float(((spearman(x[0][orders], y) >= rho - _CLOSE).sum() + 1) / (_ORDERS + 1))


def _percentiles(values: Floats) -> tuple[float | None, float | None]:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None, None
    low, high = np.percentile(finite, INTERVAL)
    return float(low), float(high)


def _over(a: Floats, square: Floats) -> Floats:
    return np.divide(a, np.sqrt(square), out=np.full(np.shape(a), np.nan), where=square > 0)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _interval(x: float | None, low: float | None, high: float | None) -> str:
    if x is None:
        return "n/a"
    return f"{x:.2f}" if low is None or high is None else f"{x:.2f} [{low:.2f}, {high:.2f}]"

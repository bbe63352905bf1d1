"""Scaling laws of a set of finished training runs, in the forms of Gao et al. (2024), section 3 (arXiv 2406.04093).

    L(C)   = l0 + a · C^b
    L(N)   = l0 + a · N^b                                                                      at each k
    L(N,K) = exp(alpha + beta_k ln K + beta_n ln N + gamma ln K ln N) + exp(zeta + eta ln K)

L is the normalised MSE, 1 − held-out explained variance. N is the number of latents. K is k, or the held-out L0 of recipes that
have no k. C is the training compute, 6 · (2 · d_in · d_sae) · tokens FLOPs: forward and backward of encoder and decoder, counted
dense whatever the kernels did; the language model's own passes are left out. All fits are least squares in ln L with l0 ≥ 0.

Which runs a fit is over, unless all are asked for: L(C), at each k, the lower envelope (no other run has less L for the same or
less C); L(N) and L(N,K) the runs with most tokens at each N and k, since those laws are about training to convergence. Recipes
without k are grouped by L0 to the nearest power of two.

Intervals are 95 %, two of each. ``bootstrap``, the one to report: percentiles over seeded resamples of the fitted runs, given
that they were the ones selected. ``jacobian``: Student's t times the standard error from the covariance s² (JᵀJ)⁻¹ at the
solution, for ``a`` in its logarithm. On 16 to 32 simulated runs each held the truth about 9 times in 10, so both are narrow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.special import expit
from scipy.stats import t as student

from saebench.errors import InputError, first_line

Floats = NDArray[np.float64]
Interval = tuple[float | None, float | None]

POWER = ("ln a", "b", "ln l0")
JOINT = ("alpha", "beta_k", "beta_n", "gamma", "zeta", "eta")
RESAMPLES = 1000
_ALIKE = ("model", "site", "recipe", "corpus", "context_length")
_SHARES = (0.02, 0.3, 0.6, 0.9, 0.98)
_RANDOM_STARTS = 8


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the fits need of one finished run; what ``alike`` holds, all runs of a fit must share."""

    folder: str
    loss: float
    """L, the normalised MSE on held-out text."""
    n_latents: int
    d_in: int
    tokens: int
    k: float | None = None
    l0: float | None = None
    alike: dict[str, Any] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """C, see the module."""
        return 6.0 * (2.0 * self.d_in * self.n_latents) * self.tokens

    @property
    def sparsity(self) -> float | None:
        """K: k, the held-out L0 where there is no k, ``None`` where neither is known."""
        return self.l0 if self.k is None else self.k

    @property
    def group(self) -> str:
        """The runs that one curve may join."""
        if self.k is not None:
            return f"k={self.k:g}"
        return "any" if self.l0 is None else f"L0~{2.0 ** round(math.log2(self.l0)):g}"


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in ``paths``, each once, and one line on every folder that was left out.

    Args:
        paths: Folders of finished runs, or folders of such folders.

    Raises:
        InputError: A path is no folder, or no run is usable.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise InputError(f"no such folder: {path}; give folders that `saebench train --out` wrote")
        inner = [] if (path / "config.json").is_file() else sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")
        for folder in inner or [path]:
            folders.setdefault(folder.resolve(), folder)
    runs: list[Run] = []
    skipped: list[str] = []
    for folder in folders.values():
        found = _read(folder)
        if isinstance(found, Run):
            runs.append(found)
        else:
            skipped.append(f"{folder} is left out: {found}")
    if not runs:
        raise InputError(f"no usable run ({skipped[0]}); give folders that `saebench train` has finished")
    runs.sort(key=lambda r: (r.n_latents, r.flops, r.sparsity or 0.0, r.loss, r.folder))
    return runs, skipped


def _read(folder: Path) -> Run | str:
    """Return the run in ``folder``, or why it is none."""
    file = folder / "config.json"
    if not file.is_file():
        return "it holds no config.json, so the run has not finished"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        training = data["training"]
        run, settings, last = training["run"], training["settings"], training["last_row"]
        d_sae = settings.get("d_sae") or data["d_sae"]
        numbers = {"d_in": data["d_in"], "d_sae": d_sae, "tokens": run["tokens"]}
        explained = last["held_out_explained_variance"]
        k = settings.get("k", data.get("k"))
        l0 = last.get("held_out_l0")
    except (KeyError, TypeError, AttributeError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else "is not what `saebench train` writes"
        return f"its config.json {said}"
    except (OSError, ValueError, RecursionError) as error:
        return f"its config.json cannot be read ({first_line(error)})"
    for name, value in numbers.items():
        if not _number(value) or value < 1:
            return f"its {name} is {value!r}, not a number of 1 or more"
    if not _number(explained) or explained >= 1:
        return f"its held-out explained variance is {explained!r}, not a number below 1"
    return Run(
        folder=str(folder), loss=1.0 - explained, n_latents=int(d_sae), d_in=int(data["d_in"]), tokens=int(run["tokens"]),
        k=float(k) if _number(k) and k > 0 else None, l0=float(l0) if _number(l0) and l0 > 0 else None,
        alike={name: run.get(name) for name in _ALIKE} | {"d_in": data["d_in"]},
    )  # fmt: skip


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_alike(runs: Sequence[Run]) -> None:
    """Raise ``InputError`` where the runs differ in model, site, recipe, corpus, context length or d_in."""
    first = runs[0]
    for name in first.alike:
        for run in runs:
            if (other := run.alike.get(name)) != first.alike[name]:
                said = f"{first.alike[name]!r} in {first.folder}, {other!r} in {run.folder}"
                raise InputError(f"the runs differ in {name}: {said}; fit those of each {name} in a call of their own")


@dataclass(kw_only=True)
class Fit:
    """One law fitted to one group of runs; ``theta``, in the order of ``names``, is ``None`` where there is a ``reason``."""

    law: str
    group: str
    runs: list[Run]
    names: tuple[str, ...]
    reason: str | None = None
    theta: Floats | None = None
    jacobian: list[Interval] = field(default_factory=list)
    samples: Floats | None = None
    """``theta`` of the resamples ``[R, p]``."""
    rms: float = 0.0
    """Root mean square of the residuals of ln L."""
    notes: list[str] = field(default_factory=list)

    def curve(self, n_or_c: Floats, k: float = 1.0) -> tuple[Floats, Floats | None, Floats | None]:
        """Return L at ``n_or_c`` ``[m]`` (and ``k`` for L(N,K)) and its 95 % band by the bootstrap, if there is one."""
        assert self.theta is not None
        at = np.log(np.asarray(n_or_c, dtype=np.float64))
        first, second = _columns(self.law, at, np.full_like(at, math.log(k)))
        middle = np.exp(_log_loss(self.theta, first, second))
        if self.samples is None:
            return middle, None, None
        curves = np.exp([_log_loss(row, first, second) for row in self.samples])
        low, high = np.percentile(curves, (2.5, 97.5), axis=0)
        return middle, low, high

    def parameters(self) -> list[dict[str, Any]]:
        """Return name, value and both intervals of every parameter; an end that is not finite is ``None``."""
        rows = []
        for i, (name, best) in enumerate(zip(self.names, () if self.theta is None else self.theta, strict=False)):
            scale = np.exp if name.startswith("ln ") else np.asarray
            drawn: Interval = (None, None)
            with np.errstate(over="ignore"):
                if self.samples is not None:
                    low, high = np.percentile(scale(self.samples[:, i]), (2.5, 97.5))
                    drawn = (_finite(low), _finite(high))
                value = _finite(scale(best))
            rows.append({"name": name.removeprefix("ln "), "value": value, "bootstrap": drawn, "jacobian": self.jacobian[i]})
        return sorted(rows, key=lambda row: row["name"] != "l0")


def fit_scaling(
    runs: Sequence[Run], rng: np.random.Generator, *, all_runs: bool = False, resamples: int = RESAMPLES
) -> list[Fit]:
    """Return the fits of L(C) and L(N), at each k, and of L(N,K).

    Args:
        runs: At least one.
        rng: Source of the random starts and resamples.
        all_runs: Fit every run instead of those the module names.
        resamples: Bootstrap resamples wanted of each fit.

    Raises:
        InputError: The runs do not belong together.
    """
    check_alike(runs)
    groups: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: r.sparsity or 0.0):
        groups.setdefault(run.group, []).append(run)
    plans: list[tuple[str, str, list[Run]]] = []
    plans += [("L(C)", name, own if all_runs else _envelope(own)) for name, own in groups.items()]
    longest = {name: own if all_runs else _longest(own) for name, own in groups.items()}
    plans += [("L(N)", name, own) for name, own in longest.items()]
    plans.append(("L(N,K)", "all", [run for own in longest.values() for run in own]))
    return [_fit(law, name, own, child, resamples) for (law, name, own), child in zip(plans, rng.spawn(len(plans)), strict=True)]


def _envelope(runs: Sequence[Run]) -> list[Run]:
    front: list[Run] = []
    for run in sorted(runs, key=lambda r: (r.flops, r.loss)):
        if not front or run.loss < front[-1].loss:
            front.append(run)
    return front


def _longest(runs: Sequence[Run]) -> list[Run]:
    most = {run.n_latents: run.tokens for run in sorted(runs, key=lambda r: r.tokens)}
    return [run for run in runs if run.tokens == most[run.n_latents]]


def _columns(law: str, x: Floats, k: Floats) -> tuple[Floats, Floats]:
    """Return the design of both terms, ``[n, p1]`` and ``[n, p2]``: ln L = logaddexp(first · θ1, second · θ2)."""
    one = np.ones_like(x)
    if law == "L(N,K)":
        return np.stack([one, k, x, k * x], 1), np.stack([one, k], 1)
    return np.stack([one, x], 1), one[:, None]


def _uncentre(law: str, x: float, k: float) -> tuple[Floats, Floats]:
    """Return the matrices that take θ1 and θ2 about the centre (``x``, ``k``) to those about 0."""
    if law == "L(N,K)":
        return np.array([[1, -k, -x, k * x], [0, 1, 0, -x], [0, 0, 1, -k], [0, 0, 0, 1]]), np.array([[1, -k], [0, 1]])
    return np.array([[1, -x], [0, 1]]), np.eye(1)


def _log_loss(theta: Floats, first: Floats, second: Floats) -> Floats:
    p = first.shape[1]
    return np.logaddexp(first @ theta[:p], second @ theta[p:])


def _slopes(theta: Floats, first: Floats, second: Floats) -> Floats:
    p = first.shape[1]
    share = expit(first @ theta[:p] - second @ theta[p:])[:, None]
    return np.concatenate([share * first, (1 - share) * second], 1)


def _problem(law: str, x: Floats, k: Floats) -> str | None:
    """Return why the points cannot fix the law's parameters."""
    need = len(JOINT if law == "L(N,K)" else POWER) + 1
    if len(x) < need:
        return f"{len(x)} run{'s' * (len(x) != 1)}, {need} needed"
    name = "C" if law == "L(C)" else "N"
    if (n := len(np.unique(x))) < 3:
        return f"{n} value{'s' * (n != 1)} of {name}, 3 needed"
    if law == "L(N,K)":
        if len(np.unique(k)) < 2:
            return "1 value of K, 2 needed"
        if np.linalg.matrix_rank(_columns(law, x - x.mean(), k - k.mean())[0]) < 4:
            return "N and K do not vary apart; cross at least 2 values of K with 3 of N"
    return None


def _fit(law: str, group: str, runs: list[Run], rng: np.random.Generator, resamples: int) -> Fit:
    fit = Fit(law=law, group=group, runs=runs, names=JOINT if law == "L(N,K)" else POWER)
    joint = law == "L(N,K)"
    if joint and any(r.sparsity is None for r in runs):
        fit.reason = "some runs have neither k nor a held-out L0"
        return fit
    x = np.log([r.flops if law == "L(C)" else r.n_latents for r in runs])
    k = np.log([r.sparsity or 1.0 for r in runs]) if joint else np.zeros(len(runs))
    y = np.log([r.loss for r in runs])
    fit.reason = _problem(law, x, k)
    if fit.reason:
        return fit
    centre = float(x.mean()), float(k.mean())
    first, second = _columns(law, x - centre[0], k - centre[1])
    solved = _solve(first, second, y, _starts(first, second, y, rng))
    if solved is None:
        fit.reason = "least squares found no finite solution"
        return fit
    back = _uncentre(law, *centre)
    fit.theta = _moved(solved, back)
    residual = _log_loss(solved, first, second) - y
    fit.rms = float(np.sqrt(np.mean(residual**2)))
    fit.jacobian = _jacobian(fit, solved, first, second, residual, back)
    drawn = _bootstrap(law, solved, (first, second, x, k, y), rng, resamples)
    if 2 * len(drawn) >= resamples > 0:
        fit.samples = np.array([_moved(theta, back) for theta in drawn])
    elif resamples:
        fit.notes.append("no bootstrap interval: too few resamples hold enough different runs")
    if not joint and np.isneginf(fit.theta[2]):
        fit.notes.append("l0 is at its bound 0: these runs show no irreducible loss")
    if not joint and fit.theta[1] >= 0:
        fit.notes.append("b is not negative: the loss does not fall")
    return fit


def _moved(theta: Floats, back: tuple[Floats, Floats]) -> Floats:
    p = len(back[0])
    return np.concatenate([back[0] @ theta[:p], back[1] @ theta[p:]])


def _starts(first: Floats, second: Floats, y: Floats, rng: np.random.Generator | None) -> Iterator[Floats]:
    """Yield start values: the second term a share of the lowest L, the first fitted to the rest; then some about the middle."""
    lowest = float(np.exp(y.min()))
    middle = np.zeros(first.shape[1] + second.shape[1])
    for share in _SHARES if rng else (0.6,):
        term = np.zeros(second.shape[1])
        term[0] = math.log(share * lowest)
        own = np.linalg.lstsq(first, np.log(np.exp(y) - share * lowest), rcond=None)[0]
        if share == 0.6:
            middle = np.concatenate([own, term], dtype=np.float64)
        yield np.concatenate([own, term], dtype=np.float64)
    if rng:
        yield from middle + rng.normal(scale=0.5, size=(_RANDOM_STARTS, len(middle)))


def _solve(first: Floats, second: Floats, y: Floats, starts: Iterator[Floats] | Sequence[Floats]) -> Floats | None:
    """Return the θ of least Σ(ln L − y)²; ln l0 is −∞ where no irreducible constant is at least as good."""
    best, least = None, math.inf
    for start in starts:
        found = least_squares(
            lambda theta: _log_loss(theta, first, second) - y, start,
            lambda theta: _slopes(theta, first, second),  # pyright: ignore[reportArgumentType] — the stubs know only names
            method="lm", xtol=1e-12, ftol=1e-12, gtol=1e-12, max_nfev=500,
        )  # fmt: skip
        if np.isfinite(found.x).all() and found.cost < least:
            best, least = found.x, float(found.cost)
    if second.shape[1] == 1:
        bare = np.linalg.lstsq(first, y, rcond=None)[0]
        cost = 0.5 * float(np.square(first @ bare - y).sum())
        if cost <= least * (1 + 1e-9) + 1e-22:
            return np.append(bare, -math.inf)
    return best


def _bootstrap(law: str, solved: Floats, data: tuple[Floats, ...], rng: np.random.Generator, resamples: int) -> list[Floats]:
    """Return θ, about the centre, of up to ``resamples`` resamples that can fix it, out of three times as many draws."""
    first, second, x, k, y = data
    bare = np.isneginf(solved)
    drawn: list[Floats] = []
    for _ in range(3 * resamples):
        if len(drawn) == resamples:
            break
        i = rng.integers(0, len(y), len(y))
        if _problem(law, x[i], k[i]):
            continue
        near = np.where(bare, math.log(0.02) + y[i].min(), solved)
        found = _solve(first[i], second[i], y[i], [near, *_starts(first[i], second[i], y[i], None)])
        if found is not None:
            drawn.append(found)
    return drawn


def _jacobian(
    fit: Fit, solved: Floats, first: Floats, second: Floats, residual: Floats, back: tuple[Floats, Floats]
) -> list[Interval]:
    """Return the interval of every parameter from the covariance at the solution; no ends where it is singular."""
    p1, whole = len(back[0]), np.isfinite(solved)
    own = _slopes(solved, first, second)[:, whole]
    free = len(residual) - own.shape[1]
    ends: list[Interval] = [(None, None)] * len(solved)
    if fit.theta is None or np.linalg.cond(own) > 1e10:
        return ends
    turn = np.zeros((len(solved), len(solved)))
    turn[:p1, :p1], turn[p1:, p1:] = back
    turn = turn[np.ix_(whole, whole)]
    cov = turn @ np.linalg.inv(own.T @ own) @ turn.T * float(residual @ residual) / free
    reach = student.ppf(0.975, free) * np.sqrt(np.maximum(np.diag(cov), 0))
    with np.errstate(over="ignore"):
        for i, d in zip(np.flatnonzero(whole), reach, strict=True):
            value, name = fit.theta[i], fit.names[i]
            pair = np.array([value - d, value + d])
            if name == "ln l0":
                pair = np.exp(value) * np.array([max(0.0, 1 - d), 1 + d])
            elif name == "ln a":
                pair = np.exp(pair)
            ends[i] = _finite(pair[0]), _finite(pair[1])
    return ends


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None

"""``saebench fit-scaling``: scaling laws of a set of training runs."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saebench.cli.output import json_option, put_json, put_rows, put_text, say
from saebench.errors import InputError

if TYPE_CHECKING:
    from saebench.trainers.scaling import Fit, Run  # pyright: ignore[reportMissingImports]

_PATH = click.Path(path_type=Path)
_FORMULAS = {
    "L(C)": "l0 + a * C^b",
    "L(N)": "l0 + a * N^b",
    "L(N,K)": "exp(alpha + beta_k ln K + beta_n ln N + gamma ln K ln N) + exp(zeta + eta ln K)",
}
_MEANING = {
    "L": "normalised MSE, 1 - held-out explained variance",
    "C": "training FLOPs, 6 * (2 * d_in * d_sae) * tokens, dense count, without the language model",
    "N": "number of latents",
    "K": "k, or the held-out L0 of recipes without k",
    "bootstrap": "95 % percentile interval over seeded resamples of the fitted runs; the one to report",
    "jacobian": "95 % interval from the covariance at the solution, Student's t",
    "source": "Gao et al. 2024, section 3 (arXiv 2406.04093)",
}


@click.command("fit-scaling")
@click.argument("runs", nargs=-1, required=True, metavar="RUNS...", type=_PATH)
@click.option("-o", "--out", type=_PATH, metavar="FOLDER", help="Write scaling.json and scaling.png there.")
@click.option("--all-runs", is_flag=True, help="Fit every run, not only the lower envelope and the longest ones.")
@json_option
def fit_scaling(runs: tuple[Path, ...], out: Path | None, all_runs: bool, as_json: bool) -> int:
    """Fit loss against compute, size and sparsity over RUNS.

    RUNS are folders that `saebench train` has finished, or folders of such folders. L(C) is fitted, at each k, to the runs that
    no cheaper run beats; L(N) and L(N,K) to those with most tokens at each size and k. Intervals are 95 %, from 1000 resamples.
    """
    for package in ("scipy", "matplotlib") if out is not None else ("scipy",):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"fit-scaling needs {package} here, which is not installed; run: pip install {package}")

    import numpy as np

    from saebench.store import check_writable
    from saebench.trainers import scaling  # pyright: ignore[reportMissingImports,reportAttributeAccessIssue]

    found, skipped = scaling.read_runs(runs)
    for line in skipped:
        say(line)
    scaling.check_alike(found)
    if out is not None:
        check_writable(out)
    fits = scaling.fit_scaling(found, np.random.default_rng(0), all_runs=all_runs)
    data = _document(found, skipped, fits, all_runs)
    if out is not None:
        _write(out, data, found, fits)
    if as_json:
        put_json(data)
    else:
        _show(fits)
    return 0


def _document(runs: list[Run], skipped: list[str], fits: list[Fit], all_runs: bool) -> dict[str, Any]:
    return {
        "meaning": _MEANING,
        "over": "all runs" if all_runs else "the lower envelope for L(C), the longest runs at each N and k for L(N) and L(N,K)",
        "shared": runs[0].alike,
        "fits": [_fit(fit) for fit in fits],
        "runs": [
            {"run": r.folder, "L": r.loss, "N": r.n_latents, "C": r.flops, "K": r.sparsity, "tokens": r.tokens, "group": r.group}
            for r in runs
        ],
        "left_out": skipped,
    }


def _fit(fit: Fit) -> dict[str, Any]:
    fitted = fit.theta is not None
    return {
        "law": fit.law,
        "group": fit.group,
        "formula": _FORMULAS[fit.law],
        "parameters": {row.pop("name"): row for row in fit.parameters()} if fitted else None,
        "reason": fit.reason,
        "notes": fit.notes,
        "rms_log_residual": fit.rms if fitted else None,
        "resamples": 0 if fit.samples is None else len(fit.samples),
        "runs": [r.folder for r in fit.runs],
    }


def _show(fits: list[Fit]) -> None:
    rows = [
        {
            "law": fit.law, "over": fit.group, "runs": len(fit.runs), "parameter": row["name"], "value": _short(row["value"]),
            "bootstrap 95%": _span(row["bootstrap"]), "jacobian 95%": _span(row["jacobian"]),
        }
        for fit in fits for row in fit.parameters()
    ]  # fmt: skip
    put_rows(rows)
    said = [f"{fit.law} {fit.group}: {note}\n" for fit in fits for note in fit.notes]
    said += [f"{fit.law} {fit.group}: not fitted, {fit.reason}\n" for fit in fits if fit.reason]
    put_text("".join(["\n" * bool(rows and said), *said]))


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _span(ends: tuple[float | None, float | None]) -> str:
    return "" if ends == (None, None) else f"{_short(ends[0])} to {_short(ends[1])}"


def _write(out: Path, data: dict[str, Any], runs: list[Run], fits: list[Fit]) -> None:
    from saebench.store import write_atomic

    picture = _picture(runs, fits)
    write_atomic(out / "scaling.json", (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())
    write_atomic(out / "scaling.png", picture)
    say(f"wrote {out / 'scaling.json'} and {out / 'scaling.png'}")


def _picture(runs: list[Run], fits: list[Fit]) -> bytes:
    """Return a PNG with a panel a law: runs left out of the fit pale, curves with their bootstrap bands."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    groups = list(dict.fromkeys(r.group for r in sorted(runs, key=lambda r: r.sparsity or 0.0)))
    colours = {group: f"C{i % 10}" for i, group in enumerate(groups)}
    lowest, highest = min(r.loss for r in runs), max(r.loss for r in runs)
    axes = figure.subplots(1, 3, sharey=True)
    for panel, law in zip(axes, _FORMULAS, strict=True):
        own = [fit for fit in fits if fit.law == law]
        at: Callable[[Run], float] = (lambda r: r.flops) if law == "L(C)" else (lambda r: r.n_latents)
        used = {r.folder for fit in own for r in fit.runs}
        panel.set_xscale("log", base=10 if law == "L(C)" else 2)
        panel.set(yscale="log", xlabel="C, training FLOPs" if law == "L(C)" else "N, latents")
        panel.set_title(law if any(fit.theta is not None for fit in own) else f"{law}: not fitted")
        for r in runs:
            panel.plot(at(r), r.loss, "o", color=colours[r.group], alpha=1 if r.folder in used else 0.25, markersize=4)
        for fit in own:
            _curves(panel, fit, at, colours)
    axes[0].set(ylabel="L, normalised MSE", ylim=(lowest / 1.15, highest * 1.15))
    for group in groups:
        axes[-1].plot([], [], "o-", color=colours[group], label=group, markersize=4)
    axes[-1].legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def _curves(panel: Any, fit: Fit, at: Callable[[Run], float], colours: dict[str, str]) -> None:
    import numpy as np

    for group in dict.fromkeys(r.group for r in fit.runs) if fit.theta is not None else ():
        own = [r for r in fit.runs if r.group == group]
        grid = np.geomspace(min(map(at, fit.runs)), max(map(at, fit.runs)), 100)
        middle, low, high = fit.curve(grid, float(np.exp(np.mean(np.log([r.sparsity or 1.0 for r in own])))))
        panel.plot(grid, middle, color=colours[group], linewidth=1.2)
        if low is not None and high is not None:
            panel.fill_between(grid, low, high, color=colours[group], alpha=0.2, linewidth=0)

"""Newton's probes on all latents of an SAE in every one of the 61 tasks whose texts the mirror holds.

As ``probes.py``, with the same peers, but on real texts: those of the suite as stories260K reads them, the last token of each, on
24,576 latents (random directions, TopK). Each task in turn goes to the three sides; seconds are the processor's. scikit-learn is
timed on a few latents of each task, drawn from those that fire, with the solver made for few columns and with its default, and
extrapolated to all that fire (``scikit_learn_all``: to the others, too, by its time for a column of zeros). Coefficients are
compared standardised, those of latents that part the classes as well, where the penalty alone keeps weights finite; the largest
slope of the objective at either side's answers says how near the optimum they are. A column that is the same in every text and
one that never fires are looked at besides: ours gives them the weight 0.

    python benchmarks/probe_suite.py --shared ../shared --json benchmarks/figures/probe_suite.json

``--shared`` is a folder with ``models/stories260K`` and ``data``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from probes import dense_newton, scikit_learn
from scipy.sparse import csc_array

from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.provenance import machine, versions
from saebench.studies.probes.acts import Reader, encode
from saebench.studies.probes.dictionaries import Latents, Probe
from saebench.studies.probes.examples import MissingProbe, ProbeExamples, load_examples
from saebench.studies.probes.newton import L2
from saebench.studies.probes.sparse import fit_sparse
from saebench.studies.truth.columns import random_dictionary

SITE = "blocks.3.hook_resid_pre"
SOLVER, DEFAULT = "newton-cholesky", "lbfgs"


def texts(shared: Path, limit: int | None) -> list[ProbeExamples]:
    """Return the tasks whose texts are there, with both classes in the training part."""
    found = [one for one in load_examples(seed=0, limit=limit, data_dir=shared / "data") if not isinstance(one, MissingProbe)]
    return [one for one in found if len(np.unique(one.labels[one.is_train])) == 2]


def probes(port: Port, tasks: list[ProbeExamples], context_length: int) -> list[Probe]:
    """Return the tasks with the acts of their texts."""
    reader = Reader(port, "last")
    made = []
    for task in tasks:
        acts = reader(encode(task.texts, port, context_length=context_length))
        made.append(Probe(name=task.name, labels=task.labels, is_train=task.is_train, acts=acts, pooled=acts.pooled("last")))
    return made


def one_task(matrix: csc_array, labels: np.ndarray, args: argparse.Namespace, rng: np.random.Generator) -> dict[str, Any]:
    """Return seconds and differences of one task."""
    start = time.process_time()
    (fits,) = fit_sparse([(matrix, labels)])
    ours = time.process_time() - start
    start = time.process_time()
    dense = np.stack(dense_newton(matrix, labels, block=args.block), 1)
    theirs = time.process_time() - start
    counts = np.diff(matrix.indptr)
    fire = np.flatnonzero(counts)
    sample = rng.choice(fire, min(args.sample, len(fire)), replace=False)
    each, fitted = scikit_learn(matrix, labels, sample, SOLVER)
    default, _ = scikit_learn(matrix, labels, sample, DEFAULT)
    nothing, _ = scikit_learn(csc_array((matrix.shape[0], 1)), labels, np.zeros(3, dtype=int), SOLVER)
    mean = np.asarray(matrix.sum(0)).ravel() / len(labels)
    deviation = np.sqrt(np.maximum(np.asarray(matrix.multiply(matrix).sum(0)).ravel() / len(labels) - mean**2, 0.0))
    mine = np.stack([fits.weight * deviation, fits.bias + fits.weight * mean], 1)
    slopes = [np.array([slope(matrix[:, [j]].toarray()[:, 0], labels, at) for j, at in zip(sample, some, strict=True)])
              for some in (mine[sample], fitted)]  # fmt: skip
    return {
        "ours": ours, "dense": theirs, "scikit_learn": each * len(fire),
        "scikit_learn_default": default * len(fire),
        "scikit_learn_all": each * len(fire) + nothing * (len(counts) - len(fire)),
        "fire": len(fire), "entries": int(counts.sum()),
        "separable": int(fits.separable.sum()), "unconverged": int((~fits.converged).sum()),
        "dense_gap": float(np.abs(mine - dense)[fire].max()), "scikit_learn_gap": float(np.abs(mine[sample] - fitted).max()),
        "ours_slope_gap": float(slopes[0].max()), "scikit_learn_slope_gap": float(slopes[1].max()),
        "separable_in_sample": int(fits.separable[sample].sum()), "sampled": len(sample),
    }  # fmt: skip


def slope(column: np.ndarray, labels: np.ndarray, at: np.ndarray) -> float:
    """Return the largest derivative of the objective, mean CE + L2 w² / 2, at a standardised (weight, bias); 0 at the optimum."""
    u = (column.astype(np.float64) - column.mean(dtype=np.float64)) / column.std(dtype=np.float64)
    off = 1 / (1 + np.exp(-(u * at[0] + at[1]))) - labels
    return float(max(abs((off * u).mean() + L2 * at[0]), abs(off.mean())))


def degenerate(labels: np.ndarray) -> None:
    """Stop if a column without a regression has another answer than weight 0 and the share of yes."""
    same, silent = np.full(len(labels), 2.0), np.zeros(len(labels))
    (fits,) = fit_sparse([(csc_array(np.stack([same, silent], 1)), labels)])
    share = np.log(labels.mean() / (1 - labels.mean()))
    if np.abs(fits.weight).max() or np.abs(fits.bias - share).max() > 1e-12:
        sys.exit(f"a column that says nothing has weight {fits.weight} and bias {fits.bias}, not 0 and {share}")


def main() -> None:
    """Measure every task and print a line for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--latents", type=int, default=24_576)
    parser.add_argument("--k", type=int, default=60)
    parser.add_argument("--context-length", type=int, default=128)
    parser.add_argument("--limit", type=int, help="texts of a task, at most")
    parser.add_argument("--block", type=int, default=1024, help="latents that the dense peer takes at a time")
    parser.add_argument("--sample", type=int, default=8, help="latents of each task that scikit-learn is timed on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    port = Port(load_model(str(args.shared / "models/stories260K"), device="cpu"), SITE)
    tasks = probes(port, texts(args.shared, args.limit), args.context_length)
    centre = torch.cat([task.pooled for task in tasks]).mean(0)
    latents = Latents(random_dictionary(centre, args.latents, args.k, seed=0), "last")
    rng, rows = np.random.default_rng(1), []
    warm = csc_array(latents.matrix(tasks[0])[tasks[0].is_train], dtype=np.float64)
    one_task(warm[:, :64], tasks[0].labels[tasks[0].is_train], args, rng)  # what the first call of all pays for
    for task in tasks:
        labels = task.labels[task.is_train]
        degenerate(labels)
        rows.append(one_task(csc_array(latents.matrix(task)[task.is_train], dtype=np.float64), labels, args, rng))
        print(
            task.name, len(labels), {key: float(f"{value:.3g}") for key, value in rows[-1].items()}, file=sys.stderr, flush=True
        )
    total = {key: sum(row[key] for row in rows) for key in rows[0] if not key.endswith("_gap")}
    row: dict[str, Any] = {
        "tasks": len(rows), "latents": args.latents, "k": args.k, "context_length": args.context_length, "block": args.block,
        "texts": sum(int(task.is_train.sum()) for task in tasks), "threads": args.threads,
        "latents_that_fire": total["fire"], "entries": total["entries"], "separable": total["separable"],
        "unconverged": total["unconverged"], "scikit_learn_solver": SOLVER,
        "scikit_learn_default_solver": DEFAULT, "scikit_learn_sample": total["sampled"],
        "scikit_learn_sample_separable": total["separable_in_sample"], "ours_s": round(total["ours"], 3),
    }  # fmt: skip
    for side in ("dense", "scikit_learn", "scikit_learn_default", "scikit_learn_all"):
        ratios = sorted(one[side] / one["ours"] for one in rows)
        row[f"{side}_s"] = round(total[side], 2)
        row[f"{side}_ratio"] = {
            "all": round(total[side] / total["ours"], 1), "min": round(ratios[0], 1), "max": round(ratios[-1], 1)
        }  # fmt: skip
    for side in ("dense", "scikit_learn"):
        row[f"{side}_largest_difference"] = max(one[f"{side}_gap"] for one in rows)
    for side in ("ours", "scikit_learn"):
        row[f"{side}_largest_slope"] = max(one[f"{side}_slope_gap"] for one in rows)
    print(json.dumps(row, indent=1))
    if args.json:
        args.json.write_text(json.dumps(row | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

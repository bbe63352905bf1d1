"""Newton's probes on all latents of one task against scikit-learn, one latent at a time, and against a dense batched Newton.

24,576 latents, 2,000 examples, 60 entries each, as in a task of 2,000 texts on an SAE of GPT-2 small. Each side in turn, every
round in this one process; seconds are the processor's. The dense peer is what one would write first in torch: Newton's method in
float64 on a block of latents at a time, zeros included, until the gradient is below 1e-9, without step halving. scikit-learn is
timed on a sample of the latents and extrapolated to all that fire; its columns are standardised beforehand, as ours are.

    python benchmarks/probes.py --json benchmarks/figures/probes.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from sklearn.linear_model import LogisticRegression

from saebench.provenance import machine, versions
from saebench.studies.probes.newton import L2
from saebench.studies.probes.sparse import fit_sparse


def make(latents: int, examples: int, entries: int, seed: int) -> tuple[csr_array, np.ndarray]:
    """Return latents whose frequencies fall as a power of their rank, some of which tell the classes apart, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.random(examples) < 0.5
    rates = (1.0 + np.arange(latents)) ** -0.6
    keys = np.log(rates) + rng.gumbel(size=(examples, latents)).astype(np.float32)
    keys[labels, ::50] += 1.5
    chosen = np.sort(np.argpartition(-keys, entries, axis=1)[:, :entries], axis=1)
    values = rng.exponential(size=chosen.shape).astype(np.float32) + 0.1
    offsets = np.arange(examples + 1) * entries
    return csr_array((values.ravel(), chosen.ravel(), offsets), shape=(examples, latents)), labels


def dense_newton(x: csc_array, labels: np.ndarray, *, block: int, steps: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Return (weights, biases) of standardised latents by a batched Newton that looks at every example, zeros included."""
    y = torch.from_numpy(labels.astype(np.float64))[:, None]
    size = len(x.indptr) - 1
    weights, biases = np.zeros(size), np.zeros(size)
    for start in range(0, size, block):
        some = torch.from_numpy(x[:, start : start + block].toarray()).double()
        deviation = some.std(0, correction=0).clamp(min=1e-12)
        u = (some - some.mean(0)) / deviation
        w, b = torch.zeros(u.shape[1]).double(), torch.full((u.shape[1],), float(torch.logit(y.mean()))).double()
        for _ in range(steps):
            p = torch.sigmoid(u * w + b)
            r, h = p - y, p * (1 - p)
            g_w, g_b = (r * u).mean(0) + L2 * w, r.mean(0)
            if max(g_w.abs().max(), g_b.abs().max()) < 1e-9:
                break
            hu = h * u
            h_ww, h_wb, h_bb = (hu * u).mean(0) + L2, hu.mean(0), h.mean(0)
            determinant = h_ww * h_bb - h_wb**2
            w, b = w - (h_bb * g_w - h_wb * g_b) / determinant, b - (h_ww * g_b - h_wb * g_w) / determinant
        weights[start : start + block], biases[start : start + block] = w.numpy(), b.numpy()
    return weights, biases


def scikit_learn(x: csc_array, labels: np.ndarray, sample: np.ndarray, solver: str) -> tuple[float, np.ndarray]:
    """Return (seconds a latent, coefficients) of the sample, one latent at a time, standardised."""
    found = []
    start = time.process_time()
    for j in sample:
        column = x[:, [j]].toarray().astype(np.float64)  # in float32 its Hessians are singular and it falls back to lbfgs
        u = (column - column.mean()) / max(column.std(), 1e-12)
        model = LogisticRegression(C=1 / (L2 * len(labels)), solver=solver, tol=1e-10, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(u, labels)
        found.append(np.append(model.coef_, model.intercept_))
    return (time.process_time() - start) / len(sample), np.array(found)


def memory(which: str, args: argparse.Namespace) -> int:
    """Return how many bytes a process of its own needs at its peak, above what it needs with the data alone."""
    told = [f"--{key}={getattr(args, key)}" for key in ("latents", "examples", "entries", "block")]
    done = subprocess.run([sys.executable, __file__, "--only", which, *told], capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def alone(args: argparse.Namespace) -> None:
    """Run one side once and print by how much the peak of this process has grown."""
    matrix, labels = make(args.latents, args.examples, args.entries, 0)
    columns = csc_array(matrix)
    fit_sparse([(columns[:, :8], labels)])  # what the libraries themselves take
    dense_newton(columns[:, :8], labels, block=8)
    with open("/proc/self/clear_refs", "w") as handle:
        handle.write("5")  # the peak begins anew
    before = _status("VmRSS")
    if args.only == "ours":
        fit_sparse([(matrix, labels)])
    else:
        dense_newton(columns, labels, block=args.block)
    print(_status("VmHWM") - before)


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure the three sides in turn, ``--rounds`` times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=24_576)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--entries", type=int, default=60)
    parser.add_argument("--block", type=int, default=1024, help="latents that the dense peer takes at a time")
    parser.add_argument("--sample", type=int, default=150, help="latents that scikit-learn is timed on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["ours", "dense"], help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        return alone(args)
    matrix, labels = make(args.latents, args.examples, args.entries, 0)
    columns = csc_array(matrix)
    fire = np.flatnonzero(np.diff(columns.indptr))
    sample = np.random.default_rng(1).choice(fire, args.sample, replace=False)
    seconds: dict[str, list[float]] = {"ours": [], "dense": [], "newton-cholesky": [], "lbfgs": []}
    found: dict[str, Any] = {}
    (fits,) = fit_sparse([(matrix, labels)])  # once, so that no round pays for what is loaded at first use
    for _ in range(args.rounds):
        start = time.process_time()
        fit_sparse([(matrix, labels)])
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        found["dense"] = np.stack(dense_newton(columns, labels, block=args.block), 1)
        seconds["dense"].append(time.process_time() - start)
        for solver in ("newton-cholesky", "lbfgs"):
            each, found[solver] = scikit_learn(columns, labels, sample, solver)
            seconds[solver].append(each * len(fire))
    dense = matrix.toarray().astype(np.float64)
    deviation = dense.std(0)
    mine = np.stack([fits.weight * deviation, fits.bias + fits.weight * dense.mean(0)], 1)
    row: dict[str, Any] = {
        "latents": args.latents, "examples": args.examples, "entries": args.entries, "rounds": args.rounds,
        "threads": args.threads, "latents_that_fire": len(fire), "separable": int(fits.separable.sum()),
        "unconverged": int((~fits.converged).sum()), "scikit_learn_sample": args.sample, "dense_block": args.block,
    }  # fmt: skip
    for name, times in seconds.items():
        row[f"{name}_s"] = round(statistics.median(times), 4)
        if name != "ours":
            ratios = sorted(theirs / ours for theirs, ours in zip(times, seconds["ours"], strict=True))
            row[f"{name}_ratio"] = {
                "median": round(statistics.median(ratios), 1), "min": round(ratios[0], 1), "max": round(ratios[-1], 1)
            }  # fmt: skip
            there = mine[fire] if name == "dense" else mine[sample]
            other = found[name][fire] if name == "dense" else found[name]
            row[f"{name}_largest_difference"] = float(np.abs(there - other).max())
    row["ours_peak_mb"] = round(memory("ours", args) / 1e6, 1)
    row["dense_peak_mb"] = round(memory("dense", args) / 1e6, 1)
    row["examples_x_latents_float64_mb"] = round(args.examples * args.latents * 8 / 1e6, 1)
    print(json.dumps(row, indent=1))
    if args.json:
        args.json.write_text(json.dumps(row | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

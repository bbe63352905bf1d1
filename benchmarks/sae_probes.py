"""The protocol ``sae_probes`` against the package sae-probes 0.4.2, in turn, on the same acts of its own data sets.

Processor seconds a data set, from acts on disk to scores: the split, the latents, which of them are taken, ten values of C each
for every k. The SAE is one that ships with saebench (1,024 latents, 32 of them ≠ 0), or one of 24,576 random directions with as
many ≠ 0 on the same acts. What is loaded at first use is loaded before on both sides.

    python benchmarks/sae_probes.py --peers .venv-peers/bin/python --json benchmarks/figures/sae_probes.json

``--peers`` is the interpreter of an environment with sae-probes; its data sets are read from there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch

from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.provenance import machine, versions
from saebench.reference import ROOT
from saebench.sae import SAE, load_sae
from saebench.sae.export import export_sae
from saebench.studies.probes import package
from saebench.studies.probes.acts import Reader, TextActs, encode
from saebench.studies.probes.deal import deal_as_sae_probes
from saebench.studies.probes.dictionaries import Latents, Probe
from saebench.studies.probes.ksparse import held_out
from saebench.studies.probes.protocol import KSparseFound
from saebench.studies.truth.columns import random_dictionary

HERE = Path(__file__).resolve().parent
SETS = ["117_us_state_FL", "131_temp_cat_Typical Time", "133_context_type_Causality", "24_headline_isiran"]
FEW, ALL = [1, 2, 5, 16], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
CASES: list[tuple[str, str, list[int], list[str]]] = [
    ("small", "l1", FEW, SETS),
    ("small", "l2", FEW, SETS),
    ("wide", "l1", FEW, SETS[1:3]),
    ("small", "l1", ALL, SETS[2:3]),
]
"""SAE, penalty, ks, data sets; the last case is run once."""


def ours(folder: Path, sae: SAE, labels: dict[str, np.ndarray], hook: str, norm: Any, ks: list[int], sets: list[str]) -> Any:
    """Return seconds and test AUCs by data set."""
    found = {}
    for number, name in enumerate([sets[0], *sets]):
        start = time.process_time()
        acts = torch.load(folder / f"acts/model_activations_model/{name}_{hook}.pt", weights_only=True)
        dealt = deal_as_sae_probes(labels[name], seed=42)
        some = acts[torch.from_numpy(dealt.chosen)]
        probe = Probe(
            name=name, labels=labels[name][dealt.chosen], is_train=dealt.is_train, pooled=some,
            acts=TextActs(acts=some, offsets=np.arange(len(some) + 1)),
        )  # fmt: skip
        one = KSparseFound(ks=ks if number else [1], norm=norm, dictionary=Latents(sae, "last"))
        one.add(probe, held_out(int(dealt.is_train.sum()), None))
        seconds = time.process_time() - start
        found[name] = {"seconds": seconds, "auc": {k: probe.auc for k, probe in one.probes[0].items()}}
    return found


def theirs(folder: Path, args: argparse.Namespace, asked: dict[str, Any]) -> Any:
    """Return the same of the package."""
    file = folder / "asked.json"
    file.write_text(json.dumps(asked | {"threads": args.threads}))
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    env |= {name: str(args.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    words = [args.peers, str(HERE / "peers/sae_probes_k_sparse.py"), str(folder), str(file)]
    done = subprocess.run(words, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"sae_probes failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def prepared(folder: Path, peers: str) -> tuple[dict[str, SAE], dict[str, np.ndarray], str]:
    """Write acts and SAEs as the package reads them; return the SAEs, the labels by data set, and the hook."""
    told = "import importlib.util as u; print(u.find_spec('sae_probes').submodule_search_locations[0])"
    where = subprocess.run([peers, "-c", told], capture_output=True, text=True, check=True).stdout.strip()
    spec = SimpleNamespace(submodule_search_locations=[where])
    small = load_sae(ROOT / "saes/topk-layer3")
    hook = str(small.config.site)
    port = Port(load_model(str(ROOT / "model"), device="cpu"), hook)
    reader, labels, mean = Reader(port, "last"), {}, torch.zeros(small.config.d_in)
    (folder / "acts/model_activations_model").mkdir(parents=True)
    for name in SETS:
        with mock.patch.object(package.importlib.util, "find_spec", lambda _: spec):
            rows, _ = package.package_rows(name, None, None)
        acts = reader(encode([row["prompt"] for row in rows], port)).acts
        torch.save(acts.clone(), folder / f"acts/model_activations_model/{name}_{hook}.pt")
        labels[name] = np.array([row["positive"] for row in rows])
        mean += acts.mean(0) / len(SETS)
    saes = {"small": small, "wide": random_dictionary(mean, 24_576, 32, seed=0)}
    for name, sae in saes.items():
        export_sae(sae, folder / name, "saelens")
    return saes, labels, hook


def main() -> None:
    """Measure every case, the two sides in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saes, labels, hook = prepared(folder, args.peers)
        for number in args.cases:
            which, norm, ks, sets = CASES[number]
            rounds = args.rounds if ks == FEW else 1
            asked = {"sae": which, "hook": hook, "norm": norm, "ks": ks, "sets": sets}
            seconds: list[tuple[float, float]] = []
            differences: list[float] = []
            for _ in range(rounds):
                own, other = ours(folder, saes[which], labels, hook, norm, ks, sets), theirs(folder, args, asked)
                seconds += [(own[one]["seconds"], other[one]["seconds"]) for one in sets]
                differences += [abs(own[one]["auc"][k] - other[one]["auc"][str(k)]) for one in sets for k in ks]
            ratios = sorted(b / a for a, b in seconds)
            row = {
                "latents": saes[which].config.d_sae, "norm": norm, "ks": ks, "sets": len(sets), "rounds": rounds,
                "threads": args.threads,
                "saebench_s_per_set": round(statistics.mean(a for a, _ in seconds), 4),
                "sae_probes_s_per_set": round(statistics.mean(b for _, b in seconds), 3),
                "ratio_of_sums": round(sum(b for _, b in seconds) / sum(a for a, _ in seconds), 1),
                "ratio_min": round(ratios[0], 1), "ratio_max": round(ratios[-1], 1),
                "auc_difference_median": round(statistics.median(differences), 6),
                "auc_difference_max": round(max(differences), 4),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            table.append(row)
    if args.json:
        args.json.write_text(json.dumps({"cases": table, "machine": machine("cpu"), "versions": versions()}, indent=1) + "\n")


if __name__ == "__main__":
    main()

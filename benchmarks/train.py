"""``saebench train`` against the trainers of sae-lens, sparsify and dictionary-learning, on the same acts, in one run.

    python benchmarks/train.py quality|dead|speed|memory --peers .venv-peers/bin/python --shared ../shared

``quality``: FVU of TopK SAEs and the L0–explained-variance front of ReLU SAEs at an equal number of tokens, three seeds, all
scored by saebench on the same held-out contexts. ``dead``: what is done for dead latents. ``speed``: seconds of a training step
alone and of the whole pipeline, in turn. ``memory``: peak memory at several sizes. Results go to ``figures/train_<what>.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SITE, HOOKPOINT = "blocks.3.hook_resid_pre", "layers.2"
LRS = (3e-3, 1e-2)
SEEDS = (0, 1, 2)


def call(python: str, script: str, *words: object) -> Any:
    """Run a script and return the JSON object on its last line."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "SPARSIFY_DISABLE_TRITON": "1"}
    command = [python, str(HERE / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


class Field:
    """stories260K, its TinyStories contexts cut into training and held-out ones, and the acts of the former."""

    def __init__(self, shared: Path, folder: Path, held_out: int = 256) -> None:
        from saebench.data import CorpusSpec, build_corpus
        from saebench.lm.model import load_model
        from saebench.lm.port import Port

        self.path, self.folder = shared / "models/stories260K", folder
        self.model = load_model(str(self.path), device="cpu")
        spec = CorpusSpec(source="roneneldan/TinyStories", context_length=128)
        corpus = build_corpus(
            spec, self.model.tokenizer, seed=0, max_context=512, vocab_size=self.model.d_vocab, limit=40_000,
            data_dir=shared / "data",
        )  # fmt: skip
        tokens = corpus.tokens.numpy()
        self.train, self.held_out = folder / "train.npy", folder / "held_out.npy"
        np.save(self.train, tokens[:-held_out])
        np.save(self.held_out, tokens[-held_out:])
        self.port = Port(self.model, SITE)
        parts = [self.port.clean(part, final=False).acts[:, 1:].flatten(0, 1) for part in corpus.tokens[:-held_out].split(64)]
        self.acts = folder / "acts.npy"
        np.save(self.acts, np.concatenate([p.numpy() for p in parts]))
        self.n_contexts = len(tokens)

    def score(self, folder: Path) -> dict[str, float]:
        """Return explained variance and L0 on the held-out contexts."""
        from saebench.data import CorpusSpec, build_corpus
        from saebench.registry import METRICS
        from saebench.sae import load_sae
        from saebench.stream import Pass

        spec = CorpusSpec(source=str(self.held_out))
        corpus = build_corpus(spec, self.model.tokenizer, seed=0, max_context=512, vocab_size=self.model.d_vocab)
        metrics = [METRICS.get(name) for name in ("reconstruction", "sparsity")]
        [result] = Pass(self.port, [load_sae(folder)], metrics, corpus).run()
        scores = {s.name: s.value for part in result.results for s in part.scores}
        return {"fvu": 1 - scores["explained_variance"], "l0": scores["l0"], "frac_alive": scores["frac_alive"]}  # type: ignore[operator,dict-item]

    def ours(self, name: str, recipe: str, tokens: int, seed: int, **settings: object) -> dict[str, float]:
        """Train with saebench and return the scores."""
        from saebench.trainers.run import train

        out = self.folder / name
        values = {
            "model": str(self.path), "site": SITE, "corpus": str(self.train), "out": out, "context_length": 128, "tokens": tokens,
            "d_sae": 512, "seed": seed, "device": "cpu", "tensorboard": False, "checkpoint_every": 0, "eval_contexts": 8,
        }  # fmt: skip
        train(recipe, values | settings)
        return self.score(out)


def spread(values: list[float]) -> dict[str, float]:
    """Return mean, least and largest."""
    return {"mean": round(statistics.mean(values), 5), "min": round(min(values), 5), "max": round(max(values), 5)}


def quality(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare at an equal number of tokens; every side's learning rate is the better of two on seed 0."""
    field, n = Field(args.shared, folder), args.tokens

    def mine(lr: float, seed: int) -> dict[str, float]:
        return field.ours(f"ours-{lr}-{seed}", "topk", n, seed, k=8, lr=lr, lr_decay_share=0.8, lr_warmup_steps=50)

    def sae_lens(lr: float, seed: int) -> dict[str, float]:
        out = folder / f"saelens-{lr}-{seed}"
        call(
            args.peers, "peers/train_sae_lens.py", "quality", "--acts", field.acts, "--tokens", n, "--k", 8, "--lr", lr,
            "--seed", seed, "--out", out,
        )  # fmt: skip
        return field.score(out)

    def sparsify(optimizer: str) -> Any:
        def run(lr: float, seed: int) -> dict[str, float]:
            out = folder / f"sparsify-{optimizer}-{lr}-{seed}"
            call(
                args.peers, "peers/train_sparsify.py", "quality", "--acts", field.train, "--tokens", n, "--k", 8, "--lr", lr,
                "--seed", seed, "--out", out, "--model", field.path, "--optimizer", optimizer, "--auxk", 1 / 32,
                "--hookpoint", HOOKPOINT,
            )  # fmt: skip
            return field.score(out / HOOKPOINT)

        return run

    topk = {}
    sides = {
        "saebench topk": (mine, (1e-2, 2e-2)), "sae_lens topk": (sae_lens, LRS), "sparsify topk (adam)": (sparsify("adam"), LRS),
        "sparsify topk (signum, its default)": (sparsify("signum"), (0.0, 1e-2)),
    }  # fmt: skip
    for name, (run, lrs) in sides.items():
        first = {lr: run(lr, 0) for lr in lrs}
        lr = min(first, key=lambda rate: first[rate]["fvu"])
        found = [first[lr], *(run(lr, seed) for seed in SEEDS[1:])]
        topk[name] = {"lr": lr, "fvu": spread([f["fvu"] for f in found]), "frac_alive": spread([f["frac_alive"] for f in found])}
        print(json.dumps({name: topk[name]}), flush=True)
    front: dict[str, list[dict[str, Any]]] = {"saebench relu-l1": [], "sae_lens standard": []}
    acts = np.load(field.acts, mmap_mode="r")[:50_000]
    size = float(np.sqrt(np.square(acts).sum(1).mean()))
    for l1 in (0.5, 1.5, 3.0):  # on the summed error of the raw acts, sae_lens' way; ours: mean error, acts of mean square 1
        for seed in SEEDS:
            got = field.ours(
                f"relu-{l1}-{seed}", "relu-l1", n, seed, l1=l1 / 64 / size, lr=1e-2, lr_decay_share=0.3, norm="unit",
            )  # fmt: skip
            front["saebench relu-l1"].append({"l1": l1, "seed": seed, **got})
            out = folder / f"standard-{l1}-{seed}"
            call(
                args.peers, "peers/train_sae_lens.py", "quality", "--recipe", "standard", "--acts", field.acts, "--tokens", n,
                "--l1", l1, "--lr", 3e-3, "--seed", seed, "--out", out,
            )  # fmt: skip
            front["sae_lens standard"].append({"l1": l1, "seed": seed, **field.score(out)})
            print(json.dumps({name: rows[-1] for name, rows in front.items()}), flush=True)
    return {"tokens": n, "contexts": field.n_contexts, "topk": topk, "front": front}


def dead(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train wide SAEs, 32 latents a dimension, with and without what keeps latents alive; dead: silent on 500k tokens."""
    field, n = Field(args.shared, folder, held_out=4096), args.tokens
    rows = []
    wide = {"d_sae": 32 * 64, "lr_decay_share": 0.5, "lr": 5e-3}
    relu = {**wide, "l1": 0.0034, "norm": "unit"}
    for name, recipe, settings in [
        ("topk, AuxK", "topk", {**wide, "k": 8}),
        ("topk, no AuxK", "topk", {**wide, "k": 8, "aux_coefficient": 0.0}),
        ("relu-l1, ghost", "relu-l1", {**relu, "dead": "ghost"}),
        ("relu-l1, resample", "relu-l1", {**relu, "dead": "resample"}),
        ("relu-l1, none", "relu-l1", {**relu, "dead": "none"}),
    ]:
        got = field.ours(name.replace(" ", "").replace(",", "-"), recipe, n, 0, **settings)
        rows.append(
            {"run": name, "dead_share": round(1 - got["frac_alive"], 4), "fvu": round(got["fvu"], 4), "l0": round(got["l0"], 2)}
        )
        print(json.dumps(rows[-1]), flush=True)
    return {"tokens": n, "d_sae": 32 * 64, "rows": rows}


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time steps and pipelines, all sides in turn, ``--rounds`` times."""
    from core import random_gpt2

    size = ["--d-sae", 24_576, "--k", 32, "--steps", args.steps, "--threads", args.threads]
    steps = {
        "saebench": (sys.executable, "ours_train.py", []),
        "sparsify (signum)": (args.peers, "peers/train_sparsify.py", []),
        "sparsify (adam)": (args.peers, "peers/train_sparsify.py", ["--optimizer", "adam"]),
        "sae_lens": (args.peers, "peers/train_sae_lens.py", []),
        "sae_lens (sparse)": (args.peers, "peers/train_sae_lens.py", ["--sparse"]),
        "dictionary_learning": (args.peers, "peers/train_dictionary_learning.py", []),
    }
    model = random_gpt2(args.shared / "models/gpt2-tokenizer", folder / "gpt2")
    tokens = folder / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 50_256, (2048, 128)))
    common = ["--model", model, "--acts", tokens]
    pipes = {
        "saebench": (sys.executable, "ours_train.py", ["--site", f"blocks.{args.layer}.hook_resid_pre"]),
        "sparsify (signum)": (args.peers, "peers/train_sparsify.py", ["--hookpoint", f"h.{args.layer - 1}"]),
        "sae_lens (sparse)": (
            args.peers,
            "peers/train_sae_lens.py",
            ["--sparse", "--site", f"blocks.{args.layer}.hook_resid_pre"],
        ),
    }
    found: dict[str, Any] = {"layer": args.layer, "rounds": args.rounds, "batch": 4096, "d_model": 768, "d_sae": 24_576, "k": 32}
    ceiling = []
    times: dict[str, dict[str, list[float]]] = {"step": {}, "pipeline": {}}
    for _ in range(args.rounds):
        ceiling.append(call(sys.executable, "matmul_ceiling.py", "--threads", args.threads)["gflops"])
        for mode, sides, more in (("step", steps, []), ("pipeline", pipes, common)):
            for name, (python, script, words) in sides.items():
                got = call(python, script, mode, *size, *more, *words)
                times[mode].setdefault(name, []).append(statistics.median(got["seconds"]))
                print(json.dumps({mode: name, "seconds": round(times[mode][name][-1], 3)}), flush=True)
    found["matmul_gflops"] = round(statistics.median(ceiling), 1)
    for mode, sides in times.items():
        own = sides["saebench"]
        found[mode] = {
            name: {
                "tokens_per_second": round(4096 / statistics.median(seconds)),
                "times_saebench": round(statistics.median(s / o for s, o in zip(seconds, own, strict=True)), 2),
            }
            for name, seconds in sides.items()
        }
    flops = 2 * 4096 * 768 * 24_576
    found["encoder_share_of_ceiling"] = round(
        flops / statistics.median(times["step"]["saebench"]) / 1e9 / found["matmul_gflops"], 3
    )
    return found


def memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory of a step at several sizes; parameters, gradients and Adam's two moments are 4 × 2 × D × S floats."""
    rows = []
    for d_sae, batch in [(12_288, 4096), (24_576, 4096), (24_576, 8192), (49_152, 4096), (24_576, 16_384)]:
        got = call(
            sys.executable, "ours_train.py", "step", "--d-sae", d_sae, "--batch", batch, "--k", 32, "--steps", 2, "--threads",
            args.threads,
        )  # fmt: skip
        state = 4 * 2 * 768 * d_sae * 4
        rows.append({
            "d_sae": d_sae, "batch": batch, "peak_gb": round(got["peak_rss"] / 1e9, 2), "parameters_gradients_moments_gb":
            round(state / 1e9, 2), "batch_x_d_sae_gb": round(batch * d_sae * 4 / 1e9, 2),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return {"k": 32, "d_model": 768, "rows": rows}


def main() -> None:
    """Measure one thing and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "dead", "speed", "memory"])
    parser.add_argument("--peers", default=".venv-peers/bin/python")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.shared = args.shared.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = {"quality": quality, "dead": dead, "speed": speed, "memory": memory}[args.what](args, Path(folder))
    from saebench.provenance import machine, versions

    (HERE / f"figures/train_{args.what}.json").write_text(
        json.dumps(found | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

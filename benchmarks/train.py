"""``saebench train`` against the trainers of sae-lens, sparsify and dictionary-learning, in one run.

    python benchmarks/train.py quality|dead|speed|pipeline|memory --peers .venv-peers/bin/python --shared ../shared

``quality``: FVU of TopK SAEs and the L0–explained-variance front of ReLU SAEs at an equal number of tokens, three seeds. Every
side has as many learning rates to choose from, and chooses on contexts that are neither trained on nor scored. ``dead``: what is
done for dead latents. ``speed``: seconds of a training step alone; ``pipeline``: with the model in front, all sides in turn.
``memory``: peak memory at several sizes. Results go to ``figures/train_<what>.json``.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SITE, HOOKPOINT = "blocks.3.hook_resid_pre", "layers.2"
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
    """stories260K, its contexts of TinyStories for training, for choosing and for scoring, and the acts of the first."""

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
        self.files = {name: folder / f"{name}.npy" for name in ("train", "choose", "score")}
        for name, part in zip(self.files, np.split(tokens, [-2 * held_out, -held_out]), strict=True):
            np.save(self.files[name], part)
        self.train = self.files["train"]
        self.port = Port(self.model, SITE)
        batches = corpus.tokens[: -2 * held_out].split(64)
        parts = [self.port.clean(part, final=False).acts[:, 1:].flatten(0, 1) for part in batches]
        self.acts = folder / "acts.npy"
        np.save(self.acts, np.concatenate([p.numpy() for p in parts]))
        self.contexts = {"trained": len(tokens) - 2 * held_out, "chosen_on": held_out, "scored_on": held_out}

    def score(self, folder: Path, part: str = "score") -> dict[str, float]:
        """Return FVU, L0 and the share of latents that fire on the contexts for scoring, or on those for choosing."""
        from saebench.data import CorpusSpec, build_corpus
        from saebench.registry import METRICS
        from saebench.sae import load_sae
        from saebench.stream import Pass

        spec = CorpusSpec(source=str(self.files[part]))
        corpus = build_corpus(spec, self.model.tokenizer, seed=0, max_context=512, vocab_size=self.model.d_vocab)
        metrics = [METRICS.get(name) for name in ("reconstruction", "sparsity")]
        [result] = Pass(self.port, [load_sae(folder)], metrics, corpus).run()
        scores = {s.name: s.value for part in result.results for s in part.scores}
        return {"fvu": 1 - scores["explained_variance"], "l0": scores["l0"], "frac_alive": scores["frac_alive"]}  # type: ignore[operator,dict-item]

    def ours(self, name: str, recipe: str, tokens: int, seed: int, **settings: object) -> Path:
        """Train with saebench and return the folder."""
        from saebench.trainers.run import train

        out = self.folder / name
        values = {
            "model": str(self.path), "site": SITE, "corpus": str(self.train), "out": out, "context_length": 128, "tokens": tokens,
            "d_sae": 512, "seed": seed, "device": "cpu", "tensorboard": False, "checkpoint_every": 0, "eval_contexts": 8,
        }  # fmt: skip
        train(recipe, values | settings)
        return out


def spread(values: list[float]) -> dict[str, float]:
    """Return mean, least and largest."""
    return {"mean": round(statistics.mean(values), 5), "min": round(min(values), 5), "max": round(max(values), 5)}


Trainer = Callable[[float, float, int], Path]
"""Trains with a penalty (0 for TopK), a learning rate and a seed, and returns the folder."""


def topk_sides(args: argparse.Namespace, field: Field) -> dict[str, tuple[Trainer, tuple[float, ...]]]:
    """Return how each side trains a TopK SAE with k = 8, and its learning rates; 0 is sparsify's own for signum."""
    n, folder = args.tokens, field.folder

    def mine(_: float, lr: float, seed: int) -> Path:
        return field.ours(f"ours-{lr}-{seed}", "topk", n, seed, k=8, lr=lr, lr_decay_share=0.8, lr_warmup_steps=50)

    def sae_lens(_: float, lr: float, seed: int) -> Path:
        out = folder / f"saelens-{lr}-{seed}"
        words = ["--acts", field.acts, "--tokens", n, "--k", 8, "--lr", lr, "--seed", seed, "--out", out]
        call(args.peers, "peers/train_sae_lens.py", "quality", *words)
        return out

    def sparsify(optimizer: str) -> Trainer:
        def run(_: float, lr: float, seed: int) -> Path:
            out = folder / f"sparsify-{optimizer}-{lr}-{seed}"
            call(
                args.peers, "peers/train_sparsify.py", "quality", "--acts", field.train, "--tokens", n, "--k", 8, "--lr", lr,
                "--seed", seed, "--out", out, "--model", field.path, "--optimizer", optimizer, "--auxk", 1 / 32,
                "--hookpoint", HOOKPOINT,
            )  # fmt: skip
            return out / HOOKPOINT

        return run

    return {
        "saebench topk": (mine, (1e-2, 2e-2, 4e-2)),
        "sae_lens topk": (sae_lens, (1e-2, 2e-2, 4e-2)),
        "sparsify topk (adam)": (sparsify("adam"), (1e-2, 2e-2, 4e-2)),
        "sparsify topk (signum, its default)": (sparsify("signum"), (0.0, 5e-3, 1e-2)),
    }


def relu_sides(args: argparse.Namespace, field: Field) -> dict[str, tuple[Trainer, tuple[float, ...]]]:
    """Return how each side trains a ReLU SAE, and its learning rates.

    The penalty is sae-lens' way, on the summed error of the raw acts; ours is on the mean error of acts of mean square 1.
    """
    n = args.tokens
    acts = np.load(field.acts, mmap_mode="r")[:50_000]
    size = float(np.sqrt(np.square(acts).sum(1).mean()))

    def mine(l1: float, lr: float, seed: int) -> Path:
        settings = {
            "l1": l1 / 64 / size, "lr": lr, "lr_decay_share": 0.3, "norm": "unit", "batch_size": RELU_BATCH,
            "encoder_lr_scale": 3.0, "bias_lr_scale": 10.0, "l1_warmup_share": L1_RISE, "grad_clip": 0.005, "dead": "none",
            "spike": 0,
        }  # fmt: skip
        return field.ours(f"relu-{l1}-{lr}-{seed}", "relu-l1", n, seed, **settings)

    def sae_lens(l1: float, lr: float, seed: int) -> Path:
        out = field.folder / f"standard-{l1}-{lr}-{seed}"
        words = ["--acts", field.acts, "--tokens", n, "--l1", l1, "--lr", lr, "--seed", seed, "--out", out]
        words += ["--batch", RELU_BATCH, "--l1-rise", L1_RISE, "--threads", args.threads]
        call(args.peers, "peers/train_sae_lens.py", "quality", "--recipe", "standard", *words)
        return out

    return {"saebench relu-l1": (mine, (5e-3, 1e-2, 2e-2)), "sae_lens standard": (sae_lens, (5e-3, 1e-2, 2e-2))}


RELU_BATCH = 1024
L1_RISE = 0.2
"""Share of a run over which the penalty rises from 0; both were chosen for both sides: they help either."""
PENALTIES = (0.5, 1.0, 2.0, 3.0)
BETWEEN = (0.25, 0.7)
"""Penalties that are added once the learning rate is chosen, where fronts would else be compared over long chords."""
MIDDLE = 6.0
"""L0 at which fronts are compared to choose a learning rate."""


def height(front: list[dict[str, float]], l0: float) -> float:
    """Return a front's explained variance at ``l0``, linear in ln L0 between its points."""
    points = sorted((math.log(row["l0"]), 1 - row["fvu"]) for row in front)
    return float(np.interp(math.log(l0), [x for x, _ in points], [y for _, y in points]))


def means(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return a front's points: means over seeds, in the order of their penalties."""
    keys = ("l1", "fvu", "l0", "frac_alive")
    return [
        {key: statistics.mean(r[key] for r in rows if r["l1"] == l1) for key in keys} for l1 in sorted({r["l1"] for r in rows})
    ]


def margins(mine: list[dict[str, float]], other: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return by how much our front lies above the other, at each point of either that lies within both."""
    least = max(min(row["l0"] for row in front) for front in (mine, other))
    most = min(max(row["l0"] for row in front) for front in (mine, other))
    at = sorted(row["l0"] for row in mine + other if least <= row["l0"] <= most)
    return [{"l0": round(l0, 2), "explained_variance_above": round(height(mine, l0) - height(other, l0), 5)} for l0 in at]


def kept() -> dict[str, Any]:
    """Return the figures of earlier runs."""
    return json.loads((HERE / "figures/train_quality.json").read_text())


def quality(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare at an equal number of tokens; learning rates are chosen with seed 0 on contexts that are not scored."""
    field = Field(args.shared, folder)
    found: dict[str, Any] = {"tokens": args.tokens, "contexts": field.contexts, "topk": {}, "front": {}}
    if args.side and any(kept()[key] != found[key] for key in ("tokens", "contexts")):
        sys.exit("the figures there are of another budget; leave --side out")
    for name, (run, lrs) in topk_sides(args, field).items():
        if args.side and name not in args.side:
            continue
        run = functools.cache(run)
        tried = {lr: field.score(run(0.0, lr, 0), "choose")["fvu"] for lr in lrs}
        lr = min(tried, key=lambda rate: tried[rate])
        scores = [field.score(run(0.0, lr, seed)) for seed in SEEDS]
        spreads = {key: spread([f[key] for f in scores]) for key in ("fvu", "frac_alive")}
        found["topk"][name] = {"lr": lr, "tried": tried, **spreads}
        print(json.dumps({name: found["topk"][name]}), flush=True)
    for name, (run, lrs) in relu_sides(args, field).items():
        if args.side and name not in args.side:
            continue
        run = functools.cache(run)
        tried = {lr: height([field.score(run(l1, lr, 0), "choose") for l1 in PENALTIES], MIDDLE) for lr in lrs}
        lr = max(tried, key=lambda rate: tried[rate])
        rows = [{"l1": l1, "seed": seed, **field.score(run(l1, lr, seed))} for l1 in (*PENALTIES, *BETWEEN) for seed in SEEDS]
        found["front"][name] = {"lr": lr, "tried": tried, "rows": rows, "means": means(rows)}
        print(json.dumps({name: found["front"][name]}), flush=True)
    if args.side:  # the other sides stay as they are
        found |= {key: kept()[key] | found[key] for key in ("topk", "front")}
    fronts = [found["front"][name]["means"] for name in ("saebench relu-l1", "sae_lens standard")]
    return found | {"front_margins": margins(*fronts)}


def dead(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train wide SAEs, 32 latents a dimension, with and without what keeps latents alive; dead: silent on all training text."""
    field, n = Field(args.shared, folder), args.tokens
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
        made = field.ours(name.replace(" ", "").replace(",", "-"), recipe, n, 0, **settings)
        silent, got = 1 - field.score(made, "train")["frac_alive"], field.score(made)
        rows.append({"run": name, "dead_share": round(silent, 4), "fvu": round(got["fvu"], 4), "l0": round(got["l0"], 2)})
        print(json.dumps(rows[-1]), flush=True)
    return {"tokens": n, "d_sae": 32 * 64, "contexts": field.contexts, "rows": rows}


def turns(args: argparse.Namespace, mode: str, sides: dict[str, tuple[str, str, list[Any]]], words: list[Any]) -> dict[str, Any]:
    """Time the sides in turn, ``--rounds`` times; seconds of a step are the mean of a call, ratios are taken round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks: dict[str, float] = {}
    ceiling = []
    for _ in range(args.rounds):
        ceiling.append(call(sys.executable, "matmul_ceiling.py", "--threads", args.threads)["gflops"])
        for name, (python, script, more) in sides.items():
            got = call(python, script, mode, "--d-sae", 24_576, "--k", 32, "--threads", args.threads, *words, *more)
            seconds[name].append(statistics.mean(got["seconds"]))
            peaks[name] = max(peaks.get(name, 0.0), got["peak_rss"] / 1e9)
            print(json.dumps({mode: name, "seconds": round(seconds[name][-1], 3)}), flush=True)
    own = seconds["saebench"]
    table = {
        name: {
            "seconds": spread(times), "tokens_per_second": round(4096 / statistics.mean(times)),
            "times_saebench": spread([s / o for s, o in zip(times, own, strict=True)]), "peak_gb": round(peaks[name], 2),
        }
        for name, times in seconds.items()
    }  # fmt: skip
    gflops = statistics.median(ceiling)
    product = 2 * 4096 * 768 * 24_576 / 1e9  # the encoder's
    return {
        "rounds": args.rounds, "batch": 4096, "d_model": 768, "d_sae": 24_576, "k": 32, "matmul_gflops": round(gflops, 1),
        "encoder_product_seconds_at_ceiling": round(product / gflops, 3), "sides": table,
    }  # fmt: skip


def speed(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time training steps on given acts; sae-lens' sparse activations do not run on a CPU."""
    del folder
    peer = "peers/train_{}.py".format
    sides = {
        "saebench": (sys.executable, "ours_train.py", []),
        "sparsify (signum)": (args.peers, peer("sparsify"), []),
        "sparsify (adam)": (args.peers, peer("sparsify"), ["--optimizer", "adam"]),
        "sae_lens": (args.peers, peer("sae_lens"), []),
        "dictionary_learning": (args.peers, peer("dictionary_learning"), []),
    }
    found = turns(args, "step", sides, ["--steps", args.steps])
    own = found["sides"]["saebench"]["seconds"]["mean"]
    return found | {"encoder_share_of_step": round(found["encoder_product_seconds_at_ceiling"] / own, 3)}


def pipeline(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time whole pipelines on a GPT-2 small with random weights; the steps are whole periods of each side's buffer."""
    from core import random_gpt2

    model = random_gpt2(args.shared / "models/gpt2-tokenizer", folder / "gpt2")
    tokens = folder / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 50_256, (2048, 128)))
    hook = ["--site", f"blocks.{args.layer}.hook_resid_pre"]
    sides = {
        "saebench": (sys.executable, "ours_train.py", [*hook, "--steps", 12]),
        "sparsify (signum)": (args.peers, "peers/train_sparsify.py", ["--hookpoint", f"h.{args.layer - 1}", "--steps", 6]),
        "sae_lens": (args.peers, "peers/train_sae_lens.py", [*hook, "--steps", 8]),
        "dictionary_learning": (args.peers, "peers/train_dictionary_learning.py", ["--layer", args.layer - 1, "--steps", 10]),
    }
    found = turns(args, "pipeline", sides, ["--model", model, "--acts", tokens])
    return found | {"layer": args.layer, "model_layers": 12, "context_length": 128}


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


MEASURED = {"quality": quality, "dead": dead, "speed": speed, "pipeline": pipeline, "memory": memory}


def main() -> None:
    """Measure one thing and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(MEASURED))
    parser.add_argument("--peers", default=".venv-peers/bin/python")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--tokens", type=int, default=2_000_000)
    parser.add_argument("--side", action="append", default=[], help="quality: measure this side only, again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--layer", type=int, default=6)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.shared = args.shared.resolve()
    with tempfile.TemporaryDirectory() as folder:
        found = MEASURED[args.what](args, Path(folder))
    from saebench.provenance import machine, versions

    (HERE / f"figures/train_{args.what}.json").write_text(
        json.dumps(found | {"machine": machine("cpu"), "versions": versions()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

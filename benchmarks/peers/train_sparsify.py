"""Train with eai-sparsify 1.3.3's own Trainer: an SAE on given tokens, or the times between its steps. Prints one JSON line.

Its Trainer takes tokens only, so the time of a step alone is that of its hook: forward, loss, backward, optimiser.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from transformers import AutoModel


def trainer(args: argparse.Namespace, tokens: np.ndarray) -> Trainer:
    """Return the library's trainer on a local model."""
    model = AutoModel.from_pretrained(args.model, dtype=torch.float32)
    data = Dataset.from_dict({"input_ids": tokens.tolist()})
    data.set_format(type="torch", columns=["input_ids"])
    config = TrainConfig(
        SparseCoderConfig(num_latents=args.d_sae, k=args.k), batch_size=args.batch // tokens.shape[1],
        optimizer=args.optimizer, lr=args.lr or None, lr_warmup_steps=min(1000, args.tokens // args.batch // 10),
        auxk_alpha=args.auxk, dead_feature_threshold=max(1, args.tokens // 6), hookpoints=[args.hookpoint],
        init_seeds=[args.seed], save_every=10**9, save_dir=args.out or "/tmp", run_name="run", log_to_wandb=False,
    )  # fmt: skip
    return Trainer(config, data, model)


def quality(args: argparse.Namespace) -> dict[str, float]:
    """Train on the contexts of a file, as often as the budget asks, and save."""
    tokens = np.load(args.acts)
    generator = np.random.default_rng(args.seed)
    wanted = -(-args.tokens // tokens.shape[1])
    rounds = [generator.permutation(len(tokens)) for _ in range(-(-wanted // len(tokens)))]
    rows = tokens[np.concatenate(rounds)[: wanted // (args.batch // tokens.shape[1]) * (args.batch // tokens.shape[1])]]
    start = time.perf_counter()
    made = trainer(args, rows)
    made.fit()
    seconds = time.perf_counter() - start
    folder = Path(args.out) / args.hookpoint
    shutil.rmtree(folder, ignore_errors=True)
    next(iter(made.saes.values())).save_to_disk(folder)
    return {"seconds": seconds}


def pipeline(args: argparse.Namespace) -> dict[str, object]:
    """Time the library's own Trainer on a local model, from one optimiser step to the next."""
    tokens = np.load(args.acts)
    per_step = args.batch // tokens.shape[1]
    made = trainer(args, tokens[: per_step * (args.steps + 2)])
    marks: list[float] = []
    optimizer = made.optimizers[0]
    original = optimizer.step

    def stepping(*words: object) -> object:
        out = original(*words)
        marks.append(time.perf_counter())
        return out

    optimizer.step = stepping
    made.fit()
    return {"seconds": list(np.diff(marks))[1:]}


def step(args: argparse.Namespace) -> dict[str, object]:
    """Time what the Trainer does with acts: normalise the decoder, forward, backward, optimiser."""
    torch.manual_seed(0)
    sae = SparseCoder(args.d_in, SparseCoderConfig(num_latents=args.d_sae, k=args.k), "cpu", dtype=torch.float32)
    if args.optimizer == "signum":
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=5e-3), momentum=0.95)
        optimizer.train()
    else:
        optimizer = torch.optim.Adam(sae.parameters(), lr=2e-4)
    acts = torch.randn(2, args.batch, args.d_in)
    times = []
    for i in range(args.steps + 1):
        start = time.perf_counter()
        x = acts[i % 2]
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return {"seconds": times[1:]}


def main() -> None:
    """Read the arguments, do one thing, print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["quality", "step", "pipeline"])
    parser.add_argument("--acts", help="tokens [N, L]")
    parser.add_argument("--model")
    parser.add_argument("--hookpoint", default="layers.2")
    parser.add_argument("--optimizer", default="signum")
    parser.add_argument("--out")
    for name, kind, value in [
        ("tokens", int, 0), ("batch", int, 4096), ("d-sae", int, 512), ("d-in", int, 768), ("k", int, 8), ("lr", float, 0.0),
        ("auxk", float, 0.0), ("seed", int, 0), ("steps", int, 3), ("threads", int, 2),
    ]:  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {"quality": quality, "step": step, "pipeline": pipeline}[args.mode](args)
    print(json.dumps(found | {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()

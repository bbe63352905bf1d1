"""Our trainer, for ``benchmarks/train.py``: the time of a step alone, or of the whole pipeline. Prints one JSON line."""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import torch

from saebench.progress import SilentProgress
from saebench.provenance import peak_memory_bytes
from saebench.trainers.loop import Loop
from saebench.trainers.ranks import Ranks
from saebench.trainers.run import train
from saebench.trainers.settings import runs_of
from saebench.trainers.trainee import Trainee


def step(args: argparse.Namespace) -> list[float]:
    """Time ``Trainee.learn`` on random acts, each step with the row that the log would take."""
    values = {"model": "-", "site": "-", "corpus": "-", "out": "-", "d_sae": args.d_sae, "k": args.k, "batch_size": args.batch}
    [run] = runs_of("topk", values | {"precision": args.precision})
    acts = torch.randn(2, args.batch, args.d_in, device=args.device)
    trainee = Trainee(run, acts[0], torch.device(args.device), Ranks())
    times = []
    for i in range(args.steps + 1):
        start = time.perf_counter()
        trainee.row(trainee.learn(acts[i % 2]))
        times.append(time.perf_counter() - start)
    return times[1:]


def pipeline(args: argparse.Namespace) -> list[float]:
    """Time ``saebench train`` on a local model, from one step to the next."""
    marks: list[float] = []
    original = Loop._one_step

    def stepping(self: Loop, progress: SilentProgress) -> None:
        marks.append(time.perf_counter())
        original(self, progress)  # type: ignore[arg-type]
        if len(marks) == args.steps + 2:
            raise KeyboardInterrupt

    Loop._one_step = stepping  # type: ignore[method-assign]
    Loop.save = lambda self: Path()  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "model": args.model, "site": args.site, "corpus": args.acts, "out": folder, "d_sae": args.d_sae, "k": args.k,
            "batch_size": args.batch, "tokens": args.batch * 80, "context_length": 128, "device": args.device,
            "buffer_tokens": 32 * 128 * 8, "eval_contexts": 8, "tensorboard": False,
        }  # fmt: skip
        try:
            train("topk", values)
        except KeyboardInterrupt:
            pass
    return [b - a for a, b in itertools.pairwise(marks[1:])]


def main() -> None:
    """Read the arguments, do one thing, print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["step", "pipeline"])
    parser.add_argument("--acts", help="tokens [N, L], for pipeline")
    parser.add_argument("--model")
    parser.add_argument("--site", default="blocks.8.hook_resid_pre")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    for name, value in [("batch", 4096), ("d-sae", 512), ("d-in", 768), ("k", 8), ("steps", 3), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seconds = {"step": step, "pipeline": pipeline}[args.mode](args)
    print(json.dumps({"seconds": seconds, "peak_rss": peak_memory_bytes("cpu")}))


if __name__ == "__main__":
    main()

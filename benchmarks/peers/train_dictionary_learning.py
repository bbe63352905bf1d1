"""Time dictionary-learning 0.1.0's TopKTrainer: a step alone, or with its own buffer on a local model. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from dictionary_learning import ActivationBuffer
from dictionary_learning.trainers.top_k import TopKTrainer
from nnsight import LanguageModel


def timed(one: Callable[[int], object], steps: int) -> list[float]:
    """Return the seconds of every step but the first, which sets up."""
    times = []
    for i in range(steps + 1):
        start = time.perf_counter()
        one(i)
        times.append(time.perf_counter() - start)
    return times[1:]


def main() -> None:
    """Read the arguments, time steps, print the figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["step", "pipeline"])
    parser.add_argument("--acts", help="tokens [N, L], for pipeline")
    parser.add_argument("--model")
    parser.add_argument("--layer", type=int, default=5, help="whose output is read")
    for name, value in [("batch", 4096), ("d-sae", 512), ("d-in", 768), ("k", 8), ("steps", 3), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = TopKTrainer(
        steps=10**6, activation_dim=args.d_in, dict_size=args.d_sae, k=args.k, layer=0, lm_name="none", device="cpu", seed=0
    )
    if args.mode == "step":
        acts = torch.randn(2, args.batch, args.d_in)
        seconds = timed(lambda i: made.update(i, acts[i % 2]), args.steps)
    else:
        model = LanguageModel(args.model, device_map="cpu", dispatch=True)
        tokens = np.load(args.acts)
        per_batch = args.batch // tokens.shape[1]
        buffer = ActivationBuffer(
            iter([model.tokenizer.decode(row) for row in tokens]), model, model.transformer.h[args.layer], d_submodule=args.d_in,
            n_ctxs=8 * per_batch, ctx_len=tokens.shape[1], refresh_batch_size=per_batch, out_batch_size=args.batch, device="cpu",
        )  # fmt: skip
        seconds = timed(lambda i: made.update(i, next(buffer)), args.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_rss": peak}))


if __name__ == "__main__":
    main()

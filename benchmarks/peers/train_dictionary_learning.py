"""Time a training step of dictionary-learning 0.1.0's TopKTrainer. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import resource
import time

import torch
from dictionary_learning.trainers.top_k import TopKTrainer


def main() -> None:
    """Time steps on random acts; the first, which sets up, is left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["step"])
    for name, value in [("batch", 4096), ("d-sae", 512), ("d-in", 768), ("k", 8), ("steps", 3), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = TopKTrainer(
        steps=10**6, activation_dim=args.d_in, dict_size=args.d_sae, k=args.k, layer=0, lm_name="none", device="cpu", seed=0
    )
    acts = torch.randn(2, args.batch, args.d_in)
    times = []
    for i in range(args.steps + 1):
        start = time.perf_counter()
        made.update(i, acts[i % 2])
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": times[1:], "peak_rss": peak}))


if __name__ == "__main__":
    main()

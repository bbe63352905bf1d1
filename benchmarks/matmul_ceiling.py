"""Measure this machine's float32 matrix product, the ceiling of an SAE's encoder. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=torch.get_num_threads())
parser.add_argument("--device", default="cpu")
args = parser.parse_args()
torch.set_num_threads(args.threads)
best = 0.0
for n in (2048, 4096):
    a, b, out = (torch.randn(n, n, device=args.device) for _ in range(3))
    for _ in range(4):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        if args.device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - start) / 1e9)
print(json.dumps({"gflops": best}))

"""Run sae-bench's ``core`` evaluation on given tokens; prints one JSON line. Runs in an environment of its own (sae-bench 0.6.0).

The model is a HookedTransformer with the weights of a local Hugging Face folder, as sae-bench itself uses it.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import torch
from hooked import hooked
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from sae_lens import SAE


class Tokens:
    """The part of an activations store that the evaluation reads: batches of the given tokens, over and over."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens
        self.context_size = tokens.shape[1]
        self.at = 0

    def reset_input_dataset(self) -> None:
        """Begin again."""
        self.at = 0

    def get_batch_tokens(self, batch_size: int) -> torch.Tensor:
        """Return the next ``batch_size`` contexts."""
        rows = self.tokens[self.at : self.at + batch_size]
        self.at = (self.at + batch_size) % len(self.tokens)
        return rows


def main() -> None:
    """Evaluate the SAEs one after the other, as sae-bench does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--sae", action="append", required=True)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = torch.from_numpy(np.load(args.tokens)).long()
    model, gap = hooked(args.model)
    batches = len(tokens) // args.batch
    config = CoreEvalConfig(
        batch_size_prompts=args.batch, n_eval_reconstruction_batches=batches, n_eval_sparsity_variance_batches=batches,
        compute_kl=True, compute_ce_loss=True, compute_l2_norms=True, compute_sparsity_metrics=True,
        compute_variance_metrics=True, compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
    )  # fmt: skip
    seconds, scores = [], {}
    for path in args.sae:
        sae = SAE.load_from_disk(path, device="cpu")
        # names that sae-bench 0.6.0 reads from the configuration of sae-lens 5
        object.__setattr__(sae.cfg, "hook_name", sae.cfg.metadata.hook_name)
        object.__setattr__(sae.cfg, "hook_head_index", None)
        object.__setattr__(sae.cfg, "architecture_str", sae.cfg.architecture())
        object.__setattr__(sae.cfg, "hook_layer", int(sae.cfg.metadata.hook_name.split(".")[1]))
        start = time.perf_counter()
        found, _ = run_evals(sae, Tokens(tokens), model, config)
        seconds.append(time.perf_counter() - start)
        scores = {k: float(v) for part in found.values() for k, v in part.items() if isinstance(v, float | int)}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_rss": peak, "scores": scores, "logit_gap": gap}))


if __name__ == "__main__":
    main()

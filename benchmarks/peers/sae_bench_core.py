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
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from sae_lens import SAE
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights
from transformers import AutoModelForCausalLM


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


def hooked(folder: str) -> tuple[HookedTransformer, float]:
    """Return the HookedTransformer and its largest logit difference to the Hugging Face model."""
    hf = AutoModelForCausalLM.from_pretrained(folder).eval()
    c = hf.config
    common = {"d_vocab": c.vocab_size, "device": "cpu", "dtype": torch.float32, "seed": 0}
    if c.model_type == "gpt2":
        cfg = HookedTransformerConfig(
            n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head, n_heads=c.n_head,
            d_mlp=4 * c.n_embd, act_fn="gelu_new", normalization_type="LN", eps=c.layer_norm_epsilon, **common,
        )  # fmt: skip
        weights = convert_gpt2_weights(hf, cfg)
    else:
        cfg = HookedTransformerConfig(
            n_layers=c.num_hidden_layers, d_model=c.hidden_size, n_ctx=c.max_position_embeddings, d_head=c.head_dim,
            n_heads=c.num_attention_heads, n_key_value_heads=c.num_key_value_heads, d_mlp=c.intermediate_size, act_fn="silu",
            gated_mlp=True, normalization_type="RMS", positional_embedding_type="rotary", rotary_dim=c.head_dim,
            rotary_adjacent_pairs=False, final_rms=True, eps=c.rms_norm_eps, original_architecture="LlamaForCausalLM", **common,
        )  # fmt: skip
        weights = convert_llama_weights(hf, cfg)
    model = HookedTransformer(cfg)
    model.load_state_dict(weights, strict=False)
    model.eval()
    probe = torch.arange(5, 25)[None]
    with torch.no_grad():
        gap = (model(probe).log_softmax(-1) - hf(probe).logits.log_softmax(-1)).abs().max().item()
    return model, gap


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

"""A HookedTransformer with the weights of a local Hugging Face folder, as the peers use it offline."""

from __future__ import annotations

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights, convert_llama_weights
from transformers import AutoModelForCausalLM


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

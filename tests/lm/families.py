"""Tiny random models of every family, built offline."""

from __future__ import annotations

import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

_SIZES = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def config_of(family: str) -> tf.PretrainedConfig:
    """Return a small config: three blocks, width 24, context 64."""
    if family == "gpt2":
        return tf.GPT2Config(
            vocab_size=96, n_embd=24, n_layer=3, n_head=4, n_positions=64, n_inner=40, bos_token_id=1, eos_token_id=2
        )
    if family == "gpt_neox":
        return tf.GPTNeoXConfig(**_SIZES)
    if family == "gemma2":
        # a window shorter than the contexts, so that the per-layer masks differ
        return tf.Gemma2Config(**_SIZES, num_key_value_heads=2, head_dim=6, sliding_window=5)
    kinds = {"llama": tf.LlamaConfig, "qwen2": tf.Qwen2Config}
    return kinds[family](**_SIZES, num_key_value_heads=2)


def build(family: str, folder: str) -> None:
    """Write a random model of ``family`` with a word-level tokenizer to ``folder``."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config_of(family)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, 96)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)

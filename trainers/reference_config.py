"""What a run of the reference model is told, and the model before its first step."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from saebench.errors import InputError

from .reference_init import begin
from .reference_text import END_ID

_NOT_IDENTITY = {"out", "device", "workers", "checkpoint_every"}
"""Settings that change nothing in the numbers but, at most, their rounding."""
_AT_LEAST = {
    "steps": 1, "batch_size": 1, "context_length": 4, "d_model": 8, "n_layers": 1, "n_heads": 1, "tokenizer_documents": 1,
    "warmup": 0, "decay_steps": 0, "short_length": 2, "short_steps": 0, "repeat_weight": 0, "look_weight": 0,
    "chronicles": 0, "seed": 0,
    "eval_every": 1, "eval_contexts": 1, "checkpoint_every": 1, "patience": 0, "stop_gap": 0, "weight_decay": 0,
    "workers": -1,
}  # fmt: skip
_SEEDS = 1 << 32
"""Seeds are less than this: what a step draws is seeded by seed · 2³² + step, of 64 bits."""


def _of(default: int | float | str, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Settings; each is a command-line option of the same name."""

    out: Path = field(metadata={"help": "Folder of the model and of the run."})
    steps: int = _of(12_000, "Steps at most; --resume may change it until the learning rate has begun to fall.")
    batch_size: int = _of(8, "Contexts a step.")
    context_length: int = _of(512, "Tokens of a context, BOS included.")
    d_model: int = _of(256, "Width.")
    n_layers: int = _of(6, "Blocks.")
    n_heads: int = _of(8, "Heads of a block.")
    vocab_size: int = _of(4096, "Tokens of the BPE.")
    tokenizer_documents: int = _of(10_000, "Documents that the BPE is trained on.")
    short_length: int = _of(64, "Tokens of a context at first; doubled in stages.")
    short_steps: int = _of(900, "Steps until contexts have their whole length.")
    repeat_weight: float = _of(
        6.0, "What rare tokens that were said before count in the loss, until --short-steps; then it falls to 1."
    )
    look_weight: float = _of(
        0.2, "Weight of where heads look: so many tokens back, and where a rare next word stood; 0: left to them."
    )
    chronicles: int = _of(
        0, "Of so many documents at the beginning every third one is a chronicle, which tells most of who has what and where."
    )
    lr: float = _of(3e-3, "Learning rate of Muon and AdamW at its highest; embeddings of tokens have three times this.")
    warmup: int = _of(100, "Steps over which the learning rate rises.")
    decay_steps: int = _of(2_000, "Last steps, over which it falls to 0.")
    weight_decay: float = _of(0.1, "Of matrices and embeddings; biases and norms have none.")
    seed: int = _of(0, "Of the first weights and of the text; held-out text has the next one.")
    eval_every: int = _of(250, "Steps between evaluations.")
    eval_contexts: int = _of(128, "Held-out contexts of each part.")
    checkpoint_every: int = _of(250, "Steps between checkpoints.")
    stop_gap: float = _of(0.15, "Stop when held-out CE is within so many nats of the bound; 0: never.")
    patience: int = _of(10, "Stop when so many evaluations bring no progress; 0: never.")
    device: str = _of("auto", "auto, cpu, cuda, …")
    workers: int = _of(-1, "Processes that write text ahead; -1: up to 8 for CUDA, none for a CPU.")


def check(config: ReferenceConfig) -> None:
    """Raise ``InputError`` at the first setting that is impossible."""
    for name, least in _AT_LEAST.items():
        value = getattr(config, name)
        if not least <= value < math.inf:
            raise InputError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    if config.seed >= _SEEDS:
        raise InputError(f"--seed must be less than {_SEEDS}, got {config.seed}")
    if not 0 < config.lr < math.inf:
        raise InputError(f"--lr must be more than 0, got {config.lr}")
    if config.decay_steps > config.steps:
        raise InputError(f"--decay-steps {config.decay_steps} is more than --steps {config.steps}; make it smaller")
    if config.d_model % config.n_heads:
        raise InputError(f"--d-model {config.d_model} does not divide by --n-heads {config.n_heads}; choose a multiple")


def settings(config: ReferenceConfig) -> dict[str, Any]:
    """Return the settings that decide what the model becomes."""
    return {name: value for name, value in asdict(config).items() if name not in _NOT_IDENTITY}


def command(config: ReferenceConfig) -> str:
    """Return the command that makes the model again."""
    words = ["python -m saebench.trainers.reference_lm --out FOLDER"]
    for about in fields(config):
        value = getattr(config, about.name)
        if about.name not in _NOT_IDENTITY and value != about.default:
            words.append(f"--{about.name.replace('_', '-')} {shlex.quote(str(value))}")
    return " ".join(words)


def make_model(config: ReferenceConfig, counts: Int[Tensor, " V"]) -> Any:
    """Return the untrained ``GPT2LMHeadModel``, the same for the same seed and counts of tokens in a sample of the text."""
    from transformers import GPT2Config, GPT2LMHeadModel

    about = GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.context_length, n_embd=config.d_model, n_layer=config.n_layers,
        n_head=config.n_heads, bos_token_id=END_ID, eos_token_id=END_ID, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: Any = GPT2LMHeadModel(about).train()
    begin(model, config.seed, counts)
    for block in model.transformer.h:
        block.mlp.act = nn.GELU(approximate="tanh")  # what gelu_new computes, in one pass: a third more tokens a second
    return model

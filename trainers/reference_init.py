"""The reference model before its first step: positions it can tell apart, heads that look back, values that are copied.

A small model that is read a few million tokens does not find out by itself that a word said before is likely to come again;
begun like this, it does (docs/reference.md has the figures). Everything below is only where training begins: all of it learns.

Letters: ``d`` width, ``k`` width of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_EMBEDDING = 0.5
"""Root mean square of the embeddings of tokens and of positions; beside blocks' outputs of about 1 GPT-2's 0.02 would drown."""
_HUGGING_FACE = 0.02
_BASE = 1000.0
_FINAL_GAIN = 0.1
"""Of the last layer norm, so that logits begin near 0 although the embeddings are large."""
_MATCH = 0.4
"""Gain of queries and keys that look for tokens like the present one."""
_COPY = 0.5
"""Gain of values: what a head that looks at one token alone adds, in that token's normalised embedding."""


def positions(n: int, d: int) -> tuple[Float[Tensor, "n d"], Float[Tensor, " half"]]:
    """Return sinusoids of root mean square 1 and their angles a token, ω_i = 1000^(−i/(d/2 − 1)).

    Columns 2i and 2i + 1 are √2·sin(ω_i·t) and √2·cos(ω_i·t) (Vaswani et al. 2017, arXiv:1706.03762, §3.5, with another base).
    """
    angles = _BASE ** (-torch.arange(d // 2) / max(1, d // 2 - 1))
    at = torch.arange(n)[:, None] * angles
    return torch.stack([at.sin(), at.cos()], -1).reshape(n, d) * math.sqrt(2), angles


def begin(model: Any, seed: int) -> None:
    """Set a GPT-2's first weights, the same for the same seed.

    Token embeddings have a root mean square of 0.5; positions are :func:`positions` at the same scale. In every head of width k,
    with P of d × k random orthonormal columns: values and output are 0.5·P·Pᵀ, so that heads add a part of what they look at, as
    it is (Trockman and Kolter 2023, arXiv:2305.09828, find such products in trained models); queries and keys are 0.4·P: a head
    looks for tokens like the present one. In block 0 queries and keys have gain 1, and head h's queries are turned by h tokens:
    it looks h tokens back, as the heads do that induction is made of (Olsson et al. 2022, arXiv:2209.11895).

    Args:
        model: A ``GPT2LMHeadModel`` of an even width, as Hugging Face begins it.
        seed: Of the random columns.
    """
    generator = torch.Generator().manual_seed(seed)
    body = model.transformer
    n, d = body.wpe.weight.shape
    sinusoids, angles = positions(n, d)
    with torch.no_grad():
        body.wte.weight.mul_(_EMBEDDING / _HUGGING_FACE)
        body.wpe.weight.copy_(_EMBEDDING * sinusoids)
        body.ln_f.weight.fill_(_FINAL_GAIN)
        for i, block in enumerate(body.h):
            attention, k = block.attn, d // block.attn.num_heads
            query, key, value = attention.c_attn.weight.split(d, dim=1)
            for head in range(attention.num_heads):
                own = slice(head * k, (head + 1) * k)
                looks = _columns(d, k, generator)
                query[:, own] = looks * _MATCH if i else _turned(looks, angles * head)
                key[:, own] = looks * _MATCH if i else looks
                copies = _columns(d, k, generator)
                value[:, own] = copies
                attention.c_proj.weight[own] = _COPY * copies.T


def _columns(d: int, k: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    return torch.linalg.qr(torch.randn(d, k, generator=generator))[0]


def _turned(columns: Float[Tensor, "d k"], by: Float[Tensor, " half"]) -> Float[Tensor, "d k"]:
    """Return Q with ⟨x_t·Q, x_s·P⟩ largest at s = t − n for sinusoids x, ``by`` being n times the angles."""
    sin, cos = by.sin()[:, None], by.cos()[:, None]
    turned = torch.empty_like(columns)
    turned[0::2] = cos * columns[0::2] + sin * columns[1::2]
    turned[1::2] = cos * columns[1::2] - sin * columns[0::2]
    return turned

"""The reference model before its first step: heads that know the words before a place, and look where those stood together.

A small model that is read a few million tokens does not find out by itself that what followed some words is likely to follow
them again; begun like this and shown where to look (:mod:`.reference_look`), it does (docs/reference.md has the figures). It is
induction (Olsson et al. 2022, arXiv:2209.11895) over the last four words instead of one. All that is below is only where
training begins: everything learns.

The stream's dimensions begin apart: ``p`` for the position, ``c`` for each of the four words before, the rest for the token.

Letters: ``d`` width, ``k`` width of a head, ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BACK = 4
"""How many tokens back the first block's heads look: head 0 one, …"""
POINTING = (2, 3)
"""Blocks whose heads look for what followed the same words before."""
_SCALE = 0.5
"""Root mean square of the embeddings of tokens; beside blocks' outputs GPT-2's 0.02 would drown."""
_POSITION = 1.5
"""Radius of each of the position's circles."""
_FASTEST, _SLOWEST = 2.6, 2 * math.pi / 1100
"""The circles' angles a token."""
_USUAL, _RARE = 5.0, 8.0
"""−ln of a token's share of the text from which on its embedding is more and more, and wholly, its own."""
_FINAL_GAIN = 0.1
"""Of the last layer norm, so that logits begin near 0 although the embeddings are large."""
_SHARP = 24.0
"""Gain of scores of looking so many tokens back."""
_MATCH = 2.0
"""Gain of scores of the same words before."""
_WORDS = (1.0, 0.7, 0.5, 0.35)
"""What the last word, the one before it, … count in them."""
_LIKE = 0.4
"""Gain of queries and keys that look for tokens like the present one, in the other blocks."""
_OTHERS = 0.25
"""What a head of the others adds of what it looks at."""
_MLP = 0.5
"""Of the output weights of MLPs as Hugging Face begins them."""


@dataclass(frozen=True)
class Parts:
    """Which columns of the stream are what."""

    position: Float[Tensor, "d p"]
    before: list[Float[Tensor, "d c"]]
    """Of the token one before, two before, …"""
    token: Float[Tensor, "d t"]
    usual: Float[Tensor, "d u"]
    """Of the token, the columns that usual tokens have in common,"""
    own: Float[Tensor, "d o"]
    """and those in which each rare one is itself."""


def parts(d: int, heads: int) -> Parts:
    """Return the parts of a stream of width d, columns of the identity: with d = 256, 16 + 4·20 + 24 + 136."""
    p, c, back = max(2, d // 32 * 2), max(1, d * 5 // 64), min(BACK, heads)
    all_, at = torch.eye(d), p + back * c
    usual = max(1, d * 3 // 32)
    before = [all_[:, p + i * c : p + (i + 1) * c] for i in range(back)]
    return Parts(all_[:, :p], before, all_[:, at:], all_[:, at : at + usual], all_[:, at + usual :])


def angles(p: int) -> Float[Tensor, " half"]:
    """Return the angles a token of p/2 circles, in equal ratios."""
    return torch.exp(torch.linspace(math.log(_FASTEST), math.log(_SLOWEST), p // 2))


def pointing(n_layers: int) -> tuple[int, ...]:
    """Return which blocks of a model point: the third and the fourth, of fewer the last."""
    return tuple(block for block in POINTING if block < n_layers) or (n_layers - 1,)


def begin(model: Any, seed: int, counts: Int[Tensor, " V"]) -> None:
    """Set a GPT-2's first weights, the same for the same seed and counts.

    - A token's embedding is w·r + √(1 − w²)·u, r and u random directions of the columns of its own and of the usual ones, w
      from 0 for tokens that are more than e⁻⁵ of the text to 1 for those that are less than e⁻⁸. A position's is a point on
      each of p/2 circles.
    - Block 0: head h looks h + 1 tokens back; the first four write a code of what they see, a random projection of its own
      columns, into columns kept for it, the others a quarter of it, turned, into the token's.
    - Blocks 2 and 3: a head's queries hold the codes of the present token and of the three before it, its keys those of the four
      tokens before, each turned by the same random matrix, so that a score is Σ_j w_j·⟨code(t − j), code(s − 1 − j)⟩ and
      chance: it looks at what followed the same words. What it sees is added as it is.
    - In the others queries and keys are alike, and a quarter of what is seen is added (Trockman and Kolter 2023,
      arXiv:2305.09828, find such products in trained models).

    Args:
        model: A ``GPT2LMHeadModel`` as Hugging Face begins it.
        seed: Of all that is random.
        counts: How often each token stands in a sample of the text.
    """
    generator = torch.Generator().manual_seed(seed)
    body = model.transformer
    n, d = body.wpe.weight.shape
    heads = body.h[0].attn.num_heads
    k, part = d // heads, parts(d, heads)
    with torch.no_grad():
        body.wte.weight.copy_(_tokens(part, counts, generator))
        turns = torch.arange(n)[:, None] * angles(part.position.shape[1])
        circles = _POSITION * torch.stack([turns.sin(), turns.cos()], -1).flatten(1)
        body.wpe.weight.copy_(circles @ part.position.T)
        body.ln_f.weight.fill_(_FINAL_GAIN)
        own, c = part.own.shape[1], part.before[0].shape[1]
        code = part.own @ _columns(own, c, generator) * math.sqrt(own / c)
        for i, block in enumerate(body.h):
            query, key, value = block.attn.c_attn.weight.split(d, dim=1)
            for head in range(heads):
                its, out = slice(head * k, (head + 1) * k), block.attn.c_proj.weight[head * k : (head + 1) * k]
                if i == 0:
                    query[:, its], key[:, its] = _back(part, head + 1, k, 1.0 if head < len(part.before) else 0.5)
                    if head < len(part.before):
                        value[:, its], out[:] = _padded(code, k), _SCALE * _padded(part.before[head], k).T
                    else:
                        value[:, its] = _in(part.token, k, generator)
                        out[:] = _OTHERS * _in(part.token, k, generator).T
                    continue
                points = i in pointing(len(body.h))
                query[:, its], key[:, its] = _same_words(part, code, k, generator) if points else _alike(part, k, generator)
                value[:, its] = _in(part.token, k, generator)
                out[:] = value[:, its].T * (1.0 if points else _OTHERS)
            block.mlp.c_proj.weight.mul_(_MLP)


def _tokens(part: Parts, counts: Int[Tensor, " V"], generator: torch.Generator) -> Float[Tensor, "V d"]:
    """Return embeddings w·r + √(1 − w²)·u, all of the same root mean square over the token's columns."""
    share = (counts + 1) / (counts + 1).sum()
    weight = ((-share.log() - _USUAL) / (_RARE - _USUAL)).clamp(0, 1)[:, None]
    own, usual = (
        torch.nn.functional.normalize(torch.randn(len(counts), columns.shape[1], generator=generator), dim=1) @ columns.T
        for columns in (part.own, part.usual)
    )
    return (weight * own + (1 - weight**2).sqrt() * usual) * _SCALE * math.sqrt(part.token.shape[1])


def _back(part: Parts, by: int, k: int, gain: float) -> tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]:
    """Return queries and keys whose scores are largest ``by`` tokens back.

    Position t is r·(sin θ_i t, cos θ_i t) on each circle i. Queries turn it back by θ_i·by, so that a score is gain² · 24 ·
    Σ_i cos θ_i (t − by − s), before it is divided by √k and but for the layer norm; of the circles as many as k holds.
    """
    p = min(part.position.shape[1], k // 2 * 2)
    turn = torch.zeros(part.position.shape[1], p)
    for i, angle in enumerate(angles(part.position.shape[1])[: p // 2].tolist()):
        sin, cos = math.sin(angle * by), math.cos(angle * by)
        turn[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cos, sin], [-sin, cos]])
    scale = gain * math.sqrt(_SHARP) / _POSITION
    return _padded(scale * part.position @ turn, k), _padded(scale * part.position[:, :p], k)


def _same_words(
    part: Parts, code: Float[Tensor, "d c"], k: int, generator: torch.Generator
) -> tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]:
    """Return queries and keys whose scores are 2·√k/c · Σ_j w_j·⟨code(t − j), code(s − 1 − j)⟩ and chance, but for a layer norm.

    A random matrix for each j keeps apart what stands at different distances.
    """
    here = [code, *part.before[:-1]]
    query, key = torch.zeros(len(code), k), torch.zeros(len(code), k)
    for weight, now, then in zip(_WORDS, here, part.before, strict=False):
        mixed = math.sqrt(weight) * _columns(code.shape[1], k, generator)
        query += now @ mixed
        key += then @ mixed
    gain = math.sqrt(_MATCH * math.sqrt(k) / code.shape[1])
    return gain * query, gain * key


def _alike(part: Parts, k: int, generator: torch.Generator) -> tuple[Float[Tensor, "d k"], Float[Tensor, "d k"]]:
    """Return queries and keys that are the same: a token looks for tokens like itself."""
    looks = _LIKE * _in(part.token, k, generator)
    return looks, looks


def _in(columns: Float[Tensor, "d t"], k: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    """Return what reads these columns of the stream into a head, turned at random."""
    return columns @ _columns(columns.shape[1], k, generator)


def _columns(n: int, k: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
    """Return a random matrix with orthonormal columns, or rows if it has fewer of them."""
    found = torch.linalg.qr(torch.randn(max(n, k), min(n, k), generator=generator))[0]
    return found if n >= k else found.T


def _padded(columns: Float[Tensor, "d n"], k: int) -> Float[Tensor, "d k"]:
    """Return the columns with zeros behind them; the first k of them if a head is narrower than they are."""
    return torch.nn.functional.pad(columns, (0, k - columns.shape[1]))

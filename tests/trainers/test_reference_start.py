"""Where the reference model's training begins, and in which order it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from saebench.trainers.reference_config import ReferenceConfig, make_model
from saebench.trainers.reference_init import positions
from saebench.trainers.reference_lessons import Lessons, lesson_length, repeat_weight, said_before
from saebench.trainers.reference_optim import Muon, Optimizer
from saebench.trainers.reference_text import END_ID, TextStream, held_out, train_tokenizer

LENGTHS: dict[str, Any] = {"context_length": 96, "short_length": 16, "short_steps": 30, "batch_size": 2}
WHERE: dict[str, Any] = {"seed": 0, "part": "train", "context_length": 96}


def config(**changes: Any) -> ReferenceConfig:
    given = {"out": Path("unused"), "d_model": 64, "n_layers": 3, "n_heads": 4, "vocab_size": 400, **LENGTHS}
    return ReferenceConfig(**{**given, **changes})


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(vocab_size=400, n_documents=30, seed=0)


@pytest.fixture(scope="module")
def counts(tokenizer) -> torch.Tensor:
    text = held_out(tokenizer, seed=1, part="train", context_length=96, n_contexts=100)
    return torch.bincount(text.tokens.flatten(), minlength=400)


def test_head_h_of_the_first_block_looks_h_tokens_back():
    d, heads = 128, 4
    body = make_model(config(d_model=d, n_heads=heads)).transformer
    x = nn.functional.layer_norm(body.wpe.weight, (d,))
    query, key, _ = (x @ body.h[0].attn.c_attn.weight).split(d, dim=1)
    for head in range(heads):
        own = slice(head * d // heads, (head + 1) * d // heads)
        scores = query[:, own] @ key[:, own].T
        by_distance = torch.stack([scores.diagonal(-back)[:80].mean() for back in range(16)])
        assert by_distance.argmax() == head, by_distance


def test_a_head_adds_a_part_of_what_it_looks_at_and_looks_for_its_like():
    model = make_model(config())
    for at, block in enumerate(model.transformer.h):
        query, key, value = block.attn.c_attn.weight.split(64, dim=1)
        for head in range(4):
            own = slice(16 * head, 16 * head + 16)
            copied = value[:, own] @ block.attn.c_proj.weight[own]
            strengths = torch.linalg.eigvalsh(copied)
            assert torch.allclose(copied, copied.T, atol=1e-6)
            assert torch.allclose(strengths[-16:], torch.full((16,), 0.5), atol=1e-5)
            assert torch.allclose(strengths[:-16], torch.zeros(48), atol=1e-5)
            assert at == 0 or torch.equal(query[:, own], key[:, own])


def test_positions_are_sinusoids_of_unit_scale_in_which_near_ones_are_alike():
    sinusoids, angles = positions(512, 64)
    assert torch.allclose(sinusoids.square().mean(1), torch.ones(512), atol=1e-5) and angles[0] == 1
    like = nn.functional.cosine_similarity(sinusoids[256:257], sinusoids)
    assert like.argmax() == 256 and like[255] > like[250] > like[200] and like[256:].max() <= 1 + 1e-6


def test_the_first_weights_are_those_of_the_seed():
    one, same, other = (make_model(config(seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "transformer.h.1.attn.c_attn.weight"
    assert not torch.equal(one[name], other[name])


def test_contexts_grow_and_every_step_reads_as_much(tokenizer, counts):
    run = config()
    lengths = [lesson_length(run, step) for step in range(40)]
    assert lengths == [16] * 10 + [32] * 10 + [64] * 10 + [96] * 10
    lessons = Lessons(run, TextStream(tokenizer, **WHERE), counts)
    for step in (0, 10, 20, 30):
        lesson = lessons.lesson(step)
        n, length = lesson.positions.shape
        assert lesson.tokens.shape == (n, length + 1) and length == lengths[step]
        assert n * length in (192, 2 * 96)
        assert torch.equal(lesson.positions.diff(dim=1), torch.ones(n, length - 1).long())
        assert lesson.positions.min() >= 0 and lesson.positions.max() < 96
    assert lessons.lesson(30).positions.tolist() == [list(range(96))] * 2
    assert len(lessons.lesson(1).positions[:, 0].unique()) > 6  # at many places, so that all positions are learned
    assert lesson_length(config(short_length=96), 0) == lesson_length(config(short_steps=0), 0) == 96


def test_it_reads_the_stream_in_order_and_a_step_is_the_same_every_time(tokenizer, counts):
    plain = TextStream(tokenizer, **WHERE)
    one, other = (Lessons(config(), TextStream(tokenizer, **WHERE), counts) for _ in range(2))
    for step in (0, 29, 30):
        a, b = one.lesson(step), other.lesson(step)
        length = lesson_length(config(), step)
        assert torch.equal(a.tokens, plain.batch(192 // length, length))
        for name in ("tokens", "positions", "weights"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_what_was_said_before_is_counted_by_document():
    a, b = 7, 8
    tokens = torch.tensor([[END_ID, a, b, a, END_ID, a, b, b], [END_ID, a, a, END_ID, END_ID, b, a, b]])
    expected = [[0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0, 1]]
    assert said_before(tokens).int().tolist() == expected


def test_said_before_by_a_plain_loop(tokenizer):
    tokens = TextStream(tokenizer, **WHERE).batch(20)
    expected = torch.zeros_like(tokens, dtype=torch.bool)
    for row, its in zip(tokens.tolist(), expected, strict=True):
        seen: set[int] = set()
        for i, token in enumerate(row):
            seen = set() if token == END_ID else seen
            its[i] = token in seen and token != END_ID
            seen.add(token)
    assert torch.equal(said_before(tokens), expected) and expected.any()


def test_rare_tokens_said_before_count_more_and_the_mean_is_one(tokenizer, counts):
    run = config(repeat_weight=6.0)
    lessons = Lessons(run, TextStream(tokenizer, **WHERE), counts)
    for step, weight in ((0, 6.0), (30, 6.0), (45, 3.5), (60, 1.0)):
        assert repeat_weight(run, step) == weight
        lesson = lessons.lesson(step)
        more = (said_before(lesson.tokens) & (counts < counts.sum() / 1000)[lesson.tokens])[:, 1:].flatten()
        weights = lesson.weights
        assert more.any() and weights.mean().item() == pytest.approx(1, abs=1e-6)
        assert torch.allclose(weights[more] / weights[~more][0], torch.tensor(weight))
        assert torch.allclose(weights[~more], weights[~more][0])


def test_queries_keys_and_values_are_made_orthogonal_apart():
    generator = torch.Generator().manual_seed(0)
    together = nn.Parameter(torch.randn(24, 72, generator=generator))
    apart = [nn.Parameter(part.clone()) for part in together.detach().chunk(3, 1)]
    call: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "dtype": torch.float32}
    one, other = Muon([{"params": [together], "parts": 3}], **call), Muon(apart, **call)
    for _ in range(3):
        together.grad = torch.randn(24, 72, generator=generator)
        for part, gradient in zip(apart, together.grad.chunk(3, 1), strict=True):
            part.grad = gradient.clone()
        one.step()
        other.step()
    assert torch.allclose(together, torch.cat(list(apart), 1), atol=1e-6)


def test_every_weight_learns_once_and_positions_slowest():
    model = make_model(config())
    optimizer = Optimizer(model, config(warmup=0, decay_steps=0, steps=10, lr=1e-2, weight_decay=0.0), fused=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    optimizer.step(0)
    moved = {name: (p - before[name]).abs().mean().item() for name, p in model.named_parameters()}
    assert min(moved.values()) > 0
    assert moved["transformer.wte.weight"] == pytest.approx(3e-2, rel=1e-3)  # AdamW's first step is the rate
    assert moved["transformer.wpe.weight"] == pytest.approx(5e-4, rel=1e-3)
    assert moved["transformer.ln_f.weight"] == pytest.approx(1e-2, rel=1e-3)

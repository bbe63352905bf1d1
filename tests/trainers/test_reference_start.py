"""Where the reference model's training begins, and in which order it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from saebench.trainers.reference_config import ReferenceConfig, make_model
from saebench.trainers.reference_init import parts
from saebench.trainers.reference_lessons import Lessons, lesson_length, repeat_weight, said_before
from saebench.trainers.reference_look import Looks
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


def begun(**changes: Any) -> Any:
    run = config(**changes)
    return make_model(run, torch.arange(1, run.vocab_size + 1) ** 2).eval()


@torch.no_grad()
def attended(model: Any, block: int, tokens: torch.Tensor) -> torch.Tensor:
    """Return the attention of a block's heads, ``[B, heads, L, L]``, worked out from its queries and keys."""
    found: list[torch.Tensor] = []
    handle = model.transformer.h[block].attn.c_attn.register_forward_hook(lambda _m, _a, out: found.append(out))
    model(tokens)
    handle.remove()
    heads = model.config.n_head
    query, key, _ = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in found[0].chunk(3, 2))
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf).softmax(-1)


def test_the_first_heads_look_back_by_one_token_two_three_and_four():
    model = begun(d_model=256, n_heads=8, context_length=512)
    tokens = torch.randint(1, 400, (2, 512), generator=torch.Generator().manual_seed(0))
    looks = attended(model, 0, tokens)
    for head in range(8):
        by = looks[:, head].diagonal(-head - 1, 1, 2)[:, 8:]
        assert by.min() > (0.99 if head < 4 else 0.4), head


def test_the_third_block_looks_at_what_followed_the_same_words_before():
    model = begun(d_model=256, n_heads=8, context_length=512, vocab_size=2000)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 200, (4, 60), generator=generator)  # the rarest
    tokens[:, 40:46] = tokens[:, 20:26]
    looks = attended(model, 2, tokens)[:, :, 45].mean(1)
    assert (looks[:, :45].argmax(1) == 26).all()  # what followed the six tokens that came twice
    assert attended(model, 1, tokens)[:, :, 45].mean(1)[:, 26].max() < 0.2  # another block has no reason to


def test_rare_tokens_have_embeddings_of_their_own_and_usual_ones_much_in_common():
    model = begun(d_model=256, vocab_size=2000)
    table = model.transformer.wte.weight.detach()
    part = parts(256, 4)
    assert table.square().mean(1).sub(0.25 * 160 / 256).abs().max() < 1e-5
    own = (table @ part.own).norm(dim=1) / table.norm(dim=1)
    assert own[:5].min() > 0.99 and own[-300:].max() < 0.99 and own.diff().max() < 1e-5
    assert (table @ part.position).abs().max() == 0 and all((table @ one).abs().max() == 0 for one in part.before)
    whole = torch.cat([part.position, *part.before, part.usual, part.own], 1)
    assert torch.equal(whole, torch.eye(256))


def test_positions_are_points_on_circles():
    model = begun(d_model=256, context_length=512)
    part = parts(256, 4)
    at = model.transformer.wpe.weight.detach() @ part.position
    assert at.unflatten(1, (-1, 2)).norm(dim=2).sub(1.5).abs().max() < 1e-5
    assert (model.transformer.wpe.weight.detach() @ part.token).abs().max() == 0
    like = nn.functional.cosine_similarity(at[256:257], at)
    assert like.argmax() == 256 and like[255] > like[250] > like[200]


def test_the_first_weights_are_those_of_the_seed():
    one, same, other = (begun(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "transformer.h.1.attn.c_attn.weight"
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize(("d", "heads", "layers"), [(32, 2, 2), (16, 4, 1), (64, 1, 3), (33, 3, 5), (8, 8, 3), (8, 1, 2)])
def test_small_models_begin_too(d, heads, layers):
    model = begun(d_model=d, n_heads=heads, n_layers=layers)
    looks = Looks(model)
    tokens = torch.tensor([[END_ID, 5, 6, 7, 8, 5, 6, 7, 9]])
    model(tokens[:, :-1])
    assert looks.loss(tokens, said_before(tokens), torch.Generator().manual_seed(0)).isfinite()


@pytest.mark.parametrize(("n_heads", "n_layers", "pointing"), [(2, 3, [2]), (8, 5, [2, 3])])
def test_the_loss_of_looking_by_plain_loops(n_heads, n_layers, pointing):
    model = begun(n_heads=n_heads, n_layers=n_layers)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 12, (3, 41), generator=generator)
    answers = said_before(tokens) & (tokens % 3 > 0)
    scored = Looks(model)
    model(tokens[:, :-1])
    found = scored.loss(tokens, answers, torch.Generator().manual_seed(3))
    first, later = attended(model, 0, tokens[:, :-1]), [attended(model, block, tokens[:, :-1]) for block in pointing]
    at = torch.randint(4, 40, (3, 48), generator=torch.Generator().manual_seed(3))
    heads = range(min(4, n_heads))
    back = [-first[b, h, t, t - h - 1].log() for b in range(3) for h in heads for t in at[b].tolist()]
    pointed = []
    for b, t in (answers[:, 1:]).nonzero().tolist():
        start = max(i for i in range(t + 2) if i == 0 or tokens[b, i] == END_ID)
        here = [s for s in range(start, t + 1) if tokens[b, s] == tokens[b, t + 1]]
        pointed += [-looks[b, h, t, here].sum().log() for looks in later for h in range(min(6, n_heads))]
    assert len(pointed) > 30
    expected = 0.5 * torch.stack(back).mean() + torch.stack(pointed).mean()
    assert torch.allclose(found, expected, rtol=1e-4)


def test_looking_teaches_queries_and_keys_of_its_blocks_and_what_they_read():
    model = begun()
    looks = Looks(model)
    tokens = torch.randint(1, 12, (2, 41), generator=torch.Generator().manual_seed(2))
    model(tokens[:, :-1])
    looks.loss(tokens, said_before(tokens), torch.Generator().manual_seed(3)).backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"transformer.h.2.attn.c_attn.weight", "transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"} <= moved
    assert not {name for name in moved if "h.2.mlp" in name or "h.2.attn.c_proj" in name or "ln_f" in name}


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
        for name in ("tokens", "positions", "weights", "again"):
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
        again = said_before(lesson.tokens) & (counts < counts.sum() / 1000)[lesson.tokens]
        assert torch.equal(lesson.again, again)
        more = again[:, 1:].flatten()
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
    model = begun()
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

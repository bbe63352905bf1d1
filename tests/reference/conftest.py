"""A bundle like the one that ships, but tiny: made by the same code from the committed configurations."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from saebench import reference
from saebench.trainers.reference_saes import make
from saebench.trainers.reference_text import END_ID, TextStream, save_tokenizer, train_tokenizer

SHIPPED = reference.ROOT
NAMES = [
    "relu-l1-layer1", "relu-l1-layer3", "relu-l1-layer5", "topk-layer1", "topk-layer3", "topk-layer3-context64",
    "topk-layer3-undertrained", "topk-layer5",
]  # fmt: skip
SMALL: dict[str, Any] = {
    "tokens": 4000, "batch_size": 50, "buffer_tokens": 2000, "eval_contexts": 4, "d_sae": 48, "tensorboard": False,
    "device": "cpu",
}  # fmt: skip

TASK = """
name: small
version: 1
description: What the tests measure.
metrics: [reconstruction, sparsity, splice, position]
corpus: {source: storyworld, n_contexts: 6}
citation: none
licence: CC0-1.0
"""


def train_model(out: Path) -> None:
    """Write a GPT-2 of six narrow blocks that has read a little storyworld, as the reference model is written: float16."""
    tokenizer = train_tokenizer(vocab_size=400, n_documents=30, seed=0)
    save_tokenizer(tokenizer, out, context_length=32)
    about = GPT2Config(
        vocab_size=400, n_positions=32, n_embd=32, n_layer=6, n_head=2, bos_token_id=END_ID, eos_token_id=END_ID,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = GPT2LMHeadModel(about)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    text = TextStream(tokenizer, seed=0, part="train", context_length=32)
    for _ in range(30):
        tokens = text.batch(16)[:, :-1]
        adam.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        adam.step()
    text.close()
    model.to(torch.float16).save_pretrained(out)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a whole bundle; tests that change something take a copy."""
    root = tmp_path_factory.mktemp("bundle") / "reference"
    train_model(root / "model")
    (root / "configs").mkdir()
    for file in (SHIPPED / "configs").glob("*.yaml"):
        text = (
            file.read_text()
            .replace("context_length: 512", "context_length: 32")
            .replace("context_length: 64", "context_length: 8")
        )
        (root / "configs" / file.name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "ROOT", root)
        patch.setattr("saebench.trainers.loop.write_report", lambda *_: None)  # the curves, which take longest
        assert make(SMALL | {"work": root.parent / "work"}) == NAMES
    return root


@pytest.fixture
def bundle(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny bundle in the place of the one that ships."""
    monkeypatch.setattr(reference, "ROOT", tiny)
    return tiny


@pytest.fixture
def own(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny bundle, in the place of the one that ships, to be damaged."""
    root = tmp_path / "own"
    shutil.copytree(tiny, root)
    monkeypatch.setattr(reference, "ROOT", root)
    return root


@pytest.fixture
def task(tmp_path: Path) -> str:
    """A task on storyworld that takes a second."""
    file = tmp_path / "small.yaml"
    file.write_text(TASK)
    return str(file)

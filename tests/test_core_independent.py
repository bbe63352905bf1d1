"""``saebench`` against the independent script, score by score and position by position, on real SAEs and real text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from saebench.api import evaluate
from saebench.sae import load_sae
from tests.independent_core import core

SAES = [
    "saelens-relu",
    "saelens-topk",
    "saelens-batchtopk",
    "dictionary_learning/trainer_0",
    "dictionary_learning/trainer_1",
    "sparsify/layers.2",
]


@pytest.fixture(scope="module")
def tokens_file(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contexts of 160 real tokens, made without the package."""
    import gzip

    tokenizer = AutoTokenizer.from_pretrained(shared_dir / "models/stories260K")
    with gzip.open(shared_dir / "data/roneneldan/TinyStories/default/train.jsonl.gz", "rt") as handle:
        text = [json.loads(next(handle))["text"] for _ in range(40)]
    ids = np.concatenate([tokenizer(t, add_special_tokens=False)["input_ids"] for t in text])
    rows = ids[: 24 * 159].reshape(24, 159)
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.concatenate([np.ones((24, 1), dtype=ids.dtype), rows], 1))
    return path


@pytest.mark.parametrize("splice_bos", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_score_and_position_agrees_to_1e_4(shared_dir: Path, tokens_file: Path, tmp_path: Path, splice_bos: bool) -> None:
    folder = shared_dir / "models/stories260K"
    paths = [str(shared_dir / "saes/stories260K" / name) for name in SAES]
    records = evaluate(
        paths,
        model=str(folder),
        corpus=str(tokens_file),
        out=tmp_path,
        device="cpu",
        splice_bos=splice_bos,
        batch_size=7,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens = torch.from_numpy(np.load(tokens_file)).long()
    for path, record in zip(paths, records, strict=True):
        sae = load_sae(path)
        expected = core(
            model, tokens, 3, lambda x, sae=sae: (sae.encode(x).to_dense(), sae.reconstruct(x)), splice_bos=splice_bos
        )
        found = {s.name: s.value for s in record.scores}
        for name, value in expected["scores"].items():
            assert found[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (path, name)
        series = {s.name: s for s in record.series}
        for name, values in expected["series"].items():
            got = series[name].value
            scale = np.mean(np.abs(values[1:]))
            assert got[0] is None
            for position, value in enumerate(values[1:], 1):
                assert got[position] == pytest.approx(value, rel=1e-4, abs=5e-5 * scale), (path, name, position)
        assert record.data.n_contexts == 24
        assert record.data.context_length == 160

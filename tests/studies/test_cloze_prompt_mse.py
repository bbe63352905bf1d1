"""The MSE of each prompt: which tokens count, and their mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.studies.cloze.encoding import Encoded, make_rows
from saebench.studies.cloze.prompt_mse import PromptMSE, in_prompts
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, random_sae
from tests.studies.cloze_cases import SITE, candidate_examples, last_word_examples, run


def encoded(trunk: int, *branches: int) -> Encoded:
    return Encoded(
        trunk=list(range(1, trunk + 1)), branches=[[7] * n for n in branches], n_word=[1] * len(branches), has_bos=True, cut=0,
        n_prompt=trunk,
    )  # fmt: skip


def prompts(side_by_side: bool, *, splice_bos: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (row, column) of the replaced tokens of two prompts, and the example of each."""
    batch = make_rows([encoded(4, 3, 2), encoded(2, 1, 2)], side_by_side=side_by_side)
    lengths = torch.tensor([len(row.tokens) for row in batch])
    where = torch.arange(int(lengths.max())) < lengths[:, None]
    where[:, 0] &= splice_bos
    inside, example = in_prompts(batch, where)
    return inside.nonzero().numpy(), example


def test_every_token_of_a_prompt_counts_once_and_none_of_a_candidate():
    for side_by_side in (True, False):
        row = 1 if side_by_side else 2  # where the second example begins
        at, example = prompts(side_by_side, splice_bos=False)
        assert at.tolist() == [[0, 1], [0, 2], [0, 3], [row, 1]] and example.tolist() == [0, 0, 0, 1]
        at, example = prompts(side_by_side, splice_bos=True)
        assert at.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [row, 0], [row, 1]] and example.tolist() == [0, 0, 0, 0, 1, 1]


def test_it_is_the_mean_of_squared_distances_and_nan_where_nothing_is_replaced():
    target, recon = torch.tensor([[3.0, 4.0], [1.0, 1.0], [2.0, 0.0]]), torch.zeros(3, 2)
    mse = PromptMSE(3)
    mse.add(target[:2], recon[:2], np.array([2, 0]))
    mse.add(target[2:], recon[2:], np.array([2]))
    np.testing.assert_array_equal(mse.means(), [2.0, np.nan, (25 + 4) / 2])
    mse.add(target, target, np.array([0, 1, 1]))
    np.testing.assert_array_equal(mse.means(), [1.0, 0.0, 14.5])


@pytest.mark.parametrize("answer", ["candidates", "first_token"])
def test_the_table_has_the_mse_of_plain_acts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str):
    build("gpt2", str(tmp_path))
    model = load_model(str(tmp_path), device="cpu")
    splice_bos = answer == "first_token"
    sae, examples = random_sae(seed=2), last_word_examples(model) if splice_bos else candidate_examples()
    (result,) = run(Port(model, SITE), [sae], examples, monkeypatch, answer=answer, splice_bos=splice_bos, batch_size=3)
    wanted = []
    for example in examples:
        ids = [model.tokenizer.bos_token_id, *model.tokenizer(example.prompt, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            acts = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0, 0 if splice_bos else 1 :]
        wanted.append(float((acts - sae.reconstruct(acts)).square().sum(1).mean()))
    np.testing.assert_allclose(np.array(result.tables["examples"]["mse"]), wanted, rtol=1e-4)
    (exact,) = run(Port(model, SITE), [identity_sae()], examples, monkeypatch, answer=answer)
    assert max(exact.tables["examples"]["mse"]) < 1e-8 < min(wanted)

"""ln p of given tokens, however few rows of logits are made and reduced at a time."""

from __future__ import annotations

import pytest
import torch

from saebench.lm import losses
from saebench.lm.losses import from_hidden, target_rows

ROWS, D_MODEL, D_VOCAB = 23, 6, 40


@pytest.mark.parametrize(("chunk", "block"), [(100, 100), (7, 3), (7, 7), (3, 7), (1, 1)])
def test_ln_p_and_the_best_token_do_not_depend_on_the_pieces(monkeypatch: pytest.MonkeyPatch, chunk: int, block: int):
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(ROWS, D_MODEL, generator=g), torch.randn(D_VOCAB, D_MODEL, generator=g)
    logits = hidden @ weight.T
    targets = torch.where(torch.arange(ROWS) % 2 == 0, logits.argmax(1), torch.arange(ROWS))
    made: list[int] = []

    def head(rows: torch.Tensor) -> torch.Tensor:
        made.append(len(rows))
        return rows @ weight.T

    monkeypatch.setattr(losses, "_CHUNK_BYTES", chunk * 4 * D_VOCAB)
    monkeypatch.setattr(losses, "_BLOCK_BYTES", block * 4 * D_VOCAB)
    found = target_rows(from_hidden(head, hidden), targets, d_vocab=D_VOCAB)
    want = logits.double().log_softmax(1)
    torch.testing.assert_close(found.lnp, want.gather(1, targets[:, None])[:, 0], atol=1e-6, rtol=0)
    assert found.best.tolist() == (logits.argmax(1) == targets).tolist() and 11 < found.best.sum() < ROWS
    assert sum(made) == ROWS and max(made) == min(chunk, ROWS), "the head makes whole chunks, each row once"

"""The model's answers, clean and spliced: one prefix and one clean suffix for all SAEs, one suffix each.

Letters: ``N`` examples, ``C`` candidates, ``B`` rows of a batch, ``L`` positions, ``P`` predictions of a batch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from saebench.lm.branches import PADDING, TRUNK, branched
from saebench.lm.losses import TargetRows, from_hidden, target_rows
from saebench.lm.port import Port
from saebench.lm.positions import Finals, gives_few
from saebench.sae import SAE
from saebench.stream import default_batch_size, recon_of
from saebench.studies.cloze.active import Active, Watch
from saebench.studies.cloze.encoding import PROMPT, Row, batches
from saebench.studies.cloze.prompt_mse import PromptMSE, in_prompts
from saebench.studies.cloze.recon import See, recon_seen


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one pass says, clean or spliced, in nats."""

    lnp: Float[np.ndarray, "N C"]
    """ln p of each candidate and the rest of its sentence, given the prompt; −∞ where there is no such candidate."""
    lnp_word: Float[np.ndarray, "N C"]
    """ln p of the candidate alone."""
    best: Bool[np.ndarray, "N C"]
    """Whether each token of the candidate, given those before it, is the most likely one of the whole vocabulary."""
    ce_sum: Float[np.ndarray, " N"]
    """Summed CE of the prompt's tokens."""
    ce_n: Int[np.ndarray, " N"]
    """How many tokens of the prompt are predicted."""
    mse: Float[np.ndarray, " N"] | None = None
    """Mean over the replaced tokens of the prompt of ‖x − x̂‖²; NaN where there is none, as in the clean pass."""


class _Sums:
    def __init__(self, n: int, candidates: NDArray[np.int64]) -> None:
        width = int(candidates.max())
        there = np.arange(width) < candidates[:, None]
        self.lnp = np.where(there, 0.0, -np.inf)
        self.lnp_word = self.lnp.copy()
        self.best = there.copy()
        self.ce_sum, self.ce_n = np.zeros(n), np.zeros(n, dtype=np.int64)
        self.mse = PromptMSE(n)

    def add(self, rows: TargetRows, place: _Places) -> None:
        lnp, best = rows.lnp.cpu().numpy(), rows.best.cpu().numpy()
        prompt = place.candidate == PROMPT
        np.subtract.at(self.ce_sum, place.example[prompt], lnp[prompt])
        np.add.at(self.ce_n, place.example[prompt], 1)
        for sums, which in ((self.lnp, ~prompt), (self.lnp_word, place.of_word)):
            np.add.at(sums, (place.example[which], place.candidate[which]), lnp[which])
        word = place.of_word
        np.logical_and.at(self.best, (place.example[word], place.candidate[word]), best[word])

    def answers(self) -> Answers:
        mse = self.mse.means()
        return Answers(lnp=self.lnp, lnp_word=self.lnp_word, best=self.best, ce_sum=self.ce_sum, ce_n=self.ce_n, mse=mse)


@dataclass(frozen=True)
class _Places:
    """Where the predictions of a batch belong."""

    example: NDArray[np.int64]
    candidate: NDArray[np.int64]
    of_word: NDArray[np.bool_]


@torch.inference_mode()
def answers(
    port: Port,
    saes: Sequence[SAE],
    rows: Sequence[Row],
    candidates: Sequence[int],
    *,
    splice_bos: bool = False,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda _n: None,
    watch: Watch | None = None,
) -> list[Answers]:
    """Return the clean answers and, after them, those with each SAE spliced in, in the order given.

    Acts are read on the clean forward and replaced at every position of a text but position 0.

    Args:
        port: The site.
        saes: SAEs of the site.
        rows: What goes through the model.
        candidates: How many candidates each example has.
        splice_bos: Whether position 0 is replaced as well.
        batch_size: Rows of a batch; chosen from their length if ``None``.
        advance: Told how many examples are done.
        watch: Shown the latents in the windows of the prompts.
    """
    device = port.model.device
    passes = [_Sums(len(candidates), np.array(candidates, dtype=np.int64)) for _ in range(len(saes) + 1)]
    few = _few(port, rows)
    for batch in batches(rows, batch_size, default_batch_size(1, device)):
        tokens, branch, position, hidden_at, targets, place = tensors(batch, device)
        with branched(port, branch, position) if any(row.has_branches for row in batch) else contextlib.nullcontext():
            tell = functools.partial(_add, port, passes, targets, place)
            finals = Finals(port, tokens, branch, position, hidden_at, tell, few=few)
            clean = finals.clean
            where = branch != PADDING
            where[:, 0] &= splice_bos
            prompts, example = in_prompts(batch, where)
            acts, target, prompts = clean.acts[where], clean.target[where], prompts[where]
            owner = None if watch is None else torch.from_numpy(watch.owners(batch, tokens.shape[1])).to(device)[where]
            for number, sae in enumerate(saes):
                if watch is None or owner is None:
                    recon = recon_of(port, sae, acts, target)
                else:
                    recon = recon_seen(port, sae, acts, target, _noting(watch.active[number], owner))
                passes[number + 1].mse.add(target[prompts], recon[prompts], example)
                finals.splice(recon, where)
            finals.finish()
        advance(sum(row.counts for row in batch))
    return [sums.answers() for sums in passes]


def _noting(active: Active, owner: Int[Tensor, " m"]) -> See:
    return lambda tokens, _acts, latents: active.add(latents, owner[tokens])


def _few(port: Port, rows: Sequence[Row]) -> bool:
    """Return whether the last block is needed at so few positions that it is run there alone."""
    if 2 * sum(len(row.at) for row in rows) > sum(len(row.tokens) for row in rows):
        return False
    return gives_few(port, max(int(row.position.max()) for row in rows) + 1)


def _add(
    port: Port, passes: Sequence[_Sums], targets: Int[Tensor, " P"], place: _Places, which: int, hidden: Float[Tensor, "P D"]
) -> None:
    rows = target_rows(from_hidden(port.model.head, hidden), targets, d_vocab=port.model.d_vocab)
    passes[which].add(rows, place)


def tensors(
    batch: Sequence[Row], device: torch.device
) -> tuple[
    Int[Tensor, "B L"], Int[Tensor, "B L"], Int[Tensor, "B L"], tuple[Int[Tensor, " P"], Int[Tensor, " P"]], Tensor, _Places
]:
    """Return (tokens, branch, position, where the predictions are made, their targets, where they belong)."""
    shape = len(batch), max(len(row.tokens) for row in batch)
    tokens, position = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    branch = np.full(shape, PADDING, dtype=np.int64)
    for i, row in enumerate(batch):
        filled = slice(0, len(row.tokens))
        tokens[i, filled], position[i, filled] = row.tokens, row.position
        branch[i, filled] = row.branch if row.has_branches else TRUNK
    counts = [len(row.at) for row in batch]
    in_row = torch.from_numpy(np.repeat(np.arange(len(batch)), counts)).to(device)
    at = torch.from_numpy(np.concatenate([row.at for row in batch])).to(device)
    targets = torch.from_numpy(np.concatenate([row.target for row in batch])).to(device)
    place = _Places(
        example=np.repeat(np.array([row.example for row in batch]), counts),
        candidate=np.concatenate([row.candidate for row in batch]),
        of_word=np.concatenate([row.of_word for row in batch]),
    )
    ids, branches, positions = (torch.from_numpy(array).to(device) for array in (tokens, branch, position))
    return ids, branches, positions, (in_row, at), targets, place

"""How far the recons of each prompt are from its acts: one MSE an example, for the table beside the record.

Letters: ``N`` examples, ``B`` rows of a batch, ``L`` positions, ``m`` tokens, ``O`` width of the site.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.lm.branches import TRUNK
from saebench.stats import add_at
from saebench.studies.cloze.encoding import Row


class PromptMSE:
    """MSE = mean of ‖x − x̂‖², the sum over dimensions, over the replaced tokens of each prompt (act²).

    BOS counts only where it is replaced. As a difference of acts and recon it is the same in the model's space and in that of an
    SAE that expects centred acts.

    Args:
        n_examples: ``N``.
    """

    def __init__(self, n_examples: int) -> None:
        self._sums, self._counts = np.zeros(n_examples), np.zeros(n_examples)

    def add(self, target: Float[Tensor, "m O"], recon: Float[Tensor, "m O"], example: Int[np.ndarray, " m"]) -> None:
        """Add the tokens of some prompts.

        Args:
            target: Clean acts at the site that is written.
            recon: What takes their place.
            example: The example of each token.
        """
        add_at(self._sums, example, (target.double() - recon.double()).square().sum(1).cpu().numpy())
        add_at(self._counts, example)

    def means(self) -> Float[np.ndarray, " N"]:
        """Return the MSE of each prompt, NaN where none of its tokens is replaced."""
        none = np.full(len(self._sums), np.nan)
        return np.divide(self._sums, self._counts, out=none, where=self._counts > 0)


def in_prompts(batch: Sequence[Row], where: Bool[Tensor, "B L"]) -> tuple[Bool[Tensor, "B L"], Int[np.ndarray, " m"]]:
    """Return (the replaced tokens of the prompts, the example of each); rows that repeat a prompt have none.

    Args:
        batch: The rows.
        where: Which of their tokens are replaced.
    """
    ends = torch.tensor([int((row.branch == TRUNK).sum()) if row.counts else 0 for row in batch], device=where.device)
    inside = where & (torch.arange(where.shape[1], device=where.device) < ends[:, None])
    number = inside.nonzero()[:, 0].cpu().numpy()
    return inside, np.array([row.example for row in batch], dtype=np.int64)[number]

"""Which latents are active near the end of which prompts: one bit each, noted while the spliced passes run.

Letters: ``N`` examples, ``n`` latents of a slice, ``B`` rows of a batch, ``L`` positions, ``m`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from saebench.sae import Latents
from saebench.studies.cloze.encoding import Encoded, Row

NOWHERE = -1
"""Stands for an example where a token counts for none."""


class Active:
    """Which latents of one SAE are active (≠ 0) in the window of each prompt; N · d_sae / 8 bytes.

    Args:
        n_examples: ``N``.
        d_sae: The SAE's latents.
    """

    def __init__(self, n_examples: int, d_sae: int) -> None:
        self.d_sae = d_sae
        self._bits = np.zeros((n_examples, -(-d_sae // 8)), dtype=np.uint8)

    def add(self, latents: Latents, example: Int[Tensor, " m"]) -> None:
        """Note the latents of some tokens.

        Args:
            latents: Of the tokens.
            example: The example of each token, −1 where it lies in no window.
        """
        of = example[latents.rows()]
        inside = of != NOWHERE
        rows, index = of[inside].cpu().numpy(), latents.indices[inside].cpu().numpy().astype(np.int64)
        place = rows.astype(np.int64) * self._bits.shape[1] + (index >> 3)
        np.bitwise_or.at(self._bits.reshape(-1), place, np.left_shift(1, index & 7).astype(np.uint8))

    def columns(self, start: int, stop: int) -> Bool[np.ndarray, "N n"]:
        """Return the latents ``start`` ≤ j < ``stop``; ``start`` must be a multiple of 8."""
        bits = self._bits[:, start // 8 : -(-stop // 8)]
        return np.unpackbits(bits, axis=1, count=stop - start, bitorder="little").astype(bool)

    def of(self, latent: int) -> Bool[np.ndarray, " N"]:
        """Return the prompts in which one latent is active."""
        return (self._bits[:, latent >> 3] >> (latent & 7) & 1).astype(bool)


class Watch:
    """The windows of all prompts, and what is active in them, an :class:`Active` an SAE.

    A window is the last ``size`` of the prompt's tokens, those that its CE is over with the first; BOS counts only where it is
    replaced, for elsewhere the SAE has no say.

    Args:
        encoded: The examples.
        d_sae: Latents of each SAE.
        size: Tokens of a window.
    """

    def __init__(self, encoded: Sequence[Encoded], d_sae: Sequence[int], *, size: int) -> None:
        self._ends = [one.n_prompt for one in encoded]
        self._size = size
        self.active = [Active(len(encoded), width) for width in d_sae]

    def owners(self, batch: Sequence[Row], length: int) -> Int[np.ndarray, "B L"]:
        """Return the example of every token that lies in its window, −1 elsewhere and in rows that repeat a prompt."""
        out: NDArray[np.int64] = np.full((len(batch), length), NOWHERE)
        for i, row in enumerate(batch):
            if row.counts:
                end = self._ends[row.example]
                out[i, max(0, end - self._size) : end] = row.example
        return out

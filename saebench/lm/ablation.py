"""Ablation of a site: the same vector at every replaced position of every context.

At a site that carries the whole residual stream the state behind the ablation then depends on the first token alone (which
stays clean), not on the rest of the context: one forward over one context serves the whole corpus.

Letters: ``C`` contexts, ``L`` positions, ``M`` d_model, ``O`` width written, ``V`` vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.lm.losses import Head, Logits, from_hidden, from_table, log_sum_exp
from saebench.lm.port import Clean, Port

_TABLE_BYTES = 256 << 20
"""Logits of the shared forward are kept if they fit; else they are made again for each batch."""


class Ablation:
    """Final-norm outputs with ``value`` in place of the acts.

    Args:
        port: The site.
        value: What stands there instead.
        tokens: All contexts ``[C, L]``; they decide whether one forward can serve all of them.
        keep_first: Whether position 0 stays clean.
    """

    def __init__(self, port: Port, value: Float[Tensor, " O"], tokens: Int[Tensor, "C L"], *, keep_first: bool = True) -> None:
        self._port = port
        self._value = value
        self._shared: Float[Tensor, "L M"] | None = None
        self._table: Float[Tensor, "L V"] | None = None
        one_start = bool((tokens[:, 0] == tokens[0, 0]).all()) or not keep_first
        if port.carries_stream and one_start:
            clean = port.clean(tokens[:1].to(port.model.device), final=False)
            where = torch.ones_like(clean.tokens, dtype=torch.bool)
            where[:, 0] = not keep_first
            self._shared = self._splice(clean, where)[0]

    @property
    def shared(self) -> bool:
        """Whether one forward serves every context."""
        return self._shared is not None

    def logits(self, clean: Clean, where: Bool[Tensor, "B L"], wanted: Bool[Tensor, "B L"]) -> Logits:
        """Return the logits at the ``wanted`` positions of one batch.

        Args:
            clean: The batch's clean forward.
            where: The positions that are ablated.
            wanted: The positions whose logits are wanted, row by row.
        """
        head = self._port.model.head
        if self._shared is None:
            return from_hidden(head, self._splice(clean, where)[wanted])
        position = wanted.nonzero()[:, 1]
        if self._table is None and 4 * len(self._shared) * self._port.model.d_vocab <= _TABLE_BYTES:
            self._table = head(self._shared).float()
        return from_hidden(head, self._shared[position]) if self._table is None else from_table(self._table, position)

    def _splice(self, clean: Clean, where: Bool[Tensor, "B L"]) -> Float[Tensor, "B L M"]:
        return self._port.splice(clean, self._value.to(clean.target.dtype).expand_as(clean.target), where)

    @torch.inference_mode()
    def shared_ce(
        self, head: Head, tokens: Int[Tensor, "C L"], wanted: Bool[Tensor, "C L"], *, positions_at_once: int = 64
    ) -> Float[np.ndarray, "C L"]:
        """Return the CE of every wanted prediction (NaN elsewhere) from the one shared forward.

        Args:
            head: Final-norm outputs → logits.
            tokens: All contexts, on the CPU.
            wanted: Positions p whose prediction of token p+1 is scored.
            positions_at_once: Rows of logits held at a time.
        """
        assert self._shared is not None
        ce = np.full(tuple(tokens.shape), np.nan)
        for start in range(0, tokens.shape[1] - 1, positions_at_once):
            stop = min(start + positions_at_once, tokens.shape[1] - 1)
            logits = head(self._shared[start:stop]).float()
            lse = log_sum_exp(logits)
            targets = tokens[:, start + 1 : stop + 1].T.to(logits.device)
            at_target = logits.gather(1, targets).double()
            ce[:, start:stop] = (lse[:, None] - at_target).T.cpu().numpy()
        ce[~wanted.cpu().numpy()] = np.nan
        return ce

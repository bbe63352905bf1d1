"""Where a trainer's acts come from: the model's prefix, live, through a shuffling buffer.

Letters: ``N`` contexts, ``L`` positions, ``D`` width of the site.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.port import Port


class ActsSource:
    """Scored acts of a corpus, contexts in a new order each time round. Nothing behind the site runs; BOS and padding stay out.

    Args:
        port: The site.
        corpus: The contexts to train on.
        generator: Draws the orders.
    """

    def __init__(self, port: Port, corpus: Corpus, generator: torch.Generator) -> None:
        self._port, self._corpus, self._generator = port, corpus, generator
        self._batch = max(1, (4096 if port.model.device.type == "cpu" else 32768) // corpus.context_length)
        self._order = torch.zeros(0, dtype=torch.long)
        self._at = 0
        self.rounds = 0

    def next(self) -> Float[Tensor, "n D"]:
        """Return the acts of the next contexts, float32."""
        if self._at >= len(self._order):
            self._order = torch.randperm(len(self._corpus.tokens), generator=self._generator)
            self._at = 0
            self.rounds += 1
        rows = self._order[self._at : self._at + self._batch]
        self._at += len(rows)
        device = self._port.model.device
        clean = self._port.clean(self._corpus.tokens[rows].to(device), final=False)
        # a plain copy, so that autograd may save it
        return clean.acts[self._corpus.scored[rows].to(device)].float().clone()

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here."""
        return {"order": self._order, "at": self._at, "rounds": self.rounds}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._order, self._at, self.rounds = state["order"], state["at"], state["rounds"]


class ShuffleBuffer:
    """Acts in random order: when half are used, the other half is mixed with fresh ones.

    Args:
        source: Gives fresh acts.
        capacity: Acts held, at least.
        generator: Draws the orders.
    """

    def __init__(self, source: ActsSource, capacity: int, generator: torch.Generator) -> None:
        self._source, self._capacity, self._generator = source, capacity, generator
        self._rows: Tensor | None = None
        self._at = 0

    def batch(self, size: int) -> Float[Tensor, "B D"]:
        """Return ``size`` acts."""
        if self._rows is None or self._at + size > max(len(self._rows) // 2, size):
            self._refill(size)
        assert self._rows is not None
        out = self._rows[self._at : self._at + size]
        self._at += size
        return out

    def _refill(self, size: int) -> None:
        parts = [] if self._rows is None else [self._rows[self._at :]]
        while sum(len(p) for p in parts) < max(self._capacity, 2 * size):
            parts.append(self._source.next())
        rows = torch.cat(parts)
        self._rows = rows[torch.randperm(len(rows), generator=self._generator).to(rows.device)]
        self._at = 0

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here: the unread acts and the source's place."""
        rows = None if self._rows is None else self._rows[self._at :].cpu().clone()
        total = 0 if self._rows is None else len(self._rows)
        return {"rows": rows, "read": self._at, "total": total, "source": self._source.state()}

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on where ``state`` was taken; acts that were read already are not kept."""
        self._source.restore(state["source"])
        if state["rows"] is not None:
            unread = state["rows"].to(device)
            self._rows = torch.cat([unread.new_zeros(state["read"], unread.shape[1]), unread])
            self._at = state["read"]

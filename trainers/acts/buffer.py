"""The shuffling buffer: when half of its acts are used, the rest is mixed with fresh ones.

Letters: ``B`` acts of a batch, ``D`` width of a site.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .source import Source


class ShuffleBuffer:
    """Acts of one or several sites in random order.

    Args:
        source: Gives fresh acts.
        capacity: Acts held, at least.
        seed: Of the orders.
    """

    def __init__(self, source: Source, capacity: int, seed: int) -> None:
        self._source, self._capacity = source, capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._sites: list[Tensor] = []
        self._at = self._held = 0

    def batch(self, size: int) -> list[Float[Tensor, "B D"]]:
        """Return ``size`` acts of every site, of the same tokens."""
        if self._at + size > max(self._held // 2, size) or not self._held:
            self._refill(size)
        out = [rows[self._at : self._at + size] for rows in self._sites]
        self._at += size
        return out

    def _refill(self, size: int) -> None:
        parts = [[rows[self._at :]] for rows in self._sites]
        held = self._held - self._at
        while held < max(self._capacity, 2 * size):
            fresh = self._source.next()
            parts = parts or [[] for _ in fresh]
            for part, new in zip(parts, fresh, strict=True):
                part.append(new)
            held += len(fresh[0])
        order = torch.randperm(held, generator=self._generator)
        self._sites = []  # the old rows go before the new ones come
        while parts:
            rows = torch.cat(parts.pop(0))
            self._sites.append(rows[order.to(rows.device, non_blocking=True)])
        self._at, self._held = 0, held

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here: the unread acts and the source's place."""
        rows = [r[self._at :].cpu().clone() for r in self._sites]
        return {
            "rows": rows, "read": self._at, "held": self._held, "source": self._source.state(),
            "generator": self._generator.get_state(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on where ``state`` was taken; acts that were read already are not kept."""
        self._source.restore(state["source"])
        self._generator.set_state(state["generator"])
        self._at, self._held = state["read"], state["held"]
        unread = [r.to(device) for r in state["rows"]]
        self._sites = [torch.cat([r.new_zeros(self._at, r.shape[1]), r]) for r in unread]

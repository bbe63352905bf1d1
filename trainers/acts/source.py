"""Acts live from the model: only the blocks before the deepest site run, once for all sites.

Letters: ``N`` contexts, ``L`` positions, ``D`` width of a site.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.port import Port

from ..ranks import Ranks

Chunk = list[Tensor]
"""Acts ``[n, D]`` of the same tokens, one tensor a site."""


@runtime_checkable
class Source(Protocol):
    """Gives chunk after chunk, for ever."""

    def next(self) -> Chunk:
        """Return the next acts, float32."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        ...


class Order:
    """Rows of a table in random order, every row once before any comes again."""

    def __init__(self, n: int, seed: int) -> None:
        self._n, self._generator = n, torch.Generator().manual_seed(seed)
        self._order = torch.zeros(0, dtype=torch.long)
        self._at = 0

    def take(self, count: int) -> Int[Tensor, " n"]:
        """Return the next rows, ``count`` at most."""
        if self._at >= len(self._order):
            self._order, self._at = torch.randperm(self._n, generator=self._generator), 0
        rows = self._order[self._at : self._at + count]
        self._at += len(rows)
        return rows

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs."""
        return {"order": self._order, "at": self._at, "generator": self._generator.get_state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._order, self._at = state["order"], state["at"]
        self._generator.set_state(state["generator"])


class SiteReader:
    """Reads several sites of one model in one forward that stops behind the deepest.

    Args:
        ports: The sites.
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = list(ports)
        self._by_depth = sorted(range(len(ports)), key=lambda i: ports[i].layer)
        self.model = ports[0].model

    @torch.inference_mode()
    def read(self, tokens: Int[Tensor, "N L"]) -> list[Float[Tensor, "N L D"]]:
        """Return the acts at every site, in the order of the ports."""
        stack, found = self.model.stack, {}
        hidden, at = None, 0
        for i in self._by_depth:
            port = self._ports[i]
            hidden = stack.prefix(tokens, port.layer) if hidden is None else stack.advance(tokens, hidden, at, port.layer)
            at = port.layer
            found[i] = port.acts_behind(tokens, hidden)
        return [found[i] for i in range(len(self._ports))]


class LiveSource:
    """Scored acts of a corpus, contexts in a new order each time round. BOS, padding and separators stay out.

    Args:
        reader: The sites.
        corpus: The contexts to train on.
        seed: Of the orders.
        ranks: Processes that share the forward: each runs a part of the contexts, and all get all acts.
    """

    def __init__(self, reader: SiteReader, corpus: Corpus, seed: int, ranks: Ranks | None = None) -> None:
        self._reader, self._corpus, self._ranks = reader, corpus, ranks or Ranks()
        size = max(1, (4096 if reader.model.device.type == "cpu" else 32768) // corpus.context_length)
        self._batch = size * self._ranks.world
        self._order = Order(len(corpus.tokens), seed)

    def next(self) -> Chunk:
        """Return the acts of the next contexts."""
        rows = self._order.take(self._batch)
        world, rank = self._ranks.world, self._ranks.rank
        own = rows.tensor_split(world)[rank]
        device = self._reader.model.device
        scored = self._corpus.scored[own].to(device)
        if len(own):
            acts = self._reader.read(self._corpus.tokens[own].to(device))
        else:  # fewer contexts are left than there are processes; a row of another's gives the shapes
            acts = [a[:0] for a in self._reader.read(self._corpus.tokens[rows[:1]].to(device))]
        # indexing makes plain copies, which autograd may save, outside inference mode
        return [self._ranks.gather_rows(act[scored].float().clone()) for act in acts]

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here."""
        return self._order.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._order.restore(state)

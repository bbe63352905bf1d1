"""Acts at the last token of very many short texts, with what they have in common computed once.

Every token sees only those before it, so a text that another one begins with needs no row of its own, and texts that begin
alike share the acts of their common beginning. The texts are sorted and laid out as a tree of their beginnings. Where the model
lets that be (:func:`saebench.lm.flat_tree.runs_flat`), large pieces of it go through flat, each token once. Elsewhere rows are
cut from it: either chains, each a text with all those that it begins with, or pieces of the tree, in which an attention mask
lets a token see its own text alone and its position is its depth. Pieces hold fewer tokens in all, but attention over a row
costs more the longer it is; what is cheaper is taken. Models that take no such mask
(:func:`saebench.lm.branches.takes_branches`) get chains. The numbers are those of one forward a text.

Letters: ``B`` rows, ``L`` positions of a row, ``Q`` texts, ``D`` width of the site.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.lm import token_tree
from saebench.lm.branches import seeing, takes_branches
from saebench.lm.flat_tree import runs_flat, stream_at_ends
from saebench.lm.port import Port

_DEEP = (2, 4)
"""A row of the tree holds this many times the longest text: one that begins inside a text repeats its beginning."""
_ROW = 32
"""And no fewer tokens than this."""
_EXP = 40
"""What a softmax entry costs, in multiplications."""
_TOKENS = 2048
_TOKENS_GPU = 32768
_FLAT = 1 << 19
"""Numbers of the residual stream of a flat tree: the more texts there are of a length, the fewer calls attention takes."""

Text = token_tree.Text


@dataclass
class Row:
    """A part of the tree, depth first.

    ``tokens[i]`` stands at position ``depth[i]`` of its text and is seen by rows' places ``i`` … ``end[i] − 1``, those below it.
    """

    tokens: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)
    """(number of a text, place of its last token)."""


class Found(NamedTuple):
    """Acts of some texts."""

    texts: Int[Tensor, " Q"]
    """Their numbers, on the CPU."""
    acts: Float[Tensor, "Q D"]
    """At the last token of each, on the model's device."""


class LastActs:
    """Reads the acts at the last token of texts.

    Args:
        port: The site; nothing behind the block that holds it runs.
        longest: Tokens of the longest text that will come; at most what the model takes.
        batch_size: Rows that go through the model at once; of a flat tree as many tokens as they would have. Chosen if ``None``.
            Moves no number beyond rounding.
        flat: Whether the tree goes through flat; found by trying if ``None``.
        together: Else, whether rows may hold texts that branch; found by trying if ``None``.
    """

    def __init__(
        self,
        port: Port,
        longest: int,
        *,
        batch_size: int | None = None,
        flat: bool | None = None,
        together: bool | None = None,
    ) -> None:
        self.port, self._batch_size = port, batch_size
        self.flat = runs_flat(port, longest) if flat is None else flat
        if together is None:
            together = not self.flat and takes_branches(port, longest, max(_ROW, _DEEP[-1] * longest))
        self.together = together
        self._at_once = _TOKENS if port.model.device.type == "cpu" else _TOKENS_GPU
        self._at_once_flat = batch_size * longest if batch_size else max(self._at_once, _FLAT // port.model.d_model)
        self.n_tokens = 0
        """Tokens that went through the model, padding included."""

    def read(self, texts: Sequence[Text]) -> Iterator[Found]:
        """Yield the acts of all texts, some at a time, in any order.

        Args:
            texts: Token ids, BOS included where there is to be one; no two alike, none empty.
        """
        if not texts:
            return
        if self.flat:
            for numbers, tree in token_tree.grow(texts, self._at_once_flat):
                self.n_tokens += len(tree.tokens)
                acts = stream_at_ends(self.port, tree)
                assert acts is not None  # it was tried
                yield Found(torch.from_numpy(numbers), acts)
            return
        order = sorted(range(len(texts)), key=texts.__getitem__)
        shared = [0, *(_common(texts[a], texts[b]) for a, b in itertools.pairwise(order))]
        capacity = self._capacity([len(texts[i]) for i in order], shared) if self.together else 0
        rows = grow(texts, order, shared, capacity)
        if not capacity:
            rows = iter(sorted(rows, key=lambda row: len(row.tokens)))
        batch: list[Row] = []
        size = 0
        for row in rows:
            size = max(size, len(row.tokens))
            if batch and len(batch) >= (self._batch_size or max(1, self._at_once // size)):
                yield self._forward(batch, masked=capacity > 0)
                batch, size = [], len(row.tokens)
            batch.append(row)
        if batch:
            yield self._forward(batch, masked=capacity > 0)

    def _capacity(self, lengths: list[int], shared: list[int]) -> int:
        """Return how many tokens a row should hold, 0 for chains: what is least work by a rough count of multiplications."""
        config, longest = self.port.model.config, max(lengths)
        heads = config.num_attention_heads
        place = 2 * self.port.model.d_model + _EXP * heads
        chains = sum(n for n, after in zip(lengths, [*shared[1:], 0], strict=True) if after < n)
        nodes = sum(n - common for n, common in zip(lengths, shared, strict=True))
        work = {0: chains * (12 * self.port.model.d_model**2 + place * longest / 2)}
        for deep in _DEEP:
            row = max(_ROW, deep * longest)
            repeated = 1 + longest / (2 * row)
            work[row] = nodes * repeated * (12 * self.port.model.d_model**2 + place * row)
        return min(work, key=work.__getitem__)

    @torch.inference_mode()
    def _forward(self, rows: list[Row], *, masked: bool) -> Found:
        device, length = self.port.model.device, max(len(row.tokens) for row in rows)
        inside = torch.arange(length) < torch.tensor([len(row.tokens) for row in rows])[:, None]

        def laid(parts: Iterator[list[int]], padding: Tensor) -> Tensor:
            """Return one row each, with ``padding`` behind."""
            out = padding.expand(len(rows), length).clone()
            out[inside] = torch.tensor(list(itertools.chain.from_iterable(parts)))
            return out.to(device)

        tokens = laid((row.tokens for row in rows), torch.zeros(1, dtype=torch.long))
        self.n_tokens += tokens.numel()
        place = torch.arange(length, device=device)
        depth = laid((row.depth for row in rows), torch.zeros(1, dtype=torch.long)) if masked else place.expand(len(rows), -1)
        end = laid((row.end for row in rows), torch.arange(1, length + 1)) if masked else torch.full_like(tokens, length)
        asked = torch.tensor([(i, at, text) for i, row in enumerate(rows) for text, at in row.asked]).T
        row_of, at = asked[0].to(device), asked[1].to(device)
        with self._seeing(end, depth) if masked else contextlib.nullcontext():
            return Found(asked[2], self.port.clean(tokens, final=False).acts[row_of, at])

    def _seeing(self, end: Int[Tensor, "B L"], depth: Int[Tensor, "B L"]) -> contextlib.AbstractContextManager[None]:
        dtype = self.port.model.dtype
        place = torch.arange(end.shape[1], device=end.device)
        sees = (place[None, None, :] <= place[None, :, None]) & (place[None, :, None] < end[:, None, :])
        mask = torch.zeros(sees.shape, dtype=dtype, device=end.device).masked_fill_(~sees, torch.finfo(dtype).min)
        return seeing(self.port, mask[:, None], depth)


def grow(texts: Sequence[Text], order: Sequence[int], shared: Sequence[int], capacity: int) -> Iterator[Row]:
    """Yield rows that hold all texts, each with its whole beginning.

    Args:
        texts: No two alike.
        order: Their numbers, sorted by text.
        shared: How many tokens each has in common with the one before it in that order, 0 for the first.
        capacity: Tokens of a row; a text that is longer has a row of its own. 0: a row holds a text and those it begins with.
    """
    row, path = Row(), []
    for number, common in zip(order, shared, strict=True):
        text = texts[number]
        full = len(row.tokens) + len(text) - common > capacity if capacity else common < len(row.tokens)
        if row.tokens and full:
            yield _closed(row)
            row, path = Row(), []
        common = min(common, len(path))
        for place in path[common:]:
            row.end[place] = len(row.tokens)
        del path[common:]
        n = len(row.tokens)
        path.extend(range(n, n + len(text) - common))
        row.tokens.extend(text[common:])
        row.depth.extend(range(common, len(text)))
        row.end.extend([-1] * (len(text) - common))
        row.asked.append((number, path[-1]))
    if row.tokens:
        yield _closed(row)


def _closed(row: Row) -> Row:
    row.end = [len(row.tokens) if end < 0 else end for end in row.end]
    return row


def _common(a: Text, b: Text) -> int:
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    low, high = 0, n  # a[:low] == b[:low], a[:high] != b[:high]
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low

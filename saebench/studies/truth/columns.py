"""What may answer a question: columns of numbers, mostly 0, one a latent or one a side of a direction.

Everything that is compared (an SAE, the residual channels, principal components, random directions) is brought to one form:
columns whose entries are above 0 where they fire. A latent that takes both signs (AbsTopK), and every direction, is two
columns, its positive and its negative part. No dictionary is ever held as tokens × columns: what fires is kept, by column, and
where that is too much, as many columns at a time as fit.

Letters: ``T`` tokens, ``D`` width of the acts, ``S`` latents or directions, ``C`` columns, ``R`` = C + 1, ``Z`` entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array, vstack
from torch import Tensor

from saebench.sae import SAE, SAEConfig, SAEWeights

MAX_ENTRIES = 1 << 25
"""Entries held at once; about 0.5 GiB while they are sorted."""
_PIECE = 8192


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Some columns, each as its entries from the largest to the smallest.

    Args:
        ids: Number of each column; ``id % S`` is the latent, ``id // S`` is 1 for its negative part.
        offsets: Column ``c`` is ``values[offsets[c]:offsets[c + 1]]``.
        tokens: The token of each entry.
        values: The entries, above 0.
    """

    ids: Int[np.ndarray, " C"]
    offsets: Int[np.ndarray, " R"]
    tokens: Int[np.ndarray, " Z"]
    values: Float[np.ndarray, " Z"]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int) -> Columns:
        """Return the columns ``start`` … ``stop − 1``."""
        offsets = self.offsets[start : stop + 1]
        inside = slice(int(offsets[0]), int(offsets[-1]))
        return Columns(
            ids=self.ids[start:stop], offsets=offsets - offsets[0], tokens=self.tokens[inside], values=self.values[inside]
        )

    def column(self, index: int) -> tuple[Int[np.ndarray, " Z"], Float[np.ndarray, " Z"]]:
        """Return (tokens, values) of one column."""
        inside = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.tokens[inside], self.values[inside]


class Source(ABC):
    """Something with columns.

    Args:
        size: ``S``.
        max_entries: Entries held at once; ``MAX_ENTRIES`` if ``None``.
    """

    def __init__(self, size: int, *, max_entries: int | None = None) -> None:
        self.size, self.max_entries = size, max_entries or MAX_ENTRIES
        self.finite = True
        """Whether everything seen so far was finite; what is not counts as silence."""

    @abstractmethod
    def blocks(self, acts: Float[Tensor, "T D"]) -> Iterator[Columns]:
        """Yield all columns that fire anywhere on ``acts``, some at a time."""

    @abstractmethod
    def picked(self, acts: Float[Tensor, "T D"], ids: Int[np.ndarray, " C"]) -> Columns:
        """Return the columns with the given ids (sorted, each once), those that never fire included."""


class Latents(Source):
    """The latents of an SAE, encoded again for each block of them if they fire too often to be held all at once."""

    def __init__(self, sae: SAE, *, max_entries: int | None = None) -> None:
        super().__init__(sae.config.d_sae, max_entries=max_entries)
        self.sae = sae
        self.l0: float | None = None
        """Mean number of latents that fire at a token of the acts last given to :meth:`blocks`."""

    def blocks(self, acts: Float[Tensor, "T D"]) -> Iterator[Columns]:
        """Yield the latents that fire, and count them (see ``l0``)."""
        low, total = 0, 0
        while low < self.size:
            high, kept = self.size, []
            held = 0
            for piece in self._encode(acts):
                piece = piece[:, low:high]
                kept.append(piece)
                held += piece.nnz
                while held > self.max_entries and high > low + 1:
                    high = low + (high - low) // 2
                    kept = [p[:, : high - low] for p in kept]
                    held = sum(p.nnz for p in kept)
            total += held
            columns = _by_column(kept, np.arange(low, high), self.size)
            yield _that_fire(columns)
            low = high
        self.l0 = total / max(len(acts), 1)

    def picked(self, acts: Float[Tensor, "T D"], ids: Int[np.ndarray, " C"]) -> Columns:
        """Return the latents with the given ids."""
        latents = np.unique(ids % self.size)
        columns = _by_column([piece[:, latents] for piece in self._encode(acts)], latents, self.size)
        return _with_ids(columns, ids)

    def _encode(self, acts: Float[Tensor, "T D"]) -> Iterator[csr_array]:
        """Yield the latents of some tokens at a time; at least one matrix, be it empty."""
        device = self.sae.W_enc.device
        yield csr_array((0, self.size), dtype=np.float32)
        for start in range(0, len(acts), _PIECE):
            for latents, _ in self.sae.run(acts[start : start + _PIECE].to(device)):
                values = latents.values.float().cpu().numpy()
                if not np.isfinite(values).all():
                    self.finite = False
                    values = np.where(np.isfinite(values), values, 0.0)
                indices = latents.indices.int().cpu().numpy()
                yield csr_array((values, indices, latents.offsets.int().cpu().numpy()), shape=(len(latents), self.size))


class Directions(Source):
    """Projections of x − μ on some directions, each with two sides.

    Args:
        mean: μ.
        directions: One a column; the channels themselves if ``None``.
    """

    def __init__(
        self, mean: Float[Tensor, " D"], directions: Float[Tensor, "D S"] | None = None, *, max_entries: int | None = None
    ) -> None:
        super().__init__(len(mean) if directions is None else directions.shape[1], max_entries=max_entries)
        self.mean, self.directions = mean, directions

    def blocks(self, acts: Float[Tensor, "T D"]) -> Iterator[Columns]:
        """Yield both sides of some directions at a time."""
        step = max(1, self.max_entries // max(len(acts), 1))
        for start in range(0, self.size, step):
            chosen = np.arange(start, min(start + step, self.size))
            yield _that_fire(_both_sides(self._project(acts, chosen), chosen, self.size))

    def picked(self, acts: Float[Tensor, "T D"], ids: Int[np.ndarray, " C"]) -> Columns:
        """Return the sides with the given ids."""
        chosen = np.unique(ids % self.size)
        return _with_ids(_both_sides(self._project(acts, chosen), chosen, self.size), ids)

    def _project(self, acts: Float[Tensor, "T D"], chosen: Int[np.ndarray, " C"]) -> Float[np.ndarray, "C T"]:
        which = torch.from_numpy(chosen)
        out = np.empty((len(chosen), len(acts)), dtype=np.float32)
        for start in range(0, len(acts), _PIECE):
            x = acts[start : start + _PIECE].to(self.mean.device).float() - self.mean
            x = x[:, which] if self.directions is None else x @ self.directions[:, which]
            out[:, start : start + len(x)] = x.T.cpu().numpy()
        if not np.isfinite(out).all():
            self.finite = False
            out[~np.isfinite(out)] = 0.0
        return out


def mean_and_components(
    acts: Float[Tensor, "T D"], device: torch.device | str = "cpu"
) -> tuple[Float[Tensor, " D"], Float[Tensor, "D D2"]]:
    """Return (mean, principal components, one a column, largest variance first) of acts, worked out in float64.

    Args:
        acts: On the CPU or elsewhere.
        device: Where to work it out, and where the answer is put.
    """
    mean = torch.zeros(acts.shape[1], dtype=torch.float64, device=device)
    for part in acts.split(_PIECE):
        mean += part.to(device).double().sum(0)
    mean /= len(acts)
    scatter = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=device)
    for part in acts.split(_PIECE):
        x = part.to(device).double() - mean
        scatter += x.T @ x
    return mean.float(), torch.linalg.eigh(scatter).eigenvectors.flip(1).float().contiguous()


def random_dictionary(mean: Float[Tensor, " D"], d_sae: int, k: int, *, seed: int) -> SAE:
    """Return the TopK SAE f = TopK_k((x − μ) W) of random directions of length 1 (columns of W, normal and normalised)."""
    device, generator = mean.device, torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, len(mean), generator=generator), dim=1)
    config = SAEConfig(activation="topk", d_in=len(mean), d_out=len(mean), d_sae=d_sae, k=k, name="random")
    mean = mean.cpu()
    weights = SAEWeights(W_enc=rows.T.contiguous(), b_enc=torch.zeros(d_sae), W_dec=rows, b_dec=mean, b_in=mean)
    return SAE(config, weights).to(device=device)


def _by_column(pieces: list[csr_array], latents: Int[np.ndarray, " S"], size: int) -> Columns:
    """Return the columns of sparse matrices, one below the other: positive parts, then negative ones, where there are any."""
    matrix = csc_array(vstack(pieces, format="csc"))
    column = np.repeat(np.arange(len(latents)), np.diff(matrix.indptr))
    values, tokens = np.asarray(matrix.data), np.asarray(matrix.indices)
    sides = [values > 0]
    if (values < 0).any():
        sides.append(values < 0)
    ids, counts, orders = [], [], []
    for side, here in enumerate(sides):
        ids.append(latents + side * size)
        counts.append(np.bincount(column[here], minlength=len(latents)))
        order = np.flatnonzero(here)
        ends = np.cumsum(counts[-1])
        for start, stop in zip((ends - counts[-1]).tolist(), ends.tolist(), strict=True):
            if stop > start + 1:
                order[start:stop] = order[start:stop][np.argsort(-np.abs(values[order[start:stop]]))]
        orders.append(order)
    order = np.concatenate(orders)
    return Columns(
        ids=np.concatenate(ids), offsets=_offsets(np.concatenate(counts)), tokens=tokens[order], values=np.abs(values[order])
    )


def _both_sides(values: Float[np.ndarray, "C T"], chosen: Int[np.ndarray, " C"], size: int) -> Columns:
    ids: list[int] = []
    tokens: list[NDArray[np.int64]] = []
    entries: list[NDArray[np.float32]] = []
    for which, row in zip(chosen.tolist(), values, strict=True):
        order = np.argsort(row)
        n_negative, n_positive = int((row < 0).sum()), int((row > 0).sum())
        for id, side in ((which, order[::-1][:n_positive]), (which + size, order[:n_negative])):
            ids.append(id)
            tokens.append(side)
            entries.append(np.abs(row[side]))
    return Columns(
        ids=np.array(ids, dtype=np.int64),
        offsets=_offsets([len(t) for t in tokens]),
        tokens=np.concatenate(tokens),
        values=np.concatenate(entries),
    )


def _that_fire(columns: Columns) -> Columns:
    counts = np.diff(columns.offsets)
    fire = counts > 0
    return Columns(
        ids=columns.ids[fire],
        offsets=_offsets(counts[fire]),
        tokens=columns.tokens,
        values=columns.values,
    )


def _with_ids(columns: Columns, ids: Int[np.ndarray, " C"]) -> Columns:
    """Return the columns with these ids, in this order; a column that is not there is empty."""
    where = {id: i for i, id in enumerate(columns.ids.tolist())}
    parts = [columns.column(where[id]) if id in where else (columns.tokens[:0], columns.values[:0]) for id in ids.tolist()]
    return Columns(
        ids=ids,
        offsets=_offsets([len(tokens) for tokens, _ in parts]),
        tokens=np.concatenate([columns.tokens[:0], *(tokens for tokens, _ in parts)]),
        values=np.concatenate([columns.values[:0], *(values for _, values in parts)]),
    )


def _offsets(counts: NDArray[np.int64] | list[int]) -> Int[np.ndarray, " R"]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

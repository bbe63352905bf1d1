"""Probes on latents that are mostly 0: an iteration costs as much as there are entries, whatever the number of examples.

All examples where a latent is silent have one and the same x = 0, after standardising the same u = −mean / deviation, and so the
same z: they enter every sum in closed form, through how many of them there are and how many of those say yes.

Letters: ``N`` examples, ``S`` latents, ``C`` columns with an entry at least, ``Z`` entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from saebench.studies.probes.newton import CONSTANT, L2, Bools, Columns, Fits, Floats, solve

AT_ONCE = 1 << 16
"""Entries that go through Newton's method together: few enough for a processor's cache."""

Matrix = csr_array | csc_array


@dataclass(frozen=True, kw_only=True)
class _Flat:
    """Columns one behind the other, none of them empty."""

    x: Float[np.ndarray, " Z"]
    yes: Bool[np.ndarray, " Z"]
    counts: Int[np.ndarray, " C"]
    n: Int[np.ndarray, " C"]
    """Examples of the column's task."""
    n_yes: Int[np.ndarray, " C"]


class SparseColumns(Columns):
    """Columns of which only the entries ≠ 0 are held."""

    def __init__(self, flat: _Flat) -> None:
        self._counts, starts = flat.counts, np.cumsum(flat.counts) - flat.counts
        self._starts = starts
        n = flat.n.astype(np.float64)
        silent = n - flat.counts
        silent_yes = flat.n_yes - np.add.reduceat(flat.yes, starts, dtype=np.int64)
        x = flat.x.astype(np.float64)
        self.share = flat.n_yes / n
        self.mean = np.add.reduceat(x, starts) / n
        x0 = x - np.repeat(self.mean, self._counts)
        self.deviation = np.sqrt((np.add.reduceat(x0 * x0, starts) + silent * self.mean**2) / n)
        largest = np.maximum.reduceat(np.abs(x), starts)
        lows, highs = _extremes(x, flat.yes, starts, silent - silent_yes > 0, silent_yes > 0)
        self.constant = (np.minimum(*lows) == np.maximum(*highs)) | ~(self.deviation > CONSTANT * largest)
        self.separable = ~self.constant & ((highs[0] <= lows[1]) | (highs[1] <= lows[0]))
        deviation = np.where(self.constant, 1.0, self.deviation)
        self._u = torch.from_numpy(x0 / np.repeat(deviation, self._counts))
        self._sign = torch.from_numpy(2.0 * flat.yes - 1.0)
        self._column = torch.from_numpy(np.repeat(np.arange(len(n)), self._counts))
        self._silent_u = -self.mean / deviation
        self._n, self._silent, self._silent_yes = n, silent / n, silent_yes / n
        self._room = torch.empty(6, len(x), dtype=torch.float64)

    def guess(self) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
        """Return (w, b) that are right if all entries ≠ 0 of a column are the same, half an example added to each side."""
        n, entries = self._n, self._counts
        silent, silent_yes = n * self._silent, n * self._silent_yes
        yes = n * self.share - silent_yes
        fires, silence = np.log((yes + 0.5) / (entries - yes + 0.5)), np.log((silent_yes + 0.5) / (silent - silent_yes + 0.5))
        w = (fires - silence) * entries / (-self._silent_u * n)  # over the mean of u where it fires less that where it does not
        return w, silence - w * self._silent_u

    def sums(self, w: Float[np.ndarray, " C"], b: Float[np.ndarray, " C"]) -> Float[np.ndarray, "6 C"]:
        """Return the six means (see :meth:`Columns.sums`).

        With s = 1 for yes and −1 for no, q = σ(s z) is the probability of the right answer: CE = −ln q, r = s (q − 1).
        """
        u, sign, room, column = self._u, self._sign, self._room, self._column
        z = torch.from_numpy(w).index_select(0, column).mul_(u)
        z.add_(torch.from_numpy(b).index_select(0, column)).mul_(sign)
        q = z.sigmoid_()
        wrong = torch.sub(q, 1.0)
        torch.log(q, out=room[0]).neg_()
        torch.mul(wrong, sign, out=room[2])
        torch.mul(room[2], u, out=room[1])
        torch.mul(q, wrong, out=room[5]).neg_()
        torch.mul(room[5], u, out=room[4])
        torch.mul(room[4], u, out=room[3])
        out = np.add.reduceat(room.numpy(), self._starts, axis=1)
        out /= self._n
        return self._with_silent(out, w, b)

    def _with_silent(self, out: Floats, w: Floats, b: Floats) -> Floats:
        u, n = self._silent_u, self._silent
        z = w * u + b
        loss, p = _losses(z)
        r, h = n * p - self._silent_yes, n * p * (1.0 - p)
        out += np.stack([n * loss - self._silent_yes * z, r * u, r, h * u * u, h * u, h])
        return out

    def kept(self, which: Bool[np.ndarray, " C"]) -> SparseColumns:
        """Return some of the columns."""
        other = SparseColumns.__new__(SparseColumns)
        entries = torch.from_numpy(which).index_select(0, self._column)
        other._counts = self._counts[which]
        other._starts = np.cumsum(other._counts) - other._counts
        other._u, other._sign = self._u[entries], self._sign[entries]
        other._column = torch.from_numpy(np.repeat(np.arange(len(other._counts)), other._counts))
        other._room = torch.empty(6, len(other._u), dtype=torch.float64)
        for name in ("share", "mean", "deviation", "separable", "_silent_u", "_n", "_silent", "_silent_yes"):
            setattr(other, name, getattr(self, name)[which])
        return other


def fit_sparse(tasks: Sequence[tuple[Matrix, Bools]], *, l2: float = L2, at_once: int | None = None) -> list[Fits]:
    """Return the probes of all latents in all tasks, by task.

    A latent that never fires, one that always has the same value, and every latent of a task with one class only get the
    weight 0 and the task's share of yes.

    Args:
        tasks: (latents ``[N, S]``, labels ``[N]``) of each; the same latents may come with several labels.
        l2: The penalty, above 0.
        at_once: Entries that are worked on together; :data:`AT_ONCE` if ``None``. It moves no number.
    """
    out = [Fits.of_nothing(_width(matrix), float(labels.mean())) for matrix, labels in tasks]
    held: list[_Piece] = []
    entries = 0
    for piece in _pieces(tasks, at_once or AT_ONCE):
        if held and entries + len(piece.flat.x) > (at_once or AT_ONCE):
            _solve(held, out, l2)
            held, entries = [], 0
        held.append(piece)
        entries += len(piece.flat.x)
    if held:
        _solve(held, out, l2)
    return out


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some latents of one task."""

    task: int
    latents: Int[np.ndarray, " C"]
    flat: _Flat


def _pieces(tasks: Sequence[tuple[Matrix, Bools]], most: int) -> Iterator[_Piece]:
    """Yield latents that fire, ``most`` entries at a time, or one latent that has more."""
    last: tuple[Matrix, csc_array] | None = None
    for number, (given, labels) in enumerate(tasks):
        if not labels.any() or labels.all():
            continue
        if last is None or last[0] is not given:
            matrix = csc_array(given)
            if not np.all(matrix.data):
                matrix = matrix.copy()
                matrix.eliminate_zeros()
            last = given, matrix
        matrix = last[1]
        offsets = np.asarray(matrix.indptr, dtype=np.int64)
        latents = np.flatnonzero(np.diff(offsets))
        ends = offsets[latents + 1]
        start = 0
        while start < len(latents):
            begin = offsets[latents[start]]
            stop = max(start + 1, int(np.searchsorted(ends, begin + most, side="right")))
            inside = slice(int(begin), int(ends[stop - 1]))
            here = latents[start:stop]
            flat = _Flat(
                x=matrix.data[inside],
                yes=labels[matrix.indices[inside]],
                counts=np.diff(offsets)[here],
                n=np.full(len(here), len(labels)),
                n_yes=np.full(len(here), int(labels.sum())),
            )
            yield _Piece(task=number, latents=here, flat=flat)
            start = stop


def _solve(pieces: Sequence[_Piece], out: Sequence[Fits], l2: float) -> None:
    """Put the probes of all pieces into ``out``."""
    columns = SparseColumns(
        _Flat(
            x=np.concatenate([piece.flat.x for piece in pieces]),
            yes=np.concatenate([piece.flat.yes for piece in pieces]),
            counts=np.concatenate([piece.flat.counts for piece in pieces]),
            n=np.concatenate([piece.flat.n for piece in pieces]),
            n_yes=np.concatenate([piece.flat.n_yes for piece in pieces]),
        )
    )
    informative = ~columns.constant
    if not informative.any():
        return
    fits = solve(columns if informative.all() else columns.kept(informative), l2)
    taken = np.cumsum(informative) - 1
    start = 0
    for piece in pieces:
        here = slice(start, start + len(piece.latents))
        start = here.stop
        mine = informative[here]
        which = taken[here][mine]
        picked = Fits(**{name: getattr(fits, name)[which] for name in ("weight", "bias", "loss", "separable", "converged")})
        out[piece.task].put(piece.latents[mine], picked)


def _width(matrix: Matrix) -> int:
    shape = matrix.shape
    assert shape is not None  # scipy's own hints allow it
    return shape[1]


def _losses(z: Floats) -> tuple[Floats, Floats]:
    """Return ln(1 + eᶻ) and σ(z), exact for large |z|."""
    e = np.exp(-np.abs(z))
    return np.maximum(z, 0.0) + np.log1p(e), np.where(z >= 0, 1.0, e) / (1.0 + e)


def _extremes(
    x: Floats, yes: Bools, starts: NDArray[np.int64], silent_no: Bools, silent_yes: Bools
) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
    """Return the smallest and the largest value of the examples that say no, and of those that say yes, zeros included."""
    lows, highs = [], []
    for here, silent in ((~yes, silent_no), (yes, silent_yes)):
        low = np.minimum.reduceat(np.where(here, x, np.inf), starts)
        high = np.maximum.reduceat(np.where(here, x, -np.inf), starts)
        lows.append(np.where(silent, np.minimum(low, 0.0), low))
        highs.append(np.where(silent, np.maximum(high, 0.0), high))
    return (lows[0], lows[1]), (highs[0], highs[1])

"""What is probed: the latents of an SAE, before or after its activation, and what is put in their place to compare.

Letters: ``N`` texts, ``T`` tokens, ``D`` width of the acts, ``S`` latents or directions, ``K`` chosen ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_array, vstack
from torch import Tensor

from saebench.sae import SAE
from saebench.studies.probes.acts import Pooling, TextActs
from saebench.studies.probes.dense import fit_dense
from saebench.studies.probes.newton import Bools, Fits
from saebench.studies.probes.sparse import fit_sparse

_PIECE = 8192
"""Tokens that are encoded before they are pooled."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One task, ready to be probed."""

    name: str
    labels: Bool[np.ndarray, " N"]
    is_train: Bool[np.ndarray, " N"]
    acts: TextActs
    pooled: Float[Tensor, "N D"]
    """One act a text."""


class Dictionary(ABC):
    """Something with one number a text and latent.

    Args:
        size: ``S``.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.finite = True
        """Whether everything seen so far was finite; what is not counts as 0."""

    @abstractmethod
    def fits(self, probe: Probe, labellings: Sequence[Bools], *, l2: float) -> list[Fits]:
        """Return the probe of every latent on the training texts, by labelling of these."""

    @abstractmethod
    def values(self, probe: Probe, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "N K"]:
        """Return some latents of all texts."""


class Latents(Dictionary):
    """The latents of an SAE after its activation, mostly 0.

    Args:
        sae: For the model's own acts (:meth:`saebench.sae.SAE.that_centres`).
        pooling: From the tokens of a text to one number a latent.
    """

    def __init__(self, sae: SAE, pooling: Pooling) -> None:
        super().__init__(sae.config.d_sae)
        self.sae = sae
        self.pooling: Pooling = pooling
        self._last: tuple[Probe, csr_array] | None = None
        self._entries, self._tokens = 0, 0

    @property
    def l0(self) -> float:
        """Mean number of latents ≠ 0 at the tokens read so far."""
        return self._entries / max(self._tokens, 1)

    def fits(self, probe: Probe, labellings: Sequence[Bools], *, l2: float) -> list[Fits]:
        """Return the probe of every latent on the training texts, by labelling of these."""
        train = self.matrix(probe)[probe.is_train].tocsc()
        return fit_sparse([(train, labels) for labels in labellings], l2=l2)

    def values(self, probe: Probe, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "N K"]:
        """Return some latents of all texts."""
        return self.matrix(probe)[:, ids].toarray().astype(np.float64)

    def matrix(self, probe: Probe) -> csr_array:
        """Return the pooled latents ``[N, S]`` of all texts; those of the last probe are remembered."""
        if self._last is None or self._last[0] is not probe:
            self._last = probe, self._encode(probe.acts)
        return self._last[1]

    def _encode(self, acts: TextActs) -> csr_array:
        offsets, pieces, start = acts.offsets, [], 0
        while start < len(offsets) - 1:  # whole texts, some at a time
            stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + _PIECE, side="right")) - 1)
            piece = acts.acts[int(offsets[start]) : int(offsets[stop])]
            tokens = self._latents(piece)
            self._entries, self._tokens = self._entries + tokens.nnz, self._tokens + len(piece)
            pieces.append(pool(tokens, np.diff(offsets[start : stop + 1]), self.pooling))
            start = stop
        return csr_array(vstack(pieces, format="csr"))

    def _latents(self, acts: Float[Tensor, "T D"]) -> csr_array:
        rows = []
        for latents, _ in self.sae.run(acts.to(self.sae.W_enc.device)):
            values = latents.values.float().cpu().numpy()
            if not np.isfinite(values).all():
                self.finite = False
                values = np.where(np.isfinite(values), values, 0.0).astype(np.float32)
            indices = latents.indices.int().cpu().numpy()
            rows.append(csr_array((values, indices, latents.offsets.int().cpu().numpy()), shape=(len(latents), self.size)))
        return csr_array(vstack(rows, format="csr"))


def pool(tokens: csr_array, lengths: Int[np.ndarray, " N"], pooling: Pooling) -> csr_array:
    """Return one row a text of rows of tokens: its only one, the mean of its rows, or the maximum of each column, zeros included.

    Args:
        tokens: Latents ``[T, S]``, the texts one after the other.
        lengths: Tokens of each text.
        pooling: How.
    """
    if pooling == "last":
        return tokens
    assert tokens.shape is not None  # scipy's own hints allow it
    n, size = len(lengths), tokens.shape[1]
    text = np.repeat(np.arange(n), lengths)
    if pooling == "mean":
        share = csr_array((1.0 / np.repeat(lengths, lengths), (text, np.arange(len(text)))), shape=(n, len(text)))
        return csr_array(share @ tokens.astype(np.float64))
    key = np.repeat(text, np.diff(tokens.indptr)) * size + tokens.indices
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, dtype=np.int64)
    where, data = key[starts], tokens.data[order]
    best = np.maximum.reduceat(data, starts) if len(key) else data
    everywhere = np.diff(np.append(starts, len(key))) == lengths[where // size]
    best = np.where(everywhere, best, np.maximum(best, 0.0))
    out = csr_array((best, (where // size, where % size)), shape=(n, size))
    out.eliminate_zeros()
    return out


class Dense(Dictionary):
    """Numbers that are hardly ever 0; a block of them at a time is held."""

    def fits(self, probe: Probe, labellings: Sequence[Bools], *, l2: float) -> list[Fits]:
        """Return the probe of every number on the training texts, by labelling of these."""
        train = torch.from_numpy(probe.is_train)
        n = int(probe.is_train.sum())
        return fit_dense(
            lambda some: self._finite(self.block(probe, some))[train.to(self.device)],
            self.size, labellings, n=n, device=self.device, l2=l2,
        )  # fmt: skip

    def values(self, probe: Probe, ids: Int[np.ndarray, " K"]) -> Float[np.ndarray, "N K"]:
        """Return some numbers of all texts."""
        columns = [self._finite(self.block(probe, slice(id, id + 1))) for id in ids.tolist()]
        return torch.cat(columns, 1).double().cpu().numpy()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where blocks lie."""

    @abstractmethod
    def block(self, probe: Probe, some: slice) -> Float[Tensor, "N s"]:
        """Return some numbers of all texts."""

    def _finite(self, x: Float[Tensor, "N s"]) -> Float[Tensor, "N s"]:
        if bool(torch.isfinite(x).all()):
            return x
        self.finite = False
        return torch.where(torch.isfinite(x), x, 0.0)


class PreActivations(Dense):
    """The latents of an SAE before its activation, as Gao et al. probe them.

    Args:
        sae: For the model's own acts.
        pooling: From the tokens of a text to one number a latent.
    """

    def __init__(self, sae: SAE, pooling: Pooling) -> None:
        super().__init__(sae.config.d_sae)
        self.sae = sae
        self.pooling: Pooling = pooling

    @property
    def device(self) -> torch.device:
        """The SAE's."""
        return self.sae.W_enc.device

    def block(self, probe: Probe, some: slice) -> Float[Tensor, "N s"]:
        """Return the pooled pre-activations of some latents."""
        lengths = np.diff(probe.acts.offsets)
        parts = self.sae.pre_activations(probe.acts.acts.to(self.device), some)
        return TextActs(acts=parts, offsets=np.append(0, np.cumsum(lengths))).pooled(self.pooling)


class Directions(Dense):
    """Projections of pooled acts less their mean on some directions.

    Args:
        mean: Of the pooled acts; where it lies, blocks lie.
        directions: One a column; the channels themselves if ``None``.
    """

    def __init__(self, mean: Float[Tensor, " D"], directions: Float[Tensor, "D S"] | None = None) -> None:
        super().__init__(len(mean) if directions is None else directions.shape[1])
        self.mean, self.directions = mean, directions

    @property
    def device(self) -> torch.device:
        """The mean's."""
        return self.mean.device

    def block(self, probe: Probe, some: slice) -> Float[Tensor, "N s"]:
        """Return some projections of all texts."""
        if self.directions is None:
            return probe.pooled[:, some].to(self.device) - self.mean[some]
        return (probe.pooled.to(self.device) - self.mean) @ self.directions[:, some]

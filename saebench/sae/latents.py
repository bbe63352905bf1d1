"""Sparse latents: the non-zero entries of [N, S] in compressed rows.

Letters: ``N`` tokens, ``R`` = N + 1, ``S`` d_sae, ``Z`` non-zero entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Latents of ``N`` tokens; only entries ≠ 0 are stored, so L0 is the length of a row.

    Args:
        values: The entries, row by row.
        indices: The latent of each entry.
        offsets: Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
        d_sae: ``S``.
    """

    values: Float[torch.Tensor, " Z"]
    indices: Int[torch.Tensor, " Z"]
    offsets: Int[torch.Tensor, " R"]
    d_sae: int

    @classmethod
    def from_dense(cls, dense: Float[torch.Tensor, "N S"]) -> Latents:
        """Return the non-zero entries of a dense matrix."""
        active = dense != 0
        counts = active.sum(1)
        where = active.nonzero()
        return cls(values=dense[where[:, 0], where[:, 1]], indices=where[:, 1], offsets=_offsets(counts), d_sae=dense.shape[1])

    @classmethod
    def from_rows(cls, values: Float[torch.Tensor, "N K"], indices: Int[torch.Tensor, "N K"], d_sae: int) -> Latents:
        """Return the non-zero ones of ``K`` candidate entries a row (indices are distinct within a row)."""
        active = values != 0
        return cls(values=values[active], indices=indices[active], offsets=_offsets(active.sum(1)), d_sae=d_sae)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def l0(self) -> Int[torch.Tensor, " N"]:
        """Return the number of entries ≠ 0 of each token."""
        return self.offsets.diff()

    def l1(self) -> Float[torch.Tensor, " N"]:
        """Return Σ|f| of each token, summed in float64."""
        out = torch.zeros(len(self), dtype=torch.float64, device=self.values.device)
        return out.index_add_(0, self.rows(), self.values.abs().double())

    def rows(self) -> Int[torch.Tensor, " Z"]:
        """Return the token of each entry."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.l0())

    def to_dense(self) -> Float[torch.Tensor, "N S"]:
        """Return the dense matrix (for small ``N``)."""
        out = self.values.new_zeros(len(self), self.d_sae)
        out[self.rows(), self.indices] = self.values
        return out


def _offsets(counts: Int[torch.Tensor, " N"]) -> Int[torch.Tensor, " R"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

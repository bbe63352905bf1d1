"""AuxK: latents that have not fired for long learn from what the others leave unexplained.

Source: Gao et al. 2024 (arXiv 2406.04093), appendix A.2. Letters: ``B`` acts of a batch, ``D`` width, ``S`` d_sae.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .ranks import Ranks
from .sparse import sparse_decode, topk_encode


class AuxK(nn.Module):
    """The auxiliary loss and its list of dead latents.

    The list is made anew every ``refresh`` steps only, so that the device is not waited for at every step.

    Args:
        k: Dead latents that model the error of one act, at most.
        dead_after: Acts without firing after which a latent is dead.
        refresh: Steps between new lists.
        ranks: The processes that share the work.
    """

    def __init__(self, *, k: int, dead_after: int, refresh: int, ranks: Ranks) -> None:
        super().__init__()
        self.k, self.dead_after, self.refresh, self.ranks = k, dead_after, refresh, ranks
        self._rows = torch.zeros(0, dtype=torch.long)
        self._n = 0

    def get_extra_state(self) -> tuple[Tensor, int]:
        """Return the list, for a checkpoint."""
        return self._rows, self._n

    def set_extra_state(self, state: tuple[Tensor, int]) -> None:
        """Take the list of a checkpoint."""
        self._rows, self._n = state

    def any_dead(self, since_fired: Int[Tensor, " S"], step: int) -> bool:
        """Return whether there are dead latents, after making the list anew if it is time."""
        if step % self.refresh == 0:
            self._rows = (since_fired >= self.dead_after).nonzero()[:, 0]
            self._n = int(self.ranks.total(torch.tensor(len(self._rows), device=since_fired.device)))
        return self._n > 0

    def loss(
        self,
        inner: Float[Tensor, "B D"],
        error: Float[Tensor, "B D"],
        w_enc: Float[Tensor, "S D"],
        b_enc: Float[Tensor, " S"],
        w_dec: Float[Tensor, "S D"],
    ) -> Float[Tensor, ""]:
        """Return ‖error − recon by dead latents‖² over ‖error − mean error‖²; the decoder's bias has no part in it.

        Args:
            inner: What the encoder reads; no gradient flows to it.
            error: What the living latents leave; likewise.
            w_enc: Encoder.
            b_enc: Its bias.
            w_dec: Decoder.
        """
        rows = self._rows.to(inner.device)
        width = min(self.k, self._n)
        k = min(width, len(rows))
        recon = torch.zeros_like(error)
        if k:
            active = topk_encode(inner.detach(), w_enc[rows], b_enc[rows], k)
            own = active.values.detach().view(-1, k)
        else:  # all dead latents are other ranks'
            own = error.new_zeros(len(error), 0)
        kept = self.ranks.among_best(nn.functional.pad(own, (0, width - k), value=-torch.inf), width)[:, :k]
        if k:
            active = active.with_values(active.values.relu() * kept.reshape(-1))  # pyright: ignore[reportPossiblyUnboundVariable]
            recon = sparse_decode(active, w_dec[rows])
        recon = self.ranks.sum_latents(recon)
        mean, square = self.ranks.mean(error.mean(0)), self.ranks.mean(error.square().mean())
        spread = square - mean.square().mean()
        return ((recon - error).square().mean() / spread.clamp_min(1e-12)).nan_to_num(0.0)

"""What enters the first block is a token part and a position part: both, and what an SAE makes of each.

Letters: ``C`` contexts, ``L`` positions, ``D`` d_model, ``u`` different tokens, ``m`` tokens of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.errors import InputError
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.stream import centring, sae_space

SITE = "blocks.0.hook_resid_pre"
_SAMPLE = 4
_TOLERANCE = 1e-4
_AT_ONCE = 4096


def check_site(port: Port) -> None:
    """Raise ``InputError`` if the acts of this site are not what enters the first block."""
    if (port.read.kind, port.read.layer) == ("resid_pre", 0) and port.read.name == port.write.name:
        return
    place = port.read.name if port.read.name == port.write.name else f"{port.read.name} → {port.write.name}"
    raise InputError(
        f"the study positional takes SAEs of {SITE}, where acts are a token part plus a position part, and this one is of "
        f"{place}; train one there (saebench train --site {SITE})"
    )


@torch.inference_mode()
def position_parts(model: LanguageModel, length: int) -> Float[Tensor, "L D"]:
    """Return p_i, i = 0 … L−1: what enters block 0 at position i less what the same token gives at position 0.

    Known up to a constant only, which token parts have too much; nothing that this study computes depends on it.

    Args:
        model: The language model.
        length: ``L``.

    Raises:
        InputError: What enters block 0 does not depend on the position, or not by a sum.
    """
    tokens = (
        torch.linspace(model.d_vocab // 8, model.d_vocab - 1, _SAMPLE, device=model.device).long()[:, None].expand(-1, length)
    )
    acts = model.stack.prefix(tokens.contiguous(), 0).float()
    moved = acts - acts[:, :1]
    size = float(acts.abs().max())
    tolerance = _TOLERANCE if model.dtype == torch.float32 else 0.05
    if float(moved.abs().max()) <= 1e-6 * size:
        raise InputError(
            f"{model.id} ({model.family}) adds no position to what enters its first block (it has rotary positions or the "
            "like); the study positional is for models with learned position embeddings, such as GPT-2"
        )
    if float((moved - moved[:1]).abs().max()) > tolerance * size:
        raise InputError(
            f"what enters the first block of {model.id} ({model.family}) is not a token part plus a position part; the study "
            "positional is for models such as GPT-2"
        )
    return moved.mean(0)


def spread(first: int, last: int, n: int) -> list[int]:
    """Return up to ``n`` different positions from ``first`` to ``last``, both of them, evenly spread."""
    return sorted({round(float(x)) for x in np.linspace(first, last, n)})


class Parts:
    """Token part and position part of acts, and of the recons of one SAE, in the SAE's own space.

    With x = t + p, the token part of the recon is T̂(t) = mean over the known positions q of x̂(t + p_q) − p_q, what the SAE says
    of the token wherever it stands; the position part is P̂ = x̂ − T̂(t). So x̂ − x = (T̂ − t) + (P̂ − p).

    Args:
        port: At the first block.
        sae: The SAE.
        tokens: Those of the text ``[C, L]``; T̂ of each different one is computed now.
        positions: p_i of :func:`position_parts`.
        known: The positions q.
    """

    def __init__(
        self, port: Port, sae: SAE, tokens: Int[Tensor, "C L"], positions: Float[Tensor, "L D"], known: list[int]
    ) -> None:
        different = torch.unique(tokens).to(positions.device)
        self._row = torch.full((port.model.d_vocab,), -1, dtype=torch.long, device=different.device)
        self._row[different] = torch.arange(len(different), device=different.device)
        self._positions = sae_space(sae, positions, centring(port, sae.config)[0])[0]
        chunks = different.split(_AT_ONCE)
        self._recon = torch.cat([self._token_recons(port, sae, chunk, positions, known) for chunk in chunks])

    @torch.inference_mode()
    def _token_recons(
        self, port: Port, sae: SAE, tokens: Int[Tensor, " u"], positions: Float[Tensor, "L D"], known: list[int]
    ) -> Float[Tensor, "u D"]:
        length = len(positions)
        rows = torch.nn.functional.pad(tokens, (0, -len(tokens) % length)).view(-1, length)
        parts = (port.model.stack.prefix(rows, 0) - positions).flatten(0, 1)[: len(tokens)]
        t = sae_space(sae, parts, centring(port, sae.config)[0])[0]
        total = torch.zeros_like(t)
        for q in known:
            total += sae.reconstruct(t + self._positions[q]) - self._positions[q]
        return total / len(known)

    def token_recon(self, tokens: Int[Tensor, " m"]) -> Float[Tensor, "m D"]:
        """Return T̂ of each token."""
        return self._recon[self._row[tokens]]

    def position(self, positions: Int[np.ndarray, " m"]) -> Float[Tensor, "m D"]:
        """Return p of each position."""
        return self._positions[torch.from_numpy(positions).to(self._positions.device)]

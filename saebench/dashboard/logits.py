"""Which tokens a latent writes: its decoder direction through the final norm and the head.

Letters: ``C`` latents, ``M`` d_model, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.lm.effects import logits_of
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import SAE

_ALIKE = 1e-2


class Pushed(NamedTuple):
    """A token, and how far a latent moves its logit."""

    token: int
    value: float


class Pushes(NamedTuple):
    """The tokens that a latent moves most, the furthest first."""

    promoted: list[Pushed]
    suppressed: list[Pushed]


class FinalNorm(NamedTuple):
    """The final norm as a linear map of a change of the stream, the size of the stream held fast at 1."""

    gain: Float[Tensor, " M"]
    centres: bool
    """Whether the mean over M is taken off first, as LayerNorm does."""


def final_norm(model: LanguageModel) -> FinalNorm | None:
    """Return what the model's final norm is, found by two streams of mean 0 and mean square 1 that differ in their sign alone.

    gain = (norm(x) − norm(−x)) / 2x; a bias cancels, and it is 1 where there is no norm at all. ``None`` where something else
    stands between the blocks and the head: a map to another width, say.

    Args:
        model: Only what lies behind its blocks runs.
    """
    width = model.d_model
    x = torch.ones(width)
    x[1::2] = -1
    if width % 2:  # an odd number of ±1 has no mean of 0
        x[-3:] = torch.tensor([2.0, -1.0, -1.0])
    x = (x / x.square().mean().sqrt()).to(device=model.device, dtype=model.dtype)
    tokens = torch.zeros(1, 2, dtype=torch.long, device=model.device)

    def norm(stream: Tensor) -> Tensor:
        return model.stack.suffix(tokens, stream.expand(1, 2, width), model.n_layers)[0, -1].float()

    with torch.inference_mode():
        out, moved = norm(x), norm(x + 1)
        if out.shape != x.shape:
            return None
        gain = (out - norm(-x)) / (2 * x.float())
        return FinalNorm(gain, bool((out - moved).abs().max() <= _ALIKE * gain.abs().max()))


@torch.inference_mode()
def pushes(port: Port, sae: SAE, latents: Sequence[int], n: int) -> list[Pushes] | str:
    """Return the tokens that each latent promotes and suppresses, or why that cannot be said.

    The effect on the logits is head(gain ⊙ (d − mean d)), d = W_dec[latent], without the mean for a norm that does not centre,
    and less its median over the vocabulary, as adding one number to all logits changes no prediction. It is what one unit of the
    latent adds to the logits directly, past all later blocks, where the stream's mean square is 1; only order and ratios count.

    Args:
        port: The site.
        sae: Whose decoder.
        latents: Which.
        n: Tokens a list.
    """
    if not port.write.written_to_stream:
        return f"what is written at {port.write.name} is no direction of the residual stream"
    norm = final_norm(port.model)
    if norm is None:
        return f"{port.model.id} has more than a norm between its last block and its head"
    out = []
    for latent in latents:
        direction = sae.W_dec[latent].to(norm.gain)
        if norm.centres:
            direction = direction - direction.mean()
        logits = logits_of(port.model, (direction * norm.gain).to(port.model.dtype)[None])[0].float()
        logits -= logits.median()
        out.append(Pushes(_most(logits, n), _most(-logits, n, sign=-1)))
    return out


def _most(logits: Float[Tensor, " V"], n: int, *, sign: int = 1) -> list[Pushed]:
    top = logits.topk(min(n, len(logits)))
    return [Pushed(token, sign * value) for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)]

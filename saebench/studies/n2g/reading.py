"""The corpus in two halves, and where latents fire in it.

The first half of the contexts builds patterns, the second judges them. Contexts stand in the order of the text, so the halves
share no context, and at most the one document that the border cuts.

Letters: ``B`` contexts of a batch, ``L`` positions, ``D`` width of the acts, ``Z`` activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.stream import default_batch_size


class Fired(NamedTuple):
    """Where latents of one SAE are not 0, token by token."""

    place: Int[np.ndarray, " Z"]
    """context · L + position, through the whole corpus."""
    latent: Int[np.ndarray, " Z"]
    value: Float[np.ndarray, " Z"]


class Batch(NamedTuple):
    """Some contexts."""

    contexts: slice
    fired: list[Iterator[Fired]]
    """Of each SAE, some tokens at a time; to be read before the next batch."""


def halves(corpus: Corpus) -> tuple[range, range]:
    """Return the contexts of either half; raises ``InputError`` for a corpus that has only one context."""
    n = len(corpus.tokens)
    if n < 2:
        raise InputError(
            f"{corpus.name} has one context; patterns are built on one half and judged on the other: give two or more"
        )
    return range(n - n // 2), range(n - n // 2, n)


def read(port: Port, saes: Sequence[SAE], corpus: Corpus, contexts: range, *, batch_size: int | None = None) -> Iterator[Batch]:
    """Yield where the latents fire at the scored positions of some contexts.

    Args:
        port: The site.
        saes: As they are for acts of the model (:meth:`saebench.sae.SAE.that_centres`).
        corpus: The contexts.
        contexts: Which of them.
        batch_size: Contexts at a time.
    """
    device, length = port.model.device, corpus.context_length
    size = batch_size or default_batch_size(length, device)
    for start in range(contexts.start, contexts.stop, size):
        rows = slice(start, min(start + size, contexts.stop))
        scored = corpus.scored[rows]
        acts = port.clean(corpus.tokens[rows].to(device), final=False).acts[scored.to(device)]
        where = scored.nonzero().numpy()
        place = (where[:, 0] + start) * length + where[:, 1]
        yield Batch(rows, [_fired(sae, acts, place) for sae in saes])


def _fired(sae: SAE, acts: Float[Tensor, "m D"], place: Int[np.ndarray, " m"]) -> Iterator[Fired]:
    done = 0
    for chunk in sae.run(acts):
        latents = chunk.latents
        own = place[done : done + len(latents)]
        done += len(latents)
        yield Fired(
            np.repeat(own, latents.l0().cpu().numpy()),
            latents.indices.long().cpu().numpy(),
            latents.values.double().cpu().numpy(),
        )

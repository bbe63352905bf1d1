"""In which order the reference model reads, short contexts and then whole ones, and what counts most.

Letters: ``B`` contexts, ``L`` positions, ``P`` predictions, ``V`` tokens of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .reference_config import ReferenceConfig
from .reference_text import END_ID, TextStream

_RARE = 1e-3
"""Tokens that are less of the text than this share are rare."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What one step reads."""

    tokens: Int[Tensor, "B L1"]
    """Contexts, each with the token behind it (``L1`` = L + 1)."""
    positions: Int[Tensor, "B L"]
    """At which positions the model reads them."""
    weights: Float[Tensor, " P"]
    """How much each of the ``B·L`` predictions counts; their mean is 1."""
    again: Bool[Tensor, "B L1"]
    """Which tokens are rare ones that their document has said before."""


class Lessons:
    """What the model reads at each step: a function of the step, and of the text where it has come to.

    All steps read about the same number of tokens. Contexts have ``short_length`` tokens at first, doubled in equal stages up to
    step ``short_steps`` (Press et al. 2021, arXiv:2012.15832), each at a random position, so that all positions are learned.

    A rare token that its document has said before counts ``repeat_weight`` times, up to step ``short_steps``; over as many
    steps again this falls to 1. Such tokens are some 5% of the text, and all that there is to learn about looking back.

    Args:
        config: The run.
        text: What is read.
        counts: How often each token stands in a sample of the text.
    """

    def __init__(self, config: ReferenceConfig, text: TextStream, counts: Int[Tensor, " V"]) -> None:
        self._config, self._text = config, text
        self._rare: Bool[Tensor, " V"] = counts < counts.sum() * _RARE

    def lesson(self, step: int) -> Lesson:
        """Return what step ``step`` reads, the first being 0."""
        config, length = self._config, lesson_length(self._config, step)
        n = max(1, config.batch_size * config.context_length // length)
        generator = torch.Generator().manual_seed((config.seed << 32) + step)
        tokens = self._text.batch(n, length)
        first = torch.randint(config.context_length - length + 1, (n, 1), generator=generator)
        weight = repeat_weight(config, step)
        again = said_before(tokens) & self._rare[tokens]
        weights = torch.where(again[:, 1:].flatten(), weight, 1.0)
        return Lesson(tokens=tokens, positions=first + torch.arange(length), weights=weights / weights.mean(), again=again)


def said_before(tokens: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """Return where a token stands that stood before in the same document; documents end in <|endoftext|>."""
    n, length = tokens.shape
    document = (tokens == END_ID).cumsum(1)
    named = torch.arange(n)[:, None] * (length + 1) + document
    key = named * (int(tokens.max()) + 1) + tokens
    order = key.flatten().argsort(stable=True)
    again = torch.zeros(n * length, dtype=torch.bool)
    again[order[1:]] = key.flatten()[order[1:]] == key.flatten()[order[:-1]]
    return again.view(n, length)


def lesson_length(config: ReferenceConfig, step: int) -> int:
    """Return how long the contexts of a step are: from ``short_length`` doubled up to ``context_length`` at ``short_steps``."""
    lengths = [min(config.short_length, config.context_length)]
    while lengths[-1] < config.context_length:
        lengths.append(min(2 * lengths[-1], config.context_length))
    if step >= config.short_steps:
        return lengths[-1]
    stages = max(1, len(lengths) - 1)
    return lengths[step * stages // config.short_steps]


def repeat_weight(config: ReferenceConfig, step: int) -> float:
    """Return how often a rare token said before counts at a step."""
    falls = (step - config.short_steps) / config.short_steps if config.short_steps else 1.0
    return config.repeat_weight + (1 - config.repeat_weight) * min(1.0, max(0.0, falls))

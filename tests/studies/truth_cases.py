"""Labels drawn at random, dictionaries that know them, and the study's arithmetic on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.data.storyworld import VARIABLES
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.studies.truth.columns import Latents, Source
from saebench.studies.truth.questions import Labelled, Questions, make_questions
from saebench.studies.truth.search import Choice, Findings, choose, score

SHARES: dict[str, list[float]] = {
    "tense": [0.3, 0.4, 0.2, 0.1],  # does not apply, past, present, future
    "negation": [0.1, 0.8, 0.1],  # "affirmative" holds at most tokens: it is asked for by its absence
    "question": [0.05, 0.9, 0.05],
    "colour": [0.88, *[0.01] * 12],
    "season": [0.2] * 5,
    "polarity": [0.93, 0.07],
}
WIDTH = sum(map(len, SHARES.values()))
N = 4000


def draw(seed: int, n: int = N, names: tuple[str, ...] = tuple(SHARES)) -> Labelled:
    """Return labels that do not depend on one another, in contexts of 40 tokens."""
    rng = np.random.default_rng(seed)
    labels = {name: rng.choice(len(SHARES[name]), n, p=SHARES[name]).astype(np.int16) for name in names}
    return Labelled(labels, np.arange(n) // 40)


def one_hot(half: Labelled) -> Tensor:
    """Return a column for every kind of every variable, "does not apply" included: 1 where it holds."""
    columns = [values == kind for name, values in half.labels.items() for kind in range(len(VARIABLES[name].values))]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def copying_sae(d: int, **config: Any) -> SAE:
    """Return an SAE whose latents are its acts, where they are above 0."""
    eye = torch.eye(d)
    return SAE(
        SAEConfig(**{"activation": "relu", "d_in": d, "d_out": d, "d_sae": d, "name": "copy"} | config),
        SAEWeights(W_enc=eye, b_enc=torch.zeros(d), W_dec=eye, b_dec=torch.zeros(d)),
    )


Both = tuple[Questions, Choice, Findings]


def study(
    acts: Callable[[Labelled, int], Tensor], *, halves: tuple[Labelled, Labelled] | None = None, source: Any = None,
    min_tokens: int = 10, per_halving: int = 2,
) -> Both:  # fmt: skip
    """Choose on one half and score on the other; ``acts`` gives the latents of a half (labels, its number)."""
    halves = halves or (draw(0), draw(1))
    seen = [acts(half, i) for i, half in enumerate(halves)]
    source = source or Latents(copying_sae(seen[0].shape[1]))
    return on(source, halves, (seen[0], seen[1]), min_tokens=min_tokens, per_halving=per_halving)


def on(
    source: Source, halves: tuple[Labelled, Labelled], acts: Sequence[Tensor], *, min_tokens: int = 10, per_halving: int = 2
) -> Both:
    """Choose among a source's columns and score them."""
    questions = make_questions(*halves, min_tokens=min_tokens, min_contexts=3)
    first, second = (questions.codes(half) for half in halves)
    choice = choose(
        source.blocks(acts[0]), first, questions, n_tokens=len(halves[0]), min_tokens=min_tokens, per_halving=per_halving
    )
    columns = source.picked(acts[1], np.unique(choice.column[choice.column >= 0]))
    return questions, choice, score(columns, choice, second, questions, n_tokens=len(halves[1]))

"""Which one-against-rest questions a labelled text allows.

A question is a variable's kind: does it hold at this token? Where it holds at more than half of the tokens of the selection
half, the question is turned round, and its absence is what must be found: so the answer sought is always the rarer one, and
always saying yes has an F1 of at most about 2/3.

Letters: ``T`` tokens, ``V`` variables with questions, ``Q`` questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from saebench.data.storyworld.variables import VARIABLES
from saebench.errors import InputError


class Labelled(NamedTuple):
    """The labels of one half of the text."""

    labels: Mapping[str, Int[np.ndarray, " T"]]
    """By variable, an index into ``VARIABLES[name].values``; 0 says that the variable does not apply."""
    context: Int[np.ndarray, " T"]
    """The context that each token stands in."""

    def __len__(self) -> int:
        return len(self.context)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One kind of one variable against the rest."""

    variable: str
    kind: str
    label: int
    by_absence: bool
    """Whether the absence of the kind is what is sought, because it is the rarer of the two."""


@dataclass(frozen=True, kw_only=True)
class Questions:
    """All questions, ordered by variable: those of one variable stand together."""

    items: list[Question]
    spans: dict[str, slice]
    """Where the questions of each variable stand in ``items``."""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def by_absence(self) -> Bool[np.ndarray, " Q"]:
        """Which questions are turned round."""
        return np.array([q.by_absence for q in self.items])

    def codes(self, half: Labelled) -> dict[str, Int[np.ndarray, " T"]]:
        """Return, by variable, 1 + the place within the span of the kind that holds at each token; 0: none that is asked for."""
        out = {}
        for variable, span in self.spans.items():
            table = np.zeros(len(VARIABLES[variable].values), dtype=np.int16)
            table[[q.label for q in self.items[span]]] = np.arange(1, span.stop - span.start + 1)
            out[variable] = table[half.labels[variable]]
        return out

    def kind_counts(self, codes: Mapping[str, Int[np.ndarray, " T"]]) -> Int[np.ndarray, " Q"]:
        """Return at how many tokens each question's kind holds."""
        parts = [np.bincount(codes[v], minlength=1 + s.stop - s.start)[1:] for v, s in self.spans.items()]
        return np.concatenate(parts)


def make_questions(selection: Labelled, scoring: Labelled, *, min_tokens: int, min_contexts: int) -> Questions:
    """Return every question that both halves can answer.

    A kind is asked for if, in each half, it holds at ``min_tokens`` tokens or more in ``min_contexts`` contexts or more, and
    so does its absence. "Does not apply" is not a kind.

    Args:
        selection: The half on which latents are chosen.
        scoring: The half on which they are scored.
        min_tokens: Fewest tokens of a half where the answer is yes, and where it is no.
        min_contexts: Fewest contexts that those come from.

    Raises:
        InputError: The text is too short for any question.
    """
    items: list[Question] = []
    spans: dict[str, slice] = {}
    for variable in selection.labels:
        n_kinds = len(VARIABLES[variable].values)
        first = _holding(selection, variable, n_kinds)
        enough = _enough(first, min_tokens, min_contexts) & _enough(
            _holding(scoring, variable, n_kinds), min_tokens, min_contexts
        )
        enough[0] = False
        start = len(items)
        # by name: the labels of some variables are numbered as their kinds turn up
        for label in sorted(np.flatnonzero(enough).tolist(), key=VARIABLES[variable].values.__getitem__):
            common = 2 * int(first[:, label].sum()) > len(selection)
            items.append(Question(variable=variable, kind=VARIABLES[variable].values[label], label=label, by_absence=common))
        if len(items) > start:
            spans[variable] = slice(start, len(items))
    if not items:
        raise InputError(
            f"{len(selection)} and {len(scoring)} tokens of text are too few for any question: no kind of any variable holds at "
            f"{min_tokens} tokens of {min_contexts} contexts in each half; give more contexts with --limit, or longer ones"
        )
    return Questions(items=items, spans=spans)


def _holding(half: Labelled, variable: str, n_kinds: int) -> Int[np.ndarray, "contexts kinds"]:
    """Return at how many tokens of each context each kind holds."""
    n_contexts = int(half.context.max(initial=-1)) + 1
    flat = np.bincount(half.context * n_kinds + half.labels[variable], minlength=n_contexts * n_kinds)
    return flat.reshape(n_contexts, n_kinds)


def _enough(holding: Int[np.ndarray, "contexts kinds"], min_tokens: int, min_contexts: int) -> Bool[np.ndarray, " kinds"]:
    absent = holding.sum(1, keepdims=True) - holding
    out = np.ones(holding.shape[1], dtype=bool)
    for counts in (holding, absent):
        out &= (counts.sum(0) >= min_tokens) & ((counts > 0).sum(0) >= min_contexts)
    return out

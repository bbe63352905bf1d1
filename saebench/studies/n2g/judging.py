"""Patterns against the half of the corpus that they were not built from.

Letters: ``S`` d_sae, ``C`` latents that were chosen, ``L`` positions, ``W`` ways of matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from saebench.data import Corpus
from saebench.studies.n2g.automaton import Automaton
from saebench.studies.n2g.patterns import Trie
from saebench.studies.n2g.reading import Batch, Fired
from saebench.studies.n2g.sampling import Kept

WAYS = ("published", "backtracking")
"""How tries are matched: as in OpenAI's code, which never comes back from a known token, and so that no match is missed."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was counted on the second half."""

    n_fires: Int[np.ndarray, " C"]
    """Tokens at which the latent is not 0."""
    mass: Float[np.ndarray, " C"]
    """Σ|f| over them."""
    n_recall: Int[np.ndarray, " C"]
    """True positives that were drawn."""
    n_matched: Int[np.ndarray, "W C"]
    """Tokens at which a pattern matches."""
    n_right: Int[np.ndarray, "W C"]
    """Those of them where the latent fires."""
    n_recalled: Int[np.ndarray, "W C"]
    """True positives drawn at which a pattern matches."""

    @property
    def precision(self) -> Float[np.ndarray, "W C"]:
        """Share of matches where the latent fires; NaN where nothing matches."""
        return _share(self.n_right, self.n_matched)

    @property
    def recall(self) -> Float[np.ndarray, "W C"]:
        """Share of the drawn true positives that match; NaN where there are none."""
        return _share(self.n_recalled, np.broadcast_to(self.n_recall, self.n_recalled.shape))

    @property
    def recall_all(self) -> Float[np.ndarray, "W C"]:
        """Share of all tokens with activation that match."""
        return _share(self.n_right, np.broadcast_to(self.n_fires, self.n_right.shape))

    @property
    def f1(self) -> Float[np.ndarray, "W C"]:
        """2 P R / (P + R) of precision and recall; 0 where either is 0 or nothing matches, NaN where the latent never fires."""
        precision, recall = np.nan_to_num(self.precision), self.recall
        f1 = _share(2 * precision * recall, precision + recall)
        return np.where(np.isnan(recall), np.nan, np.nan_to_num(f1))

    @property
    def f1_all(self) -> Float[np.ndarray, "W C"]:
        """2 TP / (2 TP + FP + FN) over all tokens."""
        return np.where(self.n_fires > 0, _share(2 * self.n_right, self.n_matched + self.n_fires), np.nan)


class Judge:
    """Counts matches of one SAE's patterns.

    Args:
        latents: The chosen ones, ascending.
        tries: Theirs.
        corpus: Both halves.
        first: Position where texts begin.
        d_sae: ``S``.
        d_vocab: Of the model.
        n_recall: True positives to draw of each.
        seed: Draws them.
    """

    def __init__(
        self,
        latents: Int[np.ndarray, " C"],
        tries: Sequence[Trie],
        corpus: Corpus,
        *,
        first: int,
        d_sae: int,
        d_vocab: int,
        n_recall: int,
        seed: int,
    ) -> None:
        self.latents, self._corpus, self._first = latents, corpus, first
        self._number = np.full(d_sae, -1, dtype=np.int64)
        self._number[latents] = np.arange(len(latents))
        self._automaton = Automaton(tries, d_vocab)
        self._kept = Kept(len(latents), n_recall, seed)
        self.density = np.zeros(d_sae, dtype=np.int64)
        """Tokens of the second half at which each latent of the SAE fires."""
        self.finite = True
        """Whether all activations were."""
        self._fires = np.zeros(len(latents), dtype=np.int64)
        self._mass = np.zeros(len(latents))
        self._matched, self._right = (np.zeros((len(WAYS), len(latents)), dtype=np.int64) for _ in range(2))

    def add(self, batch: Batch, number: int) -> None:
        """Take one batch, of which this SAE is the ``number``-th."""
        tokens = self._corpus.tokens[batch.contexts].numpy()
        where = self._corpus.scored[batch.contexts].numpy()
        keys = [self._matches(tokens, where, batch.contexts.start, way == "backtracking") for way in WAYS]
        for i, found in enumerate(keys):
            self._matched[i] += np.bincount(found % max(1, len(self.latents)), minlength=len(self.latents))
        for fired in batch.fired[number]:
            self.finite &= bool(np.isfinite(fired.value).all())
            self.density += np.bincount(fired.latent, minlength=len(self.density))
            self._add_fired(fired, keys)

    def _matches(self, tokens: NDArray[np.int64], where: NDArray[np.bool_], start: int, backtrack: bool) -> NDArray[np.int64]:
        """Return place · C + latent of every match, ascending."""
        found = self._automaton.matches(tokens, where, first=self._first, backtrack=backtrack)
        place = (found.context + start) * tokens.shape[1] + found.position
        return place * len(self.latents) + found.latent

    def _add_fired(self, fired: Fired, keys: Sequence[NDArray[np.int64]]) -> None:
        latent = self._number[fired.latent]
        ours = latent >= 0
        latent, place, value = latent[ours], fired.place[ours], fired.value[ours]
        n = len(self.latents)
        self._fires += np.bincount(latent, minlength=n)
        self._mass += np.bincount(latent, np.abs(value), minlength=n)
        bits = np.zeros(len(latent))
        for i, found in enumerate(keys):
            hit = np.isin(place * n + latent, found)
            self._right[i] += np.bincount(latent[hit], minlength=n)
            bits += hit * float(1 << i)
        self._kept.add(latent, self.latents[latent], place, bits)

    def counts(self) -> Counts:
        """Return what has been counted."""
        kept = [self._kept.of(i)[1].astype(np.int64) for i in range(len(self.latents))]
        recalled = [[int((bits >> way & 1).sum()) for bits in kept] for way in range(len(WAYS))]
        return Counts(
            n_fires=self._fires,
            mass=self._mass,
            n_recall=np.array([len(bits) for bits in kept], dtype=np.int64),
            n_matched=self._matched,
            n_right=self._right,
            n_recalled=np.array(recalled, dtype=np.int64).reshape(len(WAYS), -1),
        )


def _share(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)

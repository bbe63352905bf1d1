"""The shortest end of a text at which a latent still has half of its activation, of very many texts at once.

OpenAI's code tries the last token, the last two, and so on, and takes the first that reaches half. Whether an end reaches it is
not monotone in its length (a longer end may fall below again), so that neither bisection nor doubling finds the same one; here,
too, every length is tried in that order. What is saved is that all latents and texts go side by side, and that nothing is
computed twice: ends that read alike are one, for as long as these are a few tokens, and after that all ends of one context that
begin at one token are prefixes of each other.

Letters: ``Q`` documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saebench.lm.prefix_tree import LastActs, Text
from saebench.sae import SAE
from saebench.studies.n2g.single import values_at

HALF = 0.5
_SHORT = 4
"""Lengths up to which documents go by length, so that ends which read alike meet."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text that ends where a latent fires."""

    latent: int
    context: int
    text: Text
    """The context up to and with the token where it fires; without BOS."""
    act: float
    """The latent's value there, on the clean forward of the context."""


@dataclass(frozen=True, kw_only=True)
class Suffixes:
    """Of each document the end that was found."""

    start: Int[np.ndarray, " Q"]
    act: Float[np.ndarray, " Q"]
    """The latent's value at the end of it; where no end reached half, that of the document."""
    found: Bool[np.ndarray, " Q"]


class Reader:
    """Gives the value of latents of one SAE at the last token of texts.

    Args:
        sae: As it is for acts of the model.
        last_acts: Of the site.
        bos: The token that every text is to begin with, if contexts do.
    """

    def __init__(self, sae: SAE, last_acts: LastActs, bos: int | None) -> None:
        self.sae, self._last_acts = sae, last_acts
        self._begin: Text = () if bos is None else (bos,)
        self.n_texts = 0
        """Different texts that were read."""

    def values(self, texts: Sequence[Text], latents: Sequence[int], reference: Sequence[float]) -> Float[np.ndarray, " Q"]:
        """Return the value of ``latents[i]`` at the end of ``texts[i]``, as :func:`values_at` does.

        Args:
            texts: Without BOS.
            latents: One each.
            reference: One each.
        """
        different = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self.n_texts += len(different)
        which = np.array([different[text] for text in texts], dtype=np.int64)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(len(different) + 1))
        of, ref = np.asarray(latents, dtype=np.int64), np.asarray(reference, dtype=np.float64)
        out = np.zeros(len(texts))
        for found in self._last_acts.read([self._begin + text for text in different]):
            numbers = found.texts.numpy()
            counts = ends[numbers + 1] - ends[numbers]
            asked = order[_ranges(ends[numbers], counts)]
            row = np.repeat(np.arange(len(numbers)), counts)
            out[asked] = values_at(self.sae, found.acts, row, of[asked], ref[asked])
        return out


def shortest(documents: Sequence[Document], reader: Reader, tell: Callable[[int], None] = lambda _n: None) -> Suffixes:
    """Return the shortest end of each document at which its latent has half of its activation or more.

    Args:
        documents: Of any latents.
        reader: Of their SAE.
        tell: Told how many more have been found.

    Source: ``get_minimal_subsequence`` in explanations.py of openai/sparse_autoencoder.
    """
    n = len(documents)
    start, act, found = (
        np.zeros(n, dtype=np.int64),
        np.array([d.act for d in documents], dtype=np.float64),
        np.zeros(n, dtype=bool),
    )
    lengths = np.array([len(d.text) for d in documents], dtype=np.int64)

    def tried(which: list[int], begin: list[int]) -> None:
        """Try an end of each of some documents, and note those that reach half."""
        texts = [documents[i].text[b:] for i, b in zip(which, begin, strict=True)]
        acts = [documents[i].act for i in which]
        values = reader.values(texts, [documents[i].latent for i in which], acts)
        good = values / np.array(acts) >= HALF
        chosen = np.array(which)[good]
        start[chosen], act[chosen], found[chosen] = np.array(begin)[good], values[good], True
        tell(int(good.sum()))

    for length in range(1, _SHORT + 1):
        which = np.flatnonzero(~found & (lengths >= length)).tolist()
        if which:
            tried(which, [int(lengths[i]) - length for i in which])
    waiting: dict[int, list[int]] = {}
    for i in np.flatnonzero(~found & (lengths > _SHORT)).tolist():
        waiting.setdefault(documents[i].context, []).append(i)
    at = {context: max(int(lengths[i]) for i in some) - _SHORT - 1 for context, some in waiting.items()}
    while waiting:
        which, begin = [], []
        for context, some in waiting.items():
            here = [i for i in some if lengths[i] > at[context] + _SHORT]
            which += here
            begin += [at[context]] * len(here)
        tried(which, begin)
        for context in list(waiting):
            waiting[context] = left = [i for i in waiting[context] if not found[i]]
            at[context] = min(at[context] - 1, max((int(lengths[i]) for i in left), default=0) - _SHORT - 1)
            if at[context] < 0:  # what is left reached half at no length
                del waiting[context]
    tell(int((~found).sum()))
    return Suffixes(start=start, act=act, found=found)


def _ranges(starts: Int[np.ndarray, " Q"], counts: Int[np.ndarray, " Q"]) -> Int[np.ndarray, " Z"]:
    """Return starts[0], starts[0] + 1, … counts[0] of them, then those of the next."""
    begins = np.repeat(starts - np.concatenate([[0], counts.cumsum()[:-1]]), counts)
    return begins + np.arange(int(counts.sum()))

"""How far the few words before the gap get one: an n-gram model of words with stupid backoff (Brants et al. 2007, §4).

    S(w | c) = count(c w) / count(c)     if count(c w) > 0
             = 0.4 · S(w | c without its first word)     else
    S(w) = count(w) / N

with contexts c of up to n − 1 words. It counts words (runs of letters and digits, and punctuation marks one by one), not
tokens, so that it does not depend on the model. Only contexts that will be asked for are counted, which changes no score.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

_WORD = re.compile(r"\w+|[^\w\s]")
BACKOFF = 0.4
Words = tuple[str, ...]


def words_of(text: str) -> Words:
    """Return the words and punctuation marks of ``text``."""
    return tuple(_WORD.findall(text))


@functools.lru_cache(maxsize=1)
def training_words(texts: Callable[[], Iterator[str]], n: int) -> list[str]:
    """Return the first ``n`` words of the training texts, whole texts only, an empty word between two.

    Args:
        texts: Makes the texts, from the first one on.
        n: Words at least, unless the texts end before.
    """
    out: list[str] = []
    n_texts = 0
    for text in texts():
        if len(out) - n_texts >= n:
            break
        out += map(sys.intern, words_of(text))
        out.append("")
        n_texts += 1
    return out


class NGram:
    """Stupid backoff over words.

    Args:
        words: Training text, an empty word between documents.
        contexts: Everything that will be asked about; of each, the last ``order − 1`` words count.
        order: n.
    """

    def __init__(self, words: Sequence[str], contexts: Iterable[Words], *, order: int = 5) -> None:
        self.order = order
        self._followers: dict[Words, Counter[str]] = {}
        for context in contexts:
            for k in range(1, min(order - 1, len(context)) + 1):
                self._followers.setdefault(context[-k:], Counter())
        self._words = Counter(words)
        del self._words[""]
        self._n = self._words.total()
        self._count(words)
        self._totals = {context: counts.total() for context, counts in self._followers.items()}

    def _count(self, words: Sequence[str]) -> None:
        followers, longest = self._followers, self.order - 1
        for i in range(1, len(words)):
            word = words[i]
            if not word:
                continue
            for k in range(1, min(longest, i) + 1):
                counts = followers.get(tuple(words[i - k : i]))
                if counts is None:  # what is asked for has all its endings in the table, so nothing longer is in it
                    break
                counts[word] += 1

    def score(self, context: Words, word: str) -> float:
        """Return S(word | context), 0 for a word that was never seen."""
        weight = 1.0
        for k in range(min(self.order - 1, len(context)), 0, -1):
            seen = context[-k:]
            count = self._followers[seen][word]
            if count:
                return weight * count / self._totals[seen]
            weight *= BACKOFF
        return weight * self._words[word] / self._n if self._n else 0.0

    def best(self, context: Words) -> str | None:
        """Return the word with the highest score, the first in the alphabet of several; ``None`` without training text."""
        choices: dict[str, float] = {}
        weight = 1.0
        for k in range(min(self.order - 1, len(context)), 0, -1):
            seen = context[-k:]
            for word, count in self._followers[seen].items():
                choices.setdefault(word, weight * count / self._totals[seen])
            weight *= BACKOFF
        for word, count in self._words.items():
            choices.setdefault(word, weight * count / self._n)
        return min(choices, key=lambda word: (-choices[word], word), default=None)

    def lnp(self, context: Words, words: Words) -> float:
        """Return Σ ln S of ``words``, each given those before it; −∞ if one was never seen."""
        total = 0.0
        for i, word in enumerate(words):
            score = self.score((context + words[:i])[-(self.order - 1) :], word)
            total += math.log(score) if score > 0 else -math.inf
        return total

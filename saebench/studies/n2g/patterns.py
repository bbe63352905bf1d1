"""From the end of a text to a pattern: which of its tokens matter, and whether it must stand at the start.

Letters: ``Q`` documents.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from saebench.lm.prefix_tree import Text
from saebench.studies.n2g.suffixes import HALF, Document, Reader, Suffixes

ANY = -1
"""Stands for any token."""
_GROUP = 1 << 20
"""Tokens of texts that are made at once."""


class Pattern(NamedTuple):
    """What a latent fires on."""

    path: Text
    """Tokens from the last to the first; :data:`ANY` where one does not matter."""
    at_start: bool
    """Whether the first of them must be the first of its context (BOS aside)."""


Trie = dict[Pattern, float]
"""The patterns of one latent, with the activation that each promises."""


def tries(
    documents: Sequence[Document],
    suffixes: Suffixes,
    reader: Reader,
    *,
    pad: int,
    longest: int,
    tell: Callable[[int], None] = lambda _n: None,
) -> dict[int, Trie]:
    """Return the patterns of every latent.

    A document's end is tried with ``pad`` before it: where less than half of the document's activation is left, the pattern is
    bound to the start. Then each of its tokens is replaced by ``pad``, one at a time: with act' the activation that is left and
    act that of the end, a token whose saliency 1 − act'/act is below a half may be any token. Of two documents with the same
    pattern the later one's activation stays.

    Args:
        documents: Those of one latent in the order in which they are to be taken.
        suffixes: As :func:`saebench.studies.n2g.suffixes.shortest` found them.
        reader: Of their SAE.
        pad: Token.
        longest: Tokens of a text, without BOS, that the model takes; what is longer with ``pad`` can have nothing before it.
        tell: Told how many more documents are done.

    Source: ``create_n2g_explanation`` in explanations.py of openai/sparse_autoencoder, which keys its trie by the text of tokens;
    here it is their ids.
    """
    ends = [document.text[start:] for document, start in zip(documents, suffixes.start.tolist(), strict=True)]
    patterns: list[Pattern | None] = [None] * len(documents)
    for group in _groups(ends):
        texts: list[Text] = []
        asked: list[tuple[int, float]] = []
        for i in group:
            end, act = ends[i], float(suffixes.act[i])
            if len(end) < longest:
                texts.append((pad, *end))
                asked.append((i, documents[i].act))
            texts += [(*end[:j], pad, *end[j + 1 :]) for j in range(len(end))]
            asked += [(i, act)] * len(end)
        values = iter(reader.values(texts, [documents[i].latent for i, _ in asked], [act for _, act in asked]).tolist())
        for i in group:
            end, act = ends[i], float(suffixes.act[i])
            can_pad = len(end) < longest and next(values) / documents[i].act >= HALF
            path = [ANY if 1 - next(values) / act < HALF else token for token in end]
            patterns[i] = Pattern(tuple(reversed(path)), not can_pad)
        tell(len(group))
    found: dict[int, Trie] = {}
    for document, pattern, act in zip(documents, patterns, suffixes.act.tolist(), strict=True):
        assert pattern is not None
        found.setdefault(document.latent, {})[pattern] = act
    return found


def _groups(ends: Sequence[Text]) -> Iterator[list[int]]:
    """Yield documents whose texts may be held at once: ends of about one length, and those that begin alike side by side."""
    for _, some in itertools.groupby(
        sorted(range(len(ends)), key=lambda i: (len(ends[i]).bit_length(), ends[i])), key=lambda i: len(ends[i]).bit_length()
    ):
        group: list[int] = []
        size = 0
        for i in some:
            group.append(i)
            size += (len(ends[i]) + 1) ** 2
            if size > _GROUP:
                yield group
                group, size = [], 0
        if group:
            yield group


class Writer:
    """Writes patterns for people: tokens in quotes, ``*`` for any token, ``^`` for the start of a context.

    Args:
        tokenizer: Of the model.
        beside: A token that others are decoded beside, as some tokenizers drop the space before the first.
    """

    def __init__(self, tokenizer: Any, beside: int) -> None:
        self._tokenizer, self._beside = tokenizer, beside
        self._before: str = tokenizer.decode([beside])
        self._known: dict[int, str] = {ANY: "*"}

    def write(self, pattern: Pattern) -> str:
        """Return the pattern in reading order."""
        words = [self._word(token) for token in reversed(pattern.path)]
        return " ".join(["^", *words] if pattern.at_start else words)

    def _word(self, token: int) -> str:
        if token not in self._known:
            text = self._tokenizer.decode([self._beside, token])
            text = text[len(self._before) :] if text.startswith(self._before) else self._tokenizer.decode([token])
            self._known[token] = json.dumps(text, ensure_ascii=False)
        return self._known[token]

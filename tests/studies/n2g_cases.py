"""The published procedure, one forward a step, written down plainly; and a site whose acts say what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.model import LanguageModel
from saebench.lm.port import Clean, Port
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.n2g import N2G, N2GSettings
from saebench.studies.n2g.patterns import ANY, Pattern, Trie
from saebench.studies.n2g.suffixes import Document
from saebench.tasklist import TaskCorpus
from tests.metrics.conftest import SITE, make_corpus

Act = Callable[[tuple[int, ...]], float]
START = -2


def naive_trie(act_of: Act, documents: Sequence[Document], pad: int) -> dict[int, Any]:
    """Return the nested trie of one latent: the value of a pattern lies under ``None``, the start under ``START``."""
    trie: dict[Any, Any] = {}
    for document in documents:
        text, whole = document.text, document.act
        end, act = text, whole
        for begin in reversed(range(len(text))):
            value = act_of(text[begin:])
            if value / whole >= 0.5:
                end, act = text[begin:], value
                break
        can_pad = act_of((pad, *end)) / whole >= 0.5
        saliency = [1 - act_of((*end[:i], pad, *end[i + 1 :])) / act for i in range(len(end))]
        node = trie
        for token, matters in zip(reversed(end), reversed(saliency), strict=True):
            node = node.setdefault(ANY if matters < 0.5 else token, {})
        if not can_pad:
            node = node.setdefault(START, {})
        node[None] = act
    return trie


def flat(trie: dict[Any, Any], path: tuple[int, ...] = ()) -> Trie:
    """Return a nested trie as patterns."""
    found: Trie = {}
    for key, inner in trie.items():
        if key is None:
            found[Pattern(tuple(t for t in path if t != START), START in path)] = inner
        else:
            found |= flat(inner, (*path, key))
    return found


def nested(trie: Trie) -> dict[Any, Any]:
    """Return patterns as a nested trie."""
    out: dict[Any, Any] = {}
    for pattern, act in trie.items():
        node = out
        for token in (*pattern.path, *((START,) if pattern.at_start else ())):
            node = node.setdefault(token, {})
        node[None] = act
    return out


def published_match(trie: dict[Any, Any], text: Sequence[int], at: int) -> float | None:
    """Walk back from ``at``: a known token before any, no way back, the first value on the way."""
    node = trie
    for j in range(at, -1, -1):
        if text[j] not in node and ANY not in node:
            return None
        node = node[text[j]] if text[j] in node else node[ANY]
        if None in node:
            return node[None]
        if j == 0 and START in node:
            return node[START][None]
    return None


def any_match(trie: dict[Any, Any], text: Sequence[int], at: int) -> float | None:
    """As above, but come back to ``ANY`` where a known token led nowhere."""
    for token in (text[at], ANY):
        if token not in trie:
            continue
        node = trie[token]
        if None in node:
            return node[None]
        if at == 0:
            found = node[START][None] if START in node else None
        else:
            found = any_match(node, text, at - 1)
        if found is not None:
            return found
    return None


WORDS = 12
"""Tokens 4 … 15 are words of the planted text."""
LENGTH = 16


def behind_bos(tokens: Tensor) -> Corpus:
    """Return contexts that begin with BOS."""
    return replace(make_corpus(tokens), has_bos=True)


def planted_corpus(n: int = 120, seed: int = 0) -> Corpus:
    """Return contexts of random words behind BOS."""
    tokens = torch.randint(4, 4 + WORDS, (n, LENGTH), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 1
    return behind_bos(tokens)


class PlantedPort(Port):
    """A site whose acts say of every position which token stands there, which 1, 2, 3 before it, and which position it is.

    It heeds no mask, so texts are read one a row.
    """

    back = 4
    vocabulary = 96

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(model, SITE)
        self.width = self.back * self.vocabulary + 64

    def place(self, token: int, back: int = 0) -> int:
        """Return the channel of ``token`` standing ``back`` places before."""
        return back * self.vocabulary + token

    def position(self, position: int) -> int:
        """Return the channel of a position."""
        return self.back * self.vocabulary + position

    def clean(self, tokens: Tensor, *, final: bool = True) -> Clean:
        acts = torch.zeros(*tokens.shape, self.width)
        for back in range(self.back):
            said = torch.nn.functional.one_hot(tokens[:, : tokens.shape[1] - back], self.vocabulary).float()
            acts[:, back:, back * self.vocabulary : (back + 1) * self.vocabulary] = said
        places = torch.arange(tokens.shape[1]) % 64
        acts[:, torch.arange(tokens.shape[1]), self.back * self.vocabulary + places] = 1.0
        return Clean(tokens, acts, acts, acts, acts if final else None)


def planted_sae(port: PlantedPort, *latents: dict[int, float], bias: Sequence[float]) -> SAE:
    """Return a ReLU SAE whose latents add up channels."""
    encoder = torch.zeros(port.width, len(latents))
    for i, channels in enumerate(latents):
        for channel, weight in channels.items():
            encoder[channel, i] = weight
    config = SAEConfig(
        activation="relu", d_in=port.width, d_out=port.width, d_sae=len(latents), name="planted", site=SITE, context_length=LENGTH
    )
    return SAE(
        config,
        SAEWeights(W_enc=encoder, b_enc=torch.tensor(bias), W_dec=encoder.T.contiguous(), b_dec=torch.zeros(port.width)),
    )


def settings(**changes: Any) -> N2GSettings:
    """Return settings whose corpus is given otherwise."""
    return N2GSettings(**{"corpus": TaskCorpus(source="unused", n_contexts=1), "bootstrap": 50} | changes)


def run(
    port: Port, corpus: Corpus, *saes: SAE, seed: int = 0, batch_size: int | None = None, **changes: Any
) -> list[StudyResult]:
    setting = StudySetting(port=port, seed=seed, corpus=corpus, batch_size=batch_size)
    return N2G(setting, settings(**changes)).run(saes)


def values(result: StudyResult) -> dict[str, float | None]:
    return {score.name: score.value for score in result.scores}


def rows(result: StudyResult, table: str = "n2g") -> list[dict[str, Any]]:
    columns = result.tables[table]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

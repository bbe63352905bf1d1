"""OpenAI's N2G procedure as published, one latent after the other: explanations.py of openai/sparse_autoencoder.

The procedure takes a function from texts to a latent's activations and leaves it to its callers; here are the one that the
repository's README shows, with TransformerLens' ``run_with_cache``, and a leaner one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from saebench.lm.model import LanguageModel
from saebench.lm.token_tree import Text
from saebench.sae import SAE
from saebench.studies.n2g.patterns import ANY, Pattern, Trie
from saebench.studies.n2g.suffixes import Document

Acts = Callable[[Sequence[Text]], list[list[float]]]
"""Returns a latent at every token of every text."""
BATCH = 16


def explain(acts: Acts, documents: Sequence[Document], pad: int, batch: int = BATCH) -> Trie:
    """Return the patterns of one latent.

    Args:
        acts: Gives that latent's activations, by one forward of at most ``batch`` texts.
        documents: Where it fires.
        pad: Token.
        batch: Texts of one step that go side by side.
    """

    def batched(texts: Iterable[Text]) -> Iterator[list[float]]:
        texts = list(texts)
        for start in range(0, len(texts), batch):
            yield from acts(texts[start : start + batch])

    ends = _side_by_side([_minimal(document) for document in documents], batched)
    padded = list(batched([(pad, *end) for end, _ in ends]))
    trie: Trie = {}
    for (end, act), after_pad, document in zip(ends, padded, documents, strict=True):
        replaced = [(*end[:i], pad, *end[i + 1 :]) for i in range(len(end))]
        saliency = [1 - other[-1] / act for other in batched(replaced)]
        path = tuple(ANY if s < 0.5 else token for token, s in zip(reversed(end), reversed(saliency), strict=True))
        trie[Pattern(path, not after_pad[-1] / document.act >= 0.5)] = act
    return trie


def tokens_read(lengths: Sequence[int], n_begin: int) -> int:
    """Return how many tokens, padding included, the procedure reads for one latent of at most 16 documents.

    Args:
        lengths: Tokens of the end that is found in each document.
        n_begin: Tokens that each text begins with besides.
    """
    searched = sum((n + n_begin) * (sum(length >= n for length in lengths)) for n in range(1, max(lengths) + 1))
    padded = len(lengths) * (max(lengths) + 1 + n_begin)
    return searched + padded + sum(n * (n + n_begin) for n in lengths)


def _minimal(document: Document) -> Iterator[Any]:
    for start in range(len(document.text) - 1, -1, -1):
        acts = yield document.text[start:]
        if acts[-1] / document.act >= 0.5:
            return document.text[start:], acts[-1]
    return document.text, document.act


def _side_by_side(searches: list[Any], batched: Callable[[Iterable[Text]], Iterator[list[float]]]) -> list[tuple[Text, float]]:
    found: dict[int, tuple[Text, float]] = {}
    asked = [(i, next(search)) for i, search in enumerate(searches)]
    while asked:
        answers = list(batched([text for _, text in asked]))
        again = []
        for (i, _), acts in zip(asked, answers, strict=True):
            try:
                again.append((i, searches[i].send(acts)))
            except StopIteration as end:
                found[i] = end.value
        asked = again
    return [found[i] for i in range(len(searches))]


def through_transformers(model: LanguageModel, sae: SAE, layer: int, begin: Text, latent: int) -> Acts:
    """Return a model function by transformers: the whole model with logits, the site by a hook, our own encoder."""

    @torch.inference_mode()
    def acts(texts: Sequence[Text]) -> list[list[float]]:
        tokens = _laid(texts, begin)
        seen: list[torch.Tensor] = []
        handle = model.stack.blocks[layer].register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        _ = model.hf(input_ids=tokens, use_cache=False).logits
        handle.remove()
        latents = sae.encode(seen[0].flatten(0, 1))
        ours = latents.indices == latent
        found = torch.zeros(tokens.numel())
        found[latents.rows()[ours]] = latents.values[ours]
        return _cut(found.view(tokens.shape), texts, begin)

    return acts


def through_transformer_lens(hooked: Any, site: str, sae: SAE, begin: Text, latent: int) -> Acts:
    """Return a model function as the README has it: ``run_with_cache`` of a HookedTransformer, all latents of all tokens.

    Args:
        hooked: A HookedTransformer.
        site: Its hook point.
        sae: TopK or ReLU, of the plainest kind.
        begin: What every text begins with.
        latent: Which latent.
    """
    w, k = sae.weights, sae.config.k
    assert sae.config.activation in ("topk", "relu") and w.rank is None and sae.config.normalisation == "none"

    @torch.no_grad()
    def acts(texts: Sequence[Text]) -> list[list[float]]:
        _logits, cache = hooked.run_with_cache(_laid(texts, begin))
        x = cache[site]
        pre = torch.nn.functional.linear(x if w.b_in is None else x - w.b_in, w.W_enc.T, w.b_enc)
        latents = pre.relu()
        if k is not None:
            top = pre.topk(k, dim=-1)
            latents = torch.zeros_like(pre).scatter_(-1, top.indices, top.values.relu())
        return _cut(latents[..., latent], texts, begin)

    return acts


def _laid(texts: Sequence[Text], begin: Text) -> torch.Tensor:
    whole = [begin + text for text in texts]
    tokens = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.long)
    for row, text in zip(tokens, whole, strict=True):
        row[: len(text)] = torch.tensor(text)
    return tokens


def _cut(acts: torch.Tensor, texts: Sequence[Text], begin: Text) -> list[list[float]]:
    return [row[len(begin) : len(begin) + len(text)] for row, text in zip(acts.tolist(), texts, strict=True)]

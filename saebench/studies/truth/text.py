"""The labelled text in two halves that share no document, and the model's acts on it.

Letters: ``T`` tokens of text, ``D`` width of the acts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.data.storyworld.generate import write
from saebench.data.storyworld.tokens import document_tokens, token_labels
from saebench.data.storyworld.variables import VARIABLES
from saebench.errors import InputError
from saebench.lm.port import Port
from saebench.stream import default_batch_size
from saebench.studies.truth.questions import Labelled

SOURCE = "storyworld:eval"


@dataclass(frozen=True, kw_only=True)
class Half:
    """One half of the text: its tokens, what is true of them, and what the model made of them."""

    corpus: Corpus
    labelled: Labelled
    acts: Float[Tensor, "T D"]
    """On the CPU, in the model's dtype."""


def read_halves(
    port: Port,
    *,
    seed: int,
    n_contexts: int,
    context_length: int | None,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda _n: None,
) -> tuple[Half, Half]:
    """Return (selection half, scoring half), each of ``n_contexts`` // 2 contexts.

    Seed s reads the generator's seeds 2s for selection and 2s + 1 for scoring: documents are generated apart, so no document,
    and no pair of seeds, has a part in both. Position 0 of each context and separators are left out.

    Args:
        port: The site whose acts are read, on the clean forward.
        seed: s.
        n_contexts: Contexts of both halves together.
        context_length: Tokens of a context; the model's maximum, at most 1,024, if ``None``.
        batch_size: Contexts that go through the model at once.
        advance: Told how many contexts have gone through.

    Raises:
        InputError: Fewer than two contexts, a tokenizer that gives no offsets, a context that the model cannot take.
    """
    if n_contexts < 2:
        raise InputError(f"the two halves of the text need a context each, {n_contexts} is too few; use --limit 2 or more")
    model = port.model
    document_tokens([write(0, "eval", 0)], model.tokenizer)  # a tokenizer without offsets is refused before the rest is made
    halves = []
    for own in (2 * seed, 2 * seed + 1):
        spec = CorpusSpec(source=SOURCE, context_length=context_length, n_contexts=n_contexts // 2)
        corpus = build_corpus(spec, model.tokenizer, seed=own, max_context=model.n_ctx, vocab_size=model.d_vocab)
        labels = token_labels(corpus, spec, model.tokenizer, list(VARIABLES), seed=own)
        text = corpus.scored & (next(iter(labels.values())) >= 0)
        labelled = Labelled(
            labels={name: values[text].numpy() for name, values in labels.items()},
            context=text.nonzero()[:, 0].numpy(),
        )
        acts = _acts(port, corpus, text, batch_size, advance)
        halves.append(Half(corpus=corpus, labelled=labelled, acts=acts))
    return halves[0], halves[1]


@torch.inference_mode()
def _acts(port: Port, corpus: Corpus, text: Tensor, batch_size: int | None, advance: Callable[[int], None]) -> Tensor:
    device = port.model.device
    size = batch_size or default_batch_size(corpus.context_length, device)
    out: Tensor | None = None
    done = 0
    for start in range(0, len(corpus.tokens), size):
        rows = slice(start, start + size)
        acts = port.clean(corpus.tokens[rows].to(device), final=False).acts[text[rows].to(device)].cpu()
        if out is None:
            out = acts.new_empty(int(text.sum()), acts.shape[1])
        out[done : done + len(acts)] = acts
        done += len(acts)
        advance(min(size, len(corpus.tokens) - start))
    assert out is not None  # no corpus is empty
    return out

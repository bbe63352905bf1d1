"""What is done with one SAE: activations are taken from the first half of the text, made into patterns, judged on the second.

Letters: ``S`` d_sae, ``C`` latents that are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.data import Corpus
from saebench.lm.prefix_tree import LastActs, Text
from saebench.sae import SAE
from saebench.studies.n2g.judging import Judge
from saebench.studies.n2g.patterns import Trie, tries
from saebench.studies.n2g.reading import Batch, Fired
from saebench.studies.n2g.sampling import Kept, stratified
from saebench.studies.n2g.scores import Findings
from saebench.studies.n2g.settings import PatternSettings
from saebench.studies.n2g.suffixes import Document, Reader, shortest


class Explained:
    """One SAE.

    Args:
        sae: As it is for acts of the model.
        settings: Which latents, and how many activations of each.
        seed: Chooses latents and activations.
    """

    def __init__(self, sae: SAE, settings: PatternSettings, seed: int) -> None:
        self.sae, self._settings, self._seed = sae, settings, seed
        self.density = np.zeros(sae.config.d_sae, dtype=np.int64)
        """Tokens of the first half at which each latent fires."""
        self._kept = Kept(sae.config.d_sae, settings.n_build, seed)
        self._finite = True
        self._raw: dict[str, float] = {}
        self.n_tokens_read = 0
        """Tokens that went through the model to build the patterns."""
        self.latents: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        """The chosen ones, ascending."""
        self.tries: list[Trie] = []
        """Their patterns."""
        self._n_build: NDArray[np.int64] = self.latents

    def add(self, fired: Iterable[Fired]) -> None:
        """Take activations of the first half."""
        for some in fired:
            self._finite &= bool(np.isfinite(some.value).all())
            self.density += np.bincount(some.latent, minlength=len(self.density))
            self._kept.add(some.latent, some.latent, some.place, some.value)

    def build(self, corpus: Corpus, last_acts: LastActs, pad: int, tell: Callable[[float], None]) -> None:
        """Make the patterns of the latents, which are chosen if they have not been.

        Args:
            corpus: Both halves.
            last_acts: Of the site.
            pad: Token.
            tell: Told how much of it, between 0 and 1, is done.
        """
        if not len(self.latents):
            self.choose()
        first = int(corpus.has_bos)
        documents = self.documents(corpus) if self._finite else []
        whose = np.searchsorted(self.latents, [document.latent for document in documents])
        self._n_build = np.bincount(whose, minlength=len(self.latents))
        done = [0]

        def count(n: int) -> None:
            done[0] += n
            tell(done[0] / max(1, 2 * len(documents)))

        before = last_acts.n_tokens
        reader = Reader(self.sae, last_acts, int(corpus.tokens[0, 0]) if first else None)
        suffixes = shortest(documents, reader, count)
        model = last_acts.port.model
        made = tries(documents, suffixes, reader, pad=pad, longest=model.n_ctx - first, tell=count)
        tell(1.0)
        self.tries = [made.get(latent, {}) for latent in self.latents.tolist()]
        self.n_tokens_read = last_acts.n_tokens - before
        self._raw = {
            "n2g_suffixes_not_found": float((~suffixes.found).sum()),
            "n2g_texts_read": float(reader.n_texts),
            "n2g_tokens_read": float(self.n_tokens_read),
        }

    def start_judging(self, corpus: Corpus, d_vocab: int, n_recall: int) -> None:
        """Compile the patterns, to be judged on the second half."""
        self._n_recall = n_recall
        self._judging = Judge(
            self.latents, self.tries, corpus, first=int(corpus.has_bos), d_sae=self.sae.config.d_sae, d_vocab=d_vocab,
            n_recall=n_recall, seed=self._seed,
        )  # fmt: skip

    def judge(self, batch: Batch, number: int) -> None:
        """Take a batch of the second half, of which this SAE is the ``number``-th."""
        self._judging.add(batch, number)

    def findings(self, n_tokens: tuple[int, int]) -> Findings:
        """Return what was found; ``n_tokens`` are the scored tokens of the halves."""
        return Findings(
            latents=self.latents, n_first=self.density[self.latents], n_build=self._n_build, tries=self.tries,
            counts=self._judging.counts(), n_tokens=n_tokens, finite=self._finite and self._judging.finite,
        )  # fmt: skip

    def raw(self) -> dict[str, float]:
        """Return what was counted besides."""
        alive = (self.density > 0) | (self._judging.density > 0)
        return {**self._raw, "n2g_sae_dead": float((~alive).sum()), "n2g_sae_silent_first": float((self.density == 0).sum())}

    def notes(self) -> list[str]:
        """Return what the user should know: latents that are dead, or have too few activations."""
        counts, n_build, n_recall = self._judging.counts(), self._settings.n_build, self._n_recall
        name, n = self.sae.config.name, len(self.latents)
        dead = int(((self.density[self.latents] == 0) & (counts.n_fires == 0)).sum())
        few = int(((self.density[self.latents] < n_build) | (counts.n_fires < n_recall)).sum()) - dead
        said = [f"{name}: {dead} of {n} latents are dead: they never fire on this text"] if dead else []
        if few:
            wanted = f"{n_build} to build from and {n_recall} to judge by"
            said.append(f"{name}: {few} of {n} latents fire fewer times than asked ({wanted}); give more text with --limit")
        if not n:
            said.append(f"{name}: no latent fires in the first half of the text")
        return said

    def choose(self) -> None:
        """Choose the latents, now that the first half has been read."""
        wanted = self._settings.latents
        if wanted == "all":
            self.latents = np.arange(self.sae.config.d_sae)
        elif isinstance(wanted, tuple):
            self.latents = np.unique(np.array(wanted, dtype=np.int64))
        else:
            assert isinstance(wanted, int)
            self.latents = stratified(self.density, wanted, torch.Generator().manual_seed(self._seed))

    def documents(self, corpus: Corpus) -> list[Document]:
        """Return the texts that the patterns of the chosen latents are built from, in random order for each latent."""
        first, length = int(corpus.has_bos), corpus.context_length
        texts: dict[int, Text] = {}
        documents = []
        for latent in self.latents.tolist():
            for place, value in zip(*(part.tolist() for part in self._kept.of(latent)), strict=True):
                context, position = divmod(place, length)
                if context not in texts:
                    texts[context] = tuple(corpus.tokens[context, first:].tolist())
                text = texts[context][: position + 1 - first]
                documents.append(Document(latent=latent, context=context, text=text, act=value))
        return documents

"""The study ``n2g``: patterns are built on one half of the text and judged on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.n2g.building import explain
from saebench.studies.n2g.explained import Explained
from saebench.studies.n2g.patterns import Writer
from saebench.studies.n2g.reading import halves, read
from saebench.studies.n2g.scores import SPECS, by_density, latent_rows, pattern_rows, pattern_text, raw, scores
from saebench.studies.n2g.settings import N2GSettings


@STUDIES.register("n2g")
class N2G(Study[N2GSettings]):
    """How well patterns of tokens say when a latent fires (N2G: Foote et al. 2023, as Gao et al. 2024, §4.3, use it).

    The contexts are cut into two halves. In the first, up to ``n_build`` random activations of each latent are taken. Of the
    text up to such an activation f, the shortest end that gives the latent f/2 or more is kept; each of its tokens is replaced by
    a pad token, and those without which half of the activation of that end remains may be any token, ``*``. If the end no
    longer gives f/2 with the pad token before it, the pattern is bound to the start of a context, ``^``. Ends are read behind BOS
    where the contexts of the corpus begin with it, which is how the SAE knows text.

    A trie of a latent's patterns is matched from the last token backwards. As published, a known token goes before ``*`` and
    there is no way back, so that matches are missed; scores in ``_backtracking`` find every match. A walk ends at the shortest
    pattern on its way.

    Precision is judged on all scored tokens of the second half, recall on up to ``n_recall`` random activations there: Gao et al.
    do not say how many tokens they take for either. ``_all`` scores take all tokens for both. Latents that never fire in one of
    the halves are named in the table and left out of the means; dense latents are easily explained, see ``n2g_f1_always``.
    Standard errors are those of a bootstrap over latents, which takes no account of the strata and so is a little too large.

    Args:
        setting: Where and on how much; ``corpus`` is what the settings name.
        settings: What the task file says, checked.
    """

    name = "n2g"
    version = 1
    specs = SPECS
    Settings: ClassVar[type[StudySettings]] = N2GSettings

    def total(self) -> int:
        """Return twice the number of contexts: reading them is taken for half of the work, building patterns for the other."""
        return 2 * len(self.setting.text.tokens)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.

        Raises:
            InputError: A latent that an SAE does not have, no usable pad token, or a single context.
        """
        port, corpus = self.setting.port, self.setting.text
        explained, pad = explain(self.setting, self.settings, saes)
        for one in explained:
            one.start_judging(corpus, port.model.d_vocab, self.settings.n_recall)
        parts = halves(corpus)
        for batch in read(port, [one.sae for one in explained], corpus, parts[1], batch_size=self.setting.batch_size):
            for i, one in enumerate(explained):
                one.judge(batch, i)
            self.setting.advance(batch.contexts.stop - batch.contexts.start)
        return self._results(explained, [int(corpus.scored[part.start : part.stop].sum()) for part in parts], pad)

    def _results(self, explained: Sequence[Explained], n_tokens: Sequence[int], pad: int) -> list[StudyResult]:
        write = Writer(self.setting.port.model.tokenizer, pad).write
        data = text_info(self.setting.text, rule="patterns built on the first half of the contexts and judged on the second")
        notes = tuple(note for one in explained for note in one.notes())
        results = []
        for one in explained:
            found = one.findings((n_tokens[0], n_tokens[1]))
            results.append(
                StudyResult(
                    scores=scores(found, draws=self.settings.bootstrap, seed=self.setting.seed),
                    series=[by_density(found)] if found.finite and found.judged.any() else [],
                    raw=raw(found, {"n2g_pad_token": float(pad), **one.raw()}),
                    data=data,
                    tables={
                        "n2g": latent_rows(found, write),
                        "n2g_patterns": pattern_rows(found.latents.tolist(), found.tries, write),
                    },
                    texts={"n2g_patterns": pattern_text(found, write)},
                    notes=notes,
                )
            )
        return results

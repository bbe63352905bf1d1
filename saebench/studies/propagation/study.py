"""The study ``propagation``: what the splice of one SAE does to the SAEs behind it, and to which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from saebench.lm.chain import Chain, depth
from saebench.registry import STUDIES
from saebench.store import sae_label
from saebench.studies.base import AtSite, ModelStudy, StudyResult, StudySettings, text_info
from saebench.studies.propagation.passes import Member, run_passes
from saebench.studies.propagation.same_tokens import Ranked, bootstrap
from saebench.studies.propagation.scores import SPECS, Findings, raw, scores
from saebench.studies.propagation.tables import correlation_rows, propagation_rows, sampled_rows
from saebench.tasklist import TaskCorpus


class PropagationSettings(StudySettings):
    """Settings of the study."""

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    bootstrap: int = Field(default=200, ge=2)
    """Draws of contexts behind the standard errors of correlations, overlaps and tail shares."""
    sample: int = Field(default=5000, ge=1)
    """Tokens in the table `token_delta_ce`, chosen by the seed; all if there are fewer."""


@STUDIES.register("propagation")
class Propagation(ModelStudy[PropagationSettings]):
    """How the error of one SAE reaches the SAEs of later layers, and whether the same tokens suffer from each.

    All SAEs of a model are given together. Acts are read on the clean forward. For each SAE the recon is put in the place of the
    acts, at every position but 0 (``--splice-bos`` for that too), and the same forward is read at every site behind it, with the
    same tokens and positions. Of each SAE there: Σ‖x − x̂‖² (``mse``), the number of latents ≠ 0 (``l0``) and ‖x‖ (``norm``), x
    being the acts of that forward and x̂ that SAE's recon of them, summed over all scored tokens, clean and spliced:

        fraction = (Σ spliced − Σ clean) / Σ clean

    with its standard error clustered by context (:func:`saebench.stats.ratio`). One clean forward serves all SAEs, one suffix
    an SAE all those behind it. Site B lies behind A if B is read after A is written in one forward: ``blocks.L.hook_resid_post``
    and ``blocks.L+1.hook_resid_pre`` are one place.

    Anders & Bloom (2024) drew such matrices, but compared different texts at different positions.

    The same suffix gives ΔCE = CE spliced − CE clean of each predicted token (nats). Pearson and Spearman correlations of two
    SAEs' ΔCE over tokens say whether the same tokens suffer; so does the share of the worst 5% of tokens of one that are among
    the worst 5% of the other (0.05 by chance). The tail shares say how much of the total lies in few tokens; the total includes
    the tokens that gain, so they may exceed 1. Standard errors of these are deviations over bootstrap draws of contexts.

    With SAEs of one site only, there is nothing to propagate to; ΔCE is still compared. What is said of one SAE depends on which
    others are given: the record names them, and does not count as finished beside others.
    """

    name = "propagation"
    version = 1
    specs = SPECS
    Settings: ClassVar[type[StudySettings]] = PropagationSettings

    def total(self) -> int:
        """Return the number of contexts."""
        return len(self.setting.text.tokens)

    def run(self, sites: Sequence[AtSite]) -> list[StudyResult]:
        """Return one result an SAE, site by site.

        Args:
            sites: All SAEs of the model.
        """
        corpus, settings = self.setting.text, self.settings
        chain = Chain([at.port for at in sites])
        given = [
            Member(site, sae, sae_label(at.port.read.name, sae.config.name, sae.sha256))
            for site, at in enumerate(sites)
            for sae in at.saes
        ]
        order = sorted(range(len(given)), key=lambda i: _place(chain, given[i]))
        members = [given[i] for i in order]
        found = run_passes(
            chain,
            members,
            corpus,
            splice_bos=self.setting.splice_bos,
            batch_size=self.setting.batch_size,
            advance=self.setting.advance,
        )
        finite = np.asarray(np.isfinite(found.delta_ce).all(1), dtype=bool)
        ranked = Ranked(np.where(finite[:, None], found.delta_ce, 0.0))
        findings = Findings(
            found=found,
            likeness=ranked.likeness(np.ones(len(found.context))),
            drawn=bootstrap(ranked, found.context, draws=settings.bootstrap, seed=self.setting.seed),
            finite=finite,
        )
        data = text_info(corpus, n_scored=int(found.counts.sum()))
        names = [(member.label, chain.ports[member.site].read.name) for member in members]
        sample = sampled_rows(found, corpus, [label for label, _ in names], n=settings.sample, seed=self.setting.seed)
        notes = () if found.spliced else ("no SAE lies behind another: nothing propagates, only ΔCE is compared",)
        results = [
            StudyResult(
                scores=scores(findings, i),
                raw=raw(findings, i),
                data=data,
                tables={
                    **({"propagation": rows} if (rows := propagation_rows(findings, i, names)) else {}),
                    "correlations": correlation_rows(findings, i, names),
                    "token_delta_ce": sample,
                },
                notes=notes,
            )
            for i in range(len(members))
        ]
        return [results[order.index(i)] for i in range(len(given))]


def _place(chain: Chain, member: Member) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Return what SAEs are sorted by, so that the order in which they are given moves nothing."""
    port = chain.ports[member.site]
    return depth(port.read), depth(port.write), member.label

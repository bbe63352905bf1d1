"""SAEs that one run of the study ``propagation`` compared, in the order of their sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from saebench.record import Record
from saebench.report.figures.sources import Source, asked, by_site, grouped
from saebench.store import sae_label


class Together(NamedTuple):
    """The records of one run; two or more."""

    sources: list[Source]
    labels: list[str]
    """What the tables call each SAE."""

    @property
    def record(self) -> Record:
        """Any of the records, for what they share."""
        return self.sources[0].record


def together(sources: Sequence[Source]) -> list[Together]:
    """Return the runs of the study of which two records or more are there."""
    own = [s for s in sources if s.study == "propagation"]
    runs = grouped(own, lambda s: (*asked(s.record), tuple(s.record.settings.get("saes_together", ()))))
    found = [by_site(run) for run in runs if len(run) > 1]
    return [Together(run, [label_of(s.record) for s in run]) for run in found]


def label_of(record: Record) -> str:
    """Return what the study's tables call an SAE."""
    return sae_label(record.sae.site, record.sae.name, record.sae.sha256)

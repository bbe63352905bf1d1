"""The study propagation on given SAEs and contexts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from saebench.data import Corpus
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.studies.base import AtSite, ModelSetting, StudyResult
from saebench.studies.propagation import Propagation, PropagationSettings
from saebench.tasklist import TaskCorpus

EARLY, MIDDLE, LATE = (f"blocks.{layer}.hook_resid_pre" for layer in range(3))
SETTINGS = PropagationSettings(corpus=TaskCorpus(source="unused", n_contexts=1), bootstrap=20, sample=40)


def at(site: str, *saes: SAE) -> tuple[str, tuple[SAE, ...]]:
    return site, tuple(SAE(replace(sae.config, site=site), sae.weights) for sae in saes)


def run(
    model: LanguageModel,
    corpus: Corpus,
    *sites: tuple[str, tuple[SAE, ...]],
    settings: PropagationSettings = SETTINGS,
    **more: Any,
) -> list[StudyResult]:
    """Return the results in the order given."""
    study = Propagation(ModelSetting(**{"model": model, "seed": 0, "corpus": corpus} | more), settings)
    return study.run([AtSite(port=Port(model, site, saes[0].config.site_out), saes=saes) for site, saes in sites])


def values(result: StudyResult) -> dict[str, float | None]:
    return {score.name: score.value for score in result.scores}


def rows(result: StudyResult, table: str) -> list[dict[str, Any]]:
    columns = result.tables[table]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

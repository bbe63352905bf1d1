"""The study's other protocol, that of the package ``sae-probes``: its scores, their definitions, and the rows of the table.

Letters: ``B`` draws of the bootstrap, ``T`` tasks, ``N`` training texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score, Series
from saebench.studies.probes.dictionaries import Latents, Probe
from saebench.studies.probes.ksparse import KSparse, k_sparse
from saebench.studies.probes.penalised import Norm
from saebench.studies.probes.scoring import over_tasks

KS = (1, 2, 4, 5, 8, 16, 32, 64, 128, 256, 512)
"""How many latents a probe may take: what the package takes if it is not told, and 5, which SAEBench takes."""
_ACTS = "acts"
_SOURCE = "Kantamneni et al. 2025, arXiv 2502.16681; sae-probes 0.4.2, setting normal"
_SCORES = {
    "auc": "area under the ROC curve, ties counted half",
    "acc": "accuracy",
    "f1": "F1, the mean of both classes' weighted by their shares",
}


def _specs() -> tuple[ScoreSpec, ...]:
    found = []
    for k in KS:
        latents = "the latent whose means are" if k == 1 else f"the {k} latents whose means are"
        probe = f"logistic regression on {latents} furthest apart over the two classes of the training texts, as the package does"
        found += [_spec(f"{name}_k{k}", f"test {text}, of {probe}", "higher") for name, text in _SCORES.items()]
    whole = "logistic regression with an L2 penalty on all channels of the acts, the package's baseline"
    return (*found, *(_spec(f"{name}_{_ACTS}", f"test {text}, of {whole}", "none") for name, text in _SCORES.items()))


def _spec(name: str, text: str, better: str) -> ScoreSpec:
    return ScoreSpec(
        name=f"k_sparse_{name}",
        definition=f"Mean over probe tasks of the {text}.",
        better=better,  # pyright: ignore[reportArgumentType]
        unit_n="tasks",
        source=_SOURCE,
    )


SPECS = _specs()
_BY_NAME = {spec.name: spec for spec in SPECS}


@dataclass(kw_only=True)
class KSparseFound:
    """What one SAE is worth by this protocol, task after task.

    Args:
        ks: How many latents a probe takes.
        norm: The penalty.
        dictionary: What is probed.
    """

    ks: Sequence[int]
    norm: Norm
    dictionary: Latents
    probes: list[dict[int, KSparse]] = field(default_factory=list)
    """By task, by k."""
    latents: list[list[int]] = field(default_factory=list)
    """By task: the first latents in their order."""

    def add(self, probe: Probe, held: Bool[np.ndarray, " N"]) -> None:
        """Probe one task; ``held`` are the training texts that C is chosen on."""
        found, order = k_sparse(self.dictionary.matrix(probe), probe.labels, probe.is_train, held, self.ks, self.norm)
        self.probes.append(found)
        self.latents.append(order[: max(self.ks)].tolist())


def scores(found: KSparseFound, acts: Sequence[KSparse], drawn: Float[np.ndarray, "B T"]) -> list[Score]:
    """Return the rows of one record.

    Args:
        found: Of the SAE.
        acts: The baseline, one a task.
        drawn: How often each task is drawn in each draw of the bootstrap.
    """
    rows = []
    for k in found.ks:
        for name in _SCORES:
            values = [getattr(one[k], name) if found.dictionary.finite else math.nan for one in found.probes]
            rows.append(_BY_NAME[f"k_sparse_{name}_k{k}"].score(over_tasks(values, drawn)))
    for name in _SCORES:
        rows.append(_BY_NAME[f"k_sparse_{name}_{_ACTS}"].score(over_tasks([getattr(one, name) for one in acts], drawn)))
    return rows


def series(found: KSparseFound) -> list[Series]:
    """Return the mean test AUC by k."""
    if not found.dictionary.finite:
        return []
    aucs = np.array([[one[k].auc for k in found.ks] for one in found.probes])
    return [
        Series(
            name="k_sparse_auc_by_k",
            x_name="k",
            x=[float(k) for k in found.ks],
            value=[finite_or_none(value) for value in aucs.mean(0).tolist()],
            n=[len(aucs)] * len(found.ks),
            unit="",
        )
    ]


def rows(
    found: KSparseFound, acts: Sequence[KSparse], probes: Sequence[Mapping[str, Any]], about: Sequence[Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Return one row a task and k, and one a task for the acts (k null), as columns.

    Args:
        found: Of the SAE.
        acts: The baseline, one a task.
        probes: What each task's texts are: name, numbers, share.
        about: What else is to be said of each task.
    """
    table: dict[str, list[Any]] = {}
    own = found.probes if found.dictionary.finite else []
    for number, (task, more) in enumerate(zip(probes, about, strict=True)):
        tried = [("sae", k, own[number][k], found.latents[number][:k]) for k in found.ks] if own else []
        for source, k, one, latents in (*tried, (_ACTS, None, acts[number], [])):
            row = {"source": source, **task, "k": k, "latents": latents, **vars(one), **more}
            for name, value in row.items():
                table.setdefault(name, []).append(finite_or_none(value) if isinstance(value, float) else value)
    return table

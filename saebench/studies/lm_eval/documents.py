"""One lm-eval task: its requests built once, answered once for every pass, and made into numbers of every document.

What is a request, a filter and a metric is lm-eval's own; its ``evaluate`` does the same for one model.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import Any

import numpy as np

from saebench.lm.lm_eval import SplicedLM
from saebench.studies.lm_eval.found import Found, Key
from saebench.studies.lm_eval.tasks import quiet, seeded


def build(task: Any, limit: int | None) -> None:
    """Let a task build the requests of its first ``limit`` documents, a few examples in front where it has them."""
    with quiet(), seeded():
        task.build_all_requests(limit=limit, rank=0, world_size=1, cache_requests=False)


def ask(name: str, task: Any, lm: SplicedLM) -> Found:
    """Return what every pass says about the requests that the task has built.

    Args:
        name: The task's name.
        task: lm-eval's task, its requests built.
        lm: The model; its :attr:`~saebench.lm.lm_eval.SplicedLM.which` is set to each pass in turn.
    """
    by_document: dict[int, list[Any]] = defaultdict(list)
    for instance in task.instances:
        by_document[instance.doc_id].append(instance)
    for instances in by_document.values():
        instances.sort(key=lambda instance: instance.idx)
    found = Found(name=name, documents=sorted(by_document))
    found.digest = _digest(task.instances)
    found.aggregations, found.higher_is_better = dict(task.aggregation()), dict(task.higher_is_better())
    lnp = []
    for which in range(lm.answerer.n_passes):
        lm.which = which
        _answer(task, lm)
        lnp.append([_lnp(task, by_document[number]) for number in found.documents])
        values = _metrics(task, [by_document[number] for number in found.documents])
        for key, column in values.items():
            found.metrics.setdefault(key, []).append(column)
    lm.which = 0
    found.n_tokens = [
        max(lm.context_length(instance.request_type, instance.args) for instance in by_document[number])
        for number in found.documents
    ]
    found.lnp = np.array(lnp, dtype=np.float64)  # None becomes NaN
    if np.isnan(found.lnp).all():
        found.lnp = None
    return found


def _answer(task: Any, lm: SplicedLM) -> None:
    """Give every request the pass's answer, and filter."""
    kinds: dict[str, list[Any]] = defaultdict(list)
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}
        kinds[instance.request_type] += [instance] * (instance.repeats or 1)
    for kind, instances in kinds.items():
        for instance, answer in zip(instances, getattr(lm, kind)(instances), strict=True):
            instance.resps.append(answer)
    task.apply_filters()


def _metrics(task: Any, documents: list[list[Any]]) -> dict[Key, list[Any]]:
    values: dict[Key, list[Any]] = defaultdict(list)
    for chosen in documents[0][0].filtered_resps:
        for instances in documents:
            found = task.process_results(instances[0].doc, [i.filtered_resps[chosen] for i in instances])
            for metric, value in found.items():
                values[metric, chosen].append(value)
    return dict(values)


def _lnp(task: Any, instances: list[Any]) -> float | None:
    """Return ln p of a document's right answer; of the answer behind the right context, where contexts are to be chosen from."""
    if task.OUTPUT_TYPE == "loglikelihood":
        return float(instances[0].resps[0][0])
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return float(instances[0].resps[0])
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    doc, contexts = instances[0].doc, getattr(task, "multiple_input", 0)
    target = task.doc_to_text(doc) if contexts else task.doc_to_target(doc)
    if isinstance(target, str):
        choices = task.doc_to_choice(doc)
        target = choices.index(target) if target in choices else None
    if getattr(task, "multiple_target", 0) or not isinstance(target, int) or not 0 <= target < len(instances):
        return None
    return float(instances[target].resps[0][0])


def _digest(instances: list[Any]) -> bytes:
    digest = hashlib.sha256()
    for instance in instances:
        asked = [instance.request_type, instance.doc_id, instance.idx, list(instance.args)]
        digest.update(json.dumps(asked, ensure_ascii=False, sort_keys=True, default=str).encode() + b"\n")
    return digest.digest()

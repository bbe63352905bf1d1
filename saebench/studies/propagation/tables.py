"""The tables beside a record: the row of the propagation matrix, the row of the correlation matrices, and sampled tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from saebench.data import Corpus
from saebench.metrics.base import finite_or_none
from saebench.studies.propagation.passes import QUANTITIES, Found
from saebench.studies.propagation.same_tokens import TAIL
from saebench.studies.propagation.scores import Findings, error_of

Names = Sequence[tuple[str, str]]
"""(label, site) of each SAE."""


def propagation_rows(findings: Findings, i: int, names: Names) -> dict[str, list[Any]]:
    """Return a row for each SAE behind SAE ``i`` and each quantity: its mean over tokens clean and spliced, and the fraction.

    Empty where no SAE lies behind.
    """
    found, n = findings.found, float(findings.found.counts.sum())
    rows: list[dict[str, Any]] = []
    for j in findings.behind(i):
        for q, quantity in enumerate(QUANTITIES):
            fraction = findings.fraction(i, j, q)
            rows.append(
                {
                    "sae": names[j][0],
                    "site": names[j][1],
                    "metric": quantity,
                    "clean": finite_or_none(float(found.clean[j, q].sum()) / n),
                    "spliced": finite_or_none(float(found.spliced[i, j][q].sum()) / n),
                    "fraction": finite_or_none(fraction.value),
                    "stderr": finite_or_none(fraction.stderr),
                    "n": int(n),
                }
            )
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def correlation_rows(findings: Findings, i: int, names: Names) -> dict[str, list[Any]]:
    """Return a row for each other SAE: what the two have in common, with standard errors; null where undefined."""
    others = [j for j in range(len(names)) if j != i]
    columns: dict[str, list[Any]] = {"sae": [names[j][0] for j in others], "site": [names[j][1] for j in others]}
    for name in ("pearson", "spearman", "overlap"):
        values = getattr(findings.likeness, name)[i]
        columns[name] = [finite_or_none(float(values[j])) for j in others]
        draws = np.array([getattr(one, name)[i] for one in findings.drawn]).reshape(-1, len(names))
        columns[f"{name}_stderr"] = [None if np.isnan(values[j]) else error_of(draws[:, j]) for j in others]
    n = len(findings.found.context)
    columns["overlap_chance"] = [max(1, int(np.ceil(TAIL * n))) / n if n else None] * len(others)
    columns["n"] = [n] * len(others)
    return columns


def sampled_rows(found: Found, corpus: Corpus, labels: Sequence[str], *, n: int, seed: int) -> dict[str, Any]:
    """Return ``n`` predictions chosen by the seed, in the order of the text, with the ΔCE of every SAE (float32, nats).

    Args:
        found: What the passes have seen.
        corpus: The contexts.
        labels: Column of each SAE.
        n: How many; all if there are fewer.
        seed: Which.
    """
    total = len(found.context)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n].sort().values.numpy()
    context, position = found.context[chosen], found.position[chosen]
    tokens = corpus.tokens.numpy()
    return {
        "context": context,
        "position": position,
        "token": tokens[context, position],
        "next_token": tokens[context, position + 1],
        "ce_clean": found.ce_clean[chosen].astype(np.float32),
        **{label: _or_null(row[chosen]) for label, row in zip(labels, found.delta_ce, strict=True)},
    }


def _or_null(values: np.ndarray) -> Any:
    """Return float32 values; where one is not finite, a list with ``None`` in its place."""
    small = values.astype(np.float32)
    return small if np.isfinite(small).all() else [finite_or_none(float(v)) for v in small]

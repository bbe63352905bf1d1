"""What the passes say about the documents of one lm-eval task."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, str]
"""Metric and filter, as lm-eval names them."""


@dataclass(kw_only=True)
class Found:
    """What every pass says about one task's documents, in the order of the data."""

    name: str
    documents: list[int]
    """Number of each document."""
    n_tokens: list[int] = field(default_factory=list)
    """Tokens of each document's longest context once cut, BOS included; of the text, where whole texts are asked for."""
    metrics: dict[Key, list[list[Any]]] = field(default_factory=dict)
    """``[pass][document]``: what lm-eval's metric says of a document, a number or what its aggregation takes."""
    aggregations: dict[str, Any] = field(default_factory=dict)
    """By metric: from the documents' values to one."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    lnp: NDArray[np.float64] | None = None
    """ln p of the right answer ``[pass, document]``, NaN where there is none; ``None`` where no document has one."""
    digest: bytes = b""
    """SHA-256 of the requests."""

    def some(self, which: NDArray[np.bool_]) -> Found:
        """Return the same of some of the documents, without metrics that not every document has."""

        def taken(values: list[Any]) -> list[Any]:
            return [value for value, one in zip(values, which, strict=True) if one]

        return replace(
            self,
            documents=taken(self.documents),
            n_tokens=taken(self.n_tokens),
            metrics={
                key: [taken(column) for column in columns]
                for key, columns in self.metrics.items()
                if all(len(column) == len(self.documents) for column in columns)
            },
            lnp=None if self.lnp is None else self.lnp[:, which],
        )

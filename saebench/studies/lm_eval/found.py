"""What the passes say about the documents of one lm-eval task."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    metrics: dict[Key, list[list[Any]]] = field(default_factory=dict)
    """``[pass][document]``: what lm-eval's metric says of a document, a number or what its aggregation takes."""
    aggregations: dict[str, Any] = field(default_factory=dict)
    """By metric: from the documents' values to one."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    lnp: NDArray[np.float64] | None = None
    """ln p of the right answer ``[pass, document]``; ``None`` where text is written, or no answer is the right one."""
    digest: bytes = b""
    """SHA-256 of the requests."""

"""What a splice does to each example, from the tables of the study ``cloze``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saebench.report.figures.sources import Source

TABLE = "examples"
_COLUMNS = ("example", "right_clean", "right_spliced", "lnp_clean", "lnp_spliced", "ce_clean", "ce_spliced")
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Examples:
    """One SAE's examples; NaN where a number is not known."""

    source: Source
    example: NDArray[np.int64]
    right_clean: NDArray[np.bool_]
    right_spliced: NDArray[np.bool_]
    delta_lnp: Floats
    """ln p_spliced − ln p_clean of the answer, nats."""
    delta_ce: Floats
    """CE spliced − clean of the prompt, nats a token."""
    mse: Floats | None
    """Mean over the prompt's tokens of ‖x − x̂‖²; ``None`` where the record does not say."""


def examples_of(source: Source) -> Examples:
    """Return the examples of a source that :func:`has_examples`."""
    table = source.read(TABLE, *_COLUMNS)
    return Examples(
        source=source,
        example=table["example"],
        right_clean=table["right_clean"].astype(bool),
        right_spliced=table["right_spliced"].astype(bool),
        delta_lnp=table["lnp_spliced"] - table["lnp_clean"],
        delta_ce=table["ce_spliced"] - table["ce_clean"],
        mse=source.read(TABLE, "mse")["mse"] if source.has(TABLE, "mse") else None,
    )


def with_examples(sources: Sequence[Source]) -> list[Source]:
    """Return the sources that have a table of examples."""
    return [s for s in sources if s.study == "cloze" and has_examples(s)]


def has_examples(source: Source) -> bool:
    """Return whether there is a table of examples with what pictures need."""
    return source.has(TABLE, *_COLUMNS)

"""How often each threshold of each column is reached where each kind holds.

A token has one kind of each variable, so one pass over the entries counts all kinds of a variable. Several small variables are
counted in one pass as one variable whose kinds are their combinations, where the columns are long enough to pay for it.

Letters: ``T`` tokens, ``C`` columns, ``Z`` entries, ``B`` thresholds of a column, ``K`` kinds of one variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

Codes = Mapping[str, Int[np.ndarray, " T"]]
_JOINT = 256


@dataclass(frozen=True, kw_only=True)
class _Pack:
    """Some variables as one."""

    widths: dict[str, int]
    codes: Int[np.ndarray, " T"]
    """The combination of kinds at each token; the last variable's changes fastest."""


class Counter:
    """Counts by kind.

    Args:
        codes: By variable, a number below its width at each token.
        widths: By variable.
    """

    def __init__(self, codes: Codes, widths: Mapping[str, int]) -> None:
        self._alone = [_Pack(widths={name: widths[name]}, codes=codes[name].astype(np.int64)) for name in widths]
        self._joint: list[_Pack] = []
        for pack in sorted(self._alone, key=lambda pack: next(iter(pack.widths.values()))):
            width = next(iter(pack.widths.values()))
            last = self._joint[-1] if self._joint else None
            if last is not None and int(np.prod(list(last.widths.values()))) * width <= _JOINT:
                self._joint[-1] = _Pack(widths=last.widths | pack.widths, codes=last.codes * width + pack.codes)
            else:
                self._joint.append(pack)

    def reached(
        self, cell: Int[np.ndarray, " Z"], tokens: Int[np.ndarray, " Z"], n_columns: int, n_levels: int
    ) -> Iterator[tuple[str, Int[np.ndarray, "C B K"]]]:
        """Yield, for each variable, how many entries reach each threshold at tokens of each kind.

        Args:
            cell: Of each entry, its column · B + the highest threshold that it reaches.
            tokens: Of each entry.
            n_columns: ``C``.
            n_levels: ``B``.
        """
        n_cells = n_columns * n_levels
        for pack in self._joint if len(cell) > n_cells * _JOINT // 3 else self._alone:
            shape = tuple(pack.widths.values())
            width = int(np.prod(shape))
            table = np.bincount(cell * width + pack.codes[tokens], minlength=n_cells * width).reshape(n_columns, n_levels, *shape)
            for axis, name in enumerate(pack.widths):
                others = tuple(2 + other for other in range(len(shape)) if other != axis)
                yield name, from_the_top(table.sum(others) if others else table)


def from_the_top(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return sums over a threshold and all above it (axis 1)."""
    return np.flip(np.cumsum(np.flip(counts, 1), 1), 1)

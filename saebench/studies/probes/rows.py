"""The rows of a probe task's sources: from the hub or a mirror, from the package ``sae-probes``, from a recipe."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.data.datasets import Row, load_rows
from saebench.errors import InputError
from saebench.probelist import ProbeSource
from saebench.studies.probes.package import package_rows
from saebench.studies.probes.recipe import PROBE_RECIPES, Wanted
from saebench.tasklist import validate


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows, and where they came from."""

    rows: Sequence[Row]
    origin: str
    revision: str | None = None


class RowReader:
    """Reads sources; what several tasks of one run share, or what could not be had, is asked for once.

    Args:
        data_dir: Folder of a local mirror.
    """

    def __init__(self, data_dir: Path | None) -> None:
        self._data_dir = data_dir
        self._kept: dict[tuple[Any, ...], Found] = {}
        self._failed: dict[tuple[Any, ...], str] = {}

    def read(self, source: ProbeSource, wanted: Wanted) -> Found:
        """Return the rows of one source, with what ``set`` adds.

        Raises:
            InputError: There are none to be had, or the recipe's options are wrong.
        """
        found = self._recipe(source, wanted) if source.recipe is not None else self._stored(source, wanted.seed)
        if not found.rows:
            raise InputError(f"{source.name()} is empty")
        if not source.set:
            return found
        return Found(rows=[row | source.set for row in found.rows], origin=found.origin, revision=found.revision)

    def _recipe(self, source: ProbeSource, wanted: Wanted) -> Found:
        kind = PROBE_RECIPES.get(source.recipe or "")
        recipe = kind(validate(kind.Options, source.options, f"recipe {source.recipe!r}, options"))
        return Found(rows=list(recipe.rows(wanted)), origin=recipe.origin)

    def _stored(self, source: ProbeSource, seed: int) -> Found:
        key = (data_of(source), seed)
        if key in self._failed:
            raise InputError(self._failed[key])
        if key not in self._kept:
            try:
                self._kept[key] = self._load(source, seed)
            except InputError as error:
                self._failed[key] = str(error)
                raise
        return self._kept[key]

    def _load(self, source: ProbeSource, seed: int) -> Found:
        if source.sae_probes is not None:
            rows, origin = package_rows(source.sae_probes, source.mirror, self._data_dir)
            return Found(rows=rows, origin=origin)
        assert source.hub is not None
        found = load_rows(
            source.hub, config=source.config, split=source.split, revision=source.revision, seed=seed, data_dir=self._data_dir,
            advice="Name a folder that holds it with --data-dir",
        )  # fmt: skip
        rows = list(itertools.islice(found.rows, source.rows))
        return Found(rows=rows, origin=found.origin, revision=found.revision)

    def forget(self, source: ProbeSource) -> None:
        """Let go of the rows of a source that no later task reads."""
        for key in [key for key in self._kept if key[0] == data_of(source)]:
            del self._kept[key]


def data_of(source: ProbeSource) -> tuple[Any, ...]:
    """Return what two sources share if they read the same rows."""
    return (source.hub, source.config, source.split, source.revision, source.rows, source.sae_probes, source.mirror)

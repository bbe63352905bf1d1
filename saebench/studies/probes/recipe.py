"""What a recipe is: rows that are made on the spot, of a seed and some options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from saebench.registry import Registry


class RecipeOptions(BaseModel):
    """The keys that a probe task may put under a recipe's ``options``."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


OptionsOf = TypeVar("OptionsOf", bound=RecipeOptions)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a recipe is asked for."""

    seed: int
    n_train: int
    n_test: int
    data_dir: Path | None = None
    """Folder of a local mirror."""


class Recipe(ABC, Generic[OptionsOf]):
    """Makes rows. Registered with ``@PROBE_RECIPES.register(name)``, or under the entry points ``saebench.probe_recipes``.

    Args:
        options: What the probe task says, checked.
    """

    Options: ClassVar[type[RecipeOptions]] = RecipeOptions
    """The class that checks the options."""

    def __init__(self, options: OptionsOf) -> None:
        self.options = options

    @abstractmethod
    def rows(self, wanted: Wanted) -> Iterable[dict[str, Any]]:
        """Return rows; the same for the same options, seed and numbers.

        Raises:
            InputError: The texts that it works on are not there, or give too few rows.
        """

    @property
    def origin(self) -> str:
        """Where the rows are from, for the record."""
        return f"generated:{type(self).__name__}"


PROBE_RECIPES: Registry[type[Recipe[Any]]] = Registry(
    "probe recipe", package="saebench.studies.probes.recipes", group="saebench.probe_recipes"
)

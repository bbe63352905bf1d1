"""Texts of the made-up world of :mod:`saebench.data.storyworld`, labelled by one of its variables at their last piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from saebench.data.storyworld import probe_task
from saebench.studies.probes.recipe import PROBE_RECIPES, Recipe, RecipeOptions, Wanted


class StoryworldOptions(RecipeOptions):
    """What the recipe takes."""

    variable: str
    """One of ``saebench.data.storyworld.VARIABLES``."""
    kinds: tuple[str, str] | None = None
    """The two values to tell apart, the positive one last; the two most usual ones if not given."""


@PROBE_RECIPES.register("storyworld")
class Storyworld(Recipe[StoryworldOptions]):
    """Texts whose last piece has one value of a variable or the other; columns text, label (bool), kind, part (train, test).

    Training texts come from the corpus's training part, test texts from its evaluation part.
    """

    Options: ClassVar[type[RecipeOptions]] = StoryworldOptions

    def rows(self, wanted: Wanted) -> Iterator[dict[str, Any]]:
        """Return as many rows of each part as are wanted of the larger one; ``InputError`` if the world has too few."""
        most = max(wanted.n_train, wanted.n_test)
        task = probe_task(self.options.variable, wanted.seed, most + most % 2, self.options.kinds)
        for part, examples in (("train", task.train), ("test", task.test)):
            for text, kind in examples:
                yield {"text": text, "label": bool(kind), "kind": task.kinds[kind], "part": part}

    @property
    def origin(self) -> str:
        """Name the variable."""
        return f"generated:storyworld/{self.options.variable}"

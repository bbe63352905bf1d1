"""Phrases of two words over any corpus: texts that end with both, or with one of them only (Gurnee et al. 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from saebench.errors import InputError
from saebench.studies.probes.corpus import CorpusOptions, documents
from saebench.studies.probes.recipe import PROBE_RECIPES, Recipe, RecipeOptions, Wanted

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_KINDS: tuple[str, ...] = ("both", "missing_first", "missing_second")


class PhraseOptions(CorpusOptions):
    """What the recipe takes."""

    first: str
    """The first word of the phrase; capital letters make no difference."""
    second: str
    """The second one."""
    words: int = Field(default=24, ge=2)
    """Words of a text at most, the phrase included."""


@PROBE_RECIPES.register("phrase")
class Phrase(Recipe[PhraseOptions]):
    """Texts that end with a phrase, and texts that end with half of it; columns text, label (bool), kind, document.

    As in Gurnee et al. (2023, compound words), but in words, not in one model's tokens: half of the negative texts end with the
    second word behind another first one (``missing_first``), half with another word behind the first (``missing_second``).
    Nothing but spaces stands between the two. Texts of one document overlap: the task should have ``group: document``.
    """

    Options: ClassVar[type[RecipeOptions]] = PhraseOptions

    def rows(self, wanted: Wanted) -> Iterator[dict[str, Any]]:
        """Return at most as many rows as are wanted; ``InputError`` if the corpus lacks the phrase or either half of it."""
        half = (wanted.n_train + wanted.n_test) // 2
        left: dict[str, int] = dict(zip(_KINDS, (half, -(-half // 2), half // 2), strict=True))
        found: dict[str, int] = dict.fromkeys(_KINDS, 0)
        for number, text in enumerate(documents(self.options, seed=wanted.seed, data_dir=wanted.data_dir)):
            for kind, passage in self._passages(text):
                if left[kind]:
                    left[kind] -= 1
                    found[kind] += 1
                    yield {"text": passage, "label": kind == "both", "kind": kind, "document": number}
            if not any(left.values()):
                return
        if not found["both"] or not (found["missing_first"] or found["missing_second"]):
            raise InputError(
                f"{self.options.corpus} has {found['both']} times {self.options.first!r} {self.options.second!r}, "
                f"{found['missing_first']} times the second word alone and {found['missing_second']} times the first; "
                "give more text or a more usual phrase"
            )

    def _passages(self, text: str) -> Iterator[tuple[str, str]]:
        first, second = self.options.first.lower(), self.options.second.lower()
        spans = [match.span() for match in _WORD.finditer(text)]
        words = [text[start:end].lower() for start, end in spans]
        for at in range(1, len(words)):
            if text[spans[at - 1][1] : spans[at][0]].strip():
                continue
            ends, begins = words[at] == second, words[at - 1] == first
            if ends or begins:
                kind = "both" if ends and begins else "missing_first" if ends else "missing_second"
                yield kind, text[spans[max(at + 1 - self.options.words, 0)][0] : spans[at][1]]

    @property
    def origin(self) -> str:
        """Name the corpus."""
        return f"phrases of {self.options.corpus}"

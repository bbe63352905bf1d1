"""Base64 of texts, against what looks like it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from saebench.errors import InputError
from saebench.studies.probes.corpus import CorpusOptions, documents
from saebench.studies.probes.deal import generator
from saebench.studies.probes.recipe import PROBE_RECIPES, Recipe, RecipeOptions, Wanted

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


class Base64Options(CorpusOptions):
    """What the recipe takes."""

    corpus: str = "storyworld:train"
    """What is encoded."""
    negative: Literal["shuffled", "random", "text"] = "shuffled"
    """The other class: base64 with its characters shuffled, random characters of its alphabet, or the text itself."""
    words: tuple[int, int] = (4, 16)
    """Words of a piece of text, fewest and most."""
    patience: int = Field(default=1000, ge=1)
    """Documents in a row without a piece long enough before it gives up."""


@PROBE_RECIPES.register("base64")
class Base64(Recipe[Base64Options]):
    """Pieces of a text in base64 and, of other pieces, something like it; columns text, label (bool), document."""

    Options: ClassVar[type[RecipeOptions]] = Base64Options

    def rows(self, wanted: Wanted) -> Iterator[dict[str, Any]]:
        """Return as many rows as are wanted, every other one base64; ``InputError`` if the corpus is too short."""
        rng = generator("base64", wanted.seed)
        left, idle = wanted.n_train + wanted.n_test, 0
        for number, text in enumerate(documents(self.options, seed=wanted.seed, data_dir=wanted.data_dir)):
            idle += 1
            for piece in self._pieces(text.split(), rng):
                if not left:
                    return
                idle, left = 0, left - 1
                label = left % 2 == 1
                yield {"text": _encoded(piece) if label else self._other(piece, rng), "label": label, "document": number}
            if idle > self.options.patience:
                break
        if left:
            raise InputError(
                f"{self.options.corpus} is too short for {wanted.n_train + wanted.n_test} pieces; {left} are missing"
            )

    def _pieces(self, words: list[str], rng: torch.Generator) -> Iterator[str]:
        fewest, most = self.options.words
        while len(words) >= fewest:
            n = int(torch.randint(fewest, most + 1, (1,), generator=rng))
            yield " ".join(words[:n])
            words = words[n:]

    def _other(self, piece: str, rng: torch.Generator) -> str:
        if self.options.negative == "text":
            return piece
        body = _encoded(piece).rstrip("=")
        if self.options.negative == "shuffled":
            chosen = [body[at] for at in torch.randperm(len(body), generator=rng)]
        else:
            chosen = [_ALPHABET[at] for at in torch.randint(len(_ALPHABET), (len(body),), generator=rng)]
        return "".join(chosen) + "=" * (-len(body) % 4)

    @property
    def origin(self) -> str:
        """Name what was encoded."""
        return f"base64 of {self.options.corpus}"


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()

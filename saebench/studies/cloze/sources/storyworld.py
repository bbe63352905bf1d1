"""Examples from the made-up world of :mod:`saebench.data.storyworld`, of its evaluation part; training text from the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saebench.data.storyworld import cbt, generate, lambada
from saebench.studies.cloze.examples import SOURCES, Example, Texts, with_blank

_TRAINING_SEED = 0


@SOURCES.register("storyworld_lambada")
def storyworld_lambada(seed: int, n: int, data_dir: Path | None = None) -> Texts:
    """Passages whose last word follows from the passage, not from its last sentence."""
    del data_dir
    examples = [
        Example(prompt=item.context, candidates=(item.target,), answer=0, kind=item.kind) for item in lambada(seed, n, "eval")
    ]
    return Texts(name="storyworld:lambada", examples=examples, training=_training)


@SOURCES.register("storyworld_cbt")
def storyworld_cbt(seed: int, n: int, data_dir: Path | None = None) -> Texts:
    """Twenty sentences, a twenty-first with a blank, and ten candidates of one kind that all stand in the twenty."""
    del data_dir
    examples = [
        with_blank(" ".join(item.context), item.query, item.candidates, item.answer, kind=item.kind)
        for item in cbt(seed, n, "eval")
    ]
    return Texts(name="storyworld:cbt", examples=examples, training=_training)


def _training() -> Iterator[str]:
    return (document.text for document in generate(_TRAINING_SEED, "train"))

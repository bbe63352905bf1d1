"""What a cloze task asks: a text up to a gap, what may stand in the gap, and which of it does."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from saebench.errors import InputError
from saebench.registry import Registry

BLANK = "XXXXX"
"""Where the gap is, in the questions of the Children's Book Test."""
_SENTENCE_END = re.compile(r"[.!?][\"'”’)\]]*\s+")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One text with a gap."""

    prompt: str
    """The text before the gap, without the space that separates them."""
    candidates: tuple[str, ...]
    """What may stand in the gap; for a last word, the right one alone."""
    answer: int
    """Index of the right one."""
    rest: str = ""
    """What stands between the gap and the end of its sentence."""
    lead: str = " "
    """What stands between prompt and gap: a space, or nothing."""
    kind: str = ""
    """What is asked for, where the source tells."""

    def filled(self, candidate: str) -> str:
        """Return the text with ``candidate`` in the gap, up to the end of the sentence."""
        return self.prompt + self.lead + candidate + self.rest

    def last_sentence(self) -> Example:
        """Return the same question where only the sentence of the gap is known.

        A sentence begins behind ``.``, ``!`` or ``?``, quotation marks and brackets that close there, and white space.
        """
        start = max((match.end() for match in _SENTENCE_END.finditer(self.prompt)), default=0)
        return replace(self, prompt=self.prompt[start:])


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Examples, and where they are from."""

    name: str
    """Hub id, or ``storyworld:…`` for what is generated."""
    revision: str | None = None
    examples: list[Example]
    training: Callable[[], Iterator[str]] | None = None
    """Texts of the same kind, without the examples, for the n-gram baseline; ``None`` where there are none."""
    left_out: int = 0
    """Rows of the source that cannot be asked: empty texts, no gap, a right answer that is not among the candidates."""

    def sha256(self) -> str:
        """Return the SHA-256 of the examples, as text."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(json.dumps(asdict(example), sort_keys=True, ensure_ascii=False).encode() + b"\n")
        return digest.hexdigest()


Source = Callable[[int, int, Path | None], Texts]
"""(seed, number of examples at most, folder of a local mirror) → texts."""

SOURCES: Registry[Source] = Registry("cloze source", package="saebench.studies.cloze.sources", group="saebench.cloze_sources")


def with_blank(context: str, query: str, candidates: Sequence[str], answer: str, *, kind: str = "") -> Example:
    """Return the example of a context and a sentence with one blank, ``XXXXX``, as the Children's Book Test has them.

    Raises:
        InputError: No blank or several, or the answer is not among the candidates.
    """
    before, blank, rest = query.partition(BLANK)
    if not blank or BLANK in rest:
        raise InputError(f"{query!r} must have one blank, {BLANK}")
    if answer not in candidates:
        raise InputError(f"{query!r}: the answer {answer!r} is not among the candidates {', '.join(candidates)}; add it")
    prompt = f"{context} {before}" if before.strip() else f"{context} "
    lead = " " if prompt.endswith(" ") else ""
    return Example(
        prompt=prompt.rstrip(" "),
        candidates=tuple(candidates),
        answer=list(candidates).index(answer),
        rest=rest,
        lead=lead,
        kind=kind,
    )


def checked(texts: Texts, *, several: bool) -> Texts:
    """Return ``texts`` unless an example cannot be scored.

    Args:
        texts: What a source gave.
        several: Whether a choice among candidates is asked for.

    Raises:
        InputError: There is none; or one has an empty candidate, one twice, no right one, or nothing to choose from.
    """
    if not texts.examples:
        raise InputError(f"{texts.name} gives no examples; choose another source")
    for number, example in enumerate(texts.examples):
        wrong = _what_is_wrong(example, several)
        if wrong:
            raise InputError(f"{texts.name}, example {number}: {wrong}")
    return texts


def _what_is_wrong(example: Example, several: bool) -> str | None:
    words: Sequence[str] = example.candidates
    if not all(word.strip() for word in words):
        return "a candidate is empty; each must be a word"
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        return f"{twice!r} is a candidate twice; give each once"
    if not 0 <= example.answer < len(words):
        return "the answer is not among the candidates; add it"
    if several and len(words) < 2:
        return f"{' '.join(words)!r} is the only candidate; `answer: candidates` needs two or more, `answer: last_word` one"
    if not several and len(words) > 1:
        return f"it has {len(words)} candidates; `answer: last_word` takes the right one alone, `answer: candidates` all"
    return None

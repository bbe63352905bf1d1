"""A document with its labels, which are worked out only when they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import no_type_check

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld.lexicon import ENTITY, FORM_MASK
from saebench.data.storyworld.variables import CONTEXT, CTX, POSITION, REF, REFERENT, VARIABLES, WORD

_NO_ENTITY = (0,) * len(REFERENT)
_SPANS = (1, 2, 5)


@no_type_check
@dataclass(eq=False)
class Document:
    """Text as pieces, and what is true of each.

    The pieces tile the text: every character belongs to exactly one, and the space before a word belongs to the word.
    """

    codes: list[int]
    """One number a piece: its form, how it is written, what it refers to."""
    marks: list[int]
    """Where the context changes …"""
    states: list[tuple[int, ...]]
    """… and what it is from there on."""
    sentences: list[int]
    """Where sentences begin."""
    events: list[tuple[int, int, int, int]]
    """Changes of the world: piece, entity, label, new value."""
    entities: list[tuple[int, ...]]
    """Labels of every entity that do not change."""
    register: str
    nats: float
    """−ln p of everything that was drawn to write this, an upper bound on the text's information."""

    @cached_property
    def pieces(self) -> list[str]:
        """The text of every piece."""
        texts = lex.TEXTS
        return [texts[c & FORM_MASK] for c in self.codes]

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    @cached_property
    def vectors(self) -> list[tuple[int, ...]]:
        """The different label vectors of this document, each with one label a variable, in the order of ``VARIABLES``."""
        return self._labelled[0]

    @cached_property
    def label_index(self) -> list[int]:
        """For every piece, which of ``vectors`` is its."""
        return self._labelled[1]

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Start and end in the text and index into ``vectors`` of every piece."""
        out, at = [], 0
        for piece, index in zip(self.pieces, self.label_index, strict=True):
            out.append((at, at + len(piece), index))
            at += len(piece)
        return out

    def labels(self, variable: str) -> list[int]:
        """Return one variable's label of every piece, an index into the variable's ``values``."""
        column = _COLUMN[variable]
        if variable in WORD:
            forms = lex.LABELS
            return [forms[(c & FORM_MASK) >> 2][column] for c in self.codes]
        if variable in CONTEXT:
            at = CTX[variable]
            ends = [*self.marks[1:], len(self.codes)]
            out = [0] * self.marks[0] if self.marks else [0] * len(self.codes)
            for start, end, state in zip(self.marks, ends, self.states, strict=True):
                out += [state[at]] * (end - start)
            return out
        if variable in REFERENT and variable not in ("owner", "whereabouts"):
            at = REF[variable]
            table = [0, *(entity[at] for entity in self.entities)]
            return [table[c >> ENTITY] for c in self.codes]
        vectors = self.vectors
        return [vectors[i][column] for i in self.label_index]

    def kinds(self, variable: str) -> list[str]:
        """Return one variable's value of every piece in words."""
        values = VARIABLES[variable].values
        return [values[i] for i in self.labels(variable)]

    @cached_property
    def _labelled(self) -> tuple[list[tuple[int, ...]], list[int]]:
        known: dict[tuple[int, ...], int] = {}
        index: list[int] = []
        for vector in self._walk():
            i = known.get(vector)
            if i is None:
                i = known[vector] = len(known)
            index.append(i)
        return list(known), index

    def _walk(self) -> Iterator[tuple[int, ...]]:
        forms, marks, states, events = lex.LABELS, self.marks, self.states, self.events
        entities = [_NO_ENTITY, *self.entities]
        seen = [-1] * len(entities)
        n, last_sentence = len(self.codes), max(len(self.sentences) - 1, 1)
        state, mark, event, sentence, begin, end = (0,) * len(CONTEXT), 0, 0, -1, 0, 0
        for at, code in enumerate(self.codes):
            while mark < len(marks) and marks[mark] <= at:
                state = states[mark]
                mark += 1
            while event < len(events) and events[event][0] <= at:
                _, who, slot, new = events[event]
                entities[who] = (*entities[who][:slot], new, *entities[who][slot + 1 :])
                event += 1
            if at >= end:
                sentence = bisect_right(self.sentences, at) - 1
                begin = self.sentences[sentence] if sentence >= 0 else 0
                end = self.sentences[sentence + 1] if sentence + 1 < len(self.sentences) else n
            who = code >> ENTITY
            mention = antecedent = 0
            if who:
                before = seen[who]
                mention = 1 if before < 0 else 2
                antecedent = 0 if before < 0 else 1 if before == sentence else 2 if before == sentence - 1 else 3
                seen[who] = sentence
            yield (
                *forms[(code & FORM_MASK) >> 2],
                *entities[who],
                *state,
                mention,
                antecedent,
                _where(sentence, last_sentence),
                _where(at - begin, end - begin - 1),
                min(len(lex.TEXTS[code & FORM_MASK].strip(" ")), 10),
            )


@no_type_check
def _where(at: int, last: int) -> int:
    if at < _SPANS[1]:
        return at + 1 if at >= 0 else 0
    return 6 if at >= last else 3 if at < _SPANS[2] else 4 if at * 3 < last * 2 else 5


_COLUMN = {name: i for i, name in enumerate(VARIABLES)}
assert list(VARIABLES)[-len(POSITION) :] == list(POSITION)

"""A small grammar: lines of text with slots, verbs, alternatives and clause marks, compiled to steps that write pieces.

========================  ==================================================================================================
``{a}`` ``{a:o}``         what the planner put in ``a``, in the case after the colon
``{*manner}``             one of a pool's entries; a pool's name may be in a slot: ``{*$x}``
``[go]`` ``[go@b]``       the verb in the clause's tense, agreeing with ``a`` (or ``b``); ``[not go]`` denies it
``[past:go]``             the verb in a tense of its own; also ``pres``, ``fut``; ``base``, ``ing`` and ``pp`` are plain forms
``[$v]``                  the verb whose lemma is in slot ``v``
``( one | two | )``       one of the alternatives, each as likely
``<rel`` … ``>``          a clause; also ``sub``, ``comp``; ``<q:a:b`` quotes a speaking to b, in the present tense
``<? <! <if <may <must``  a question, command, condition, possibility, necessity; ``<passive``, ``<past``, ``<pres``, ``<fut``
========================  ==================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, no_type_check

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld.conjugate import plain_form, verb_forms
from saebench.data.storyworld.variables import CODES, CTX

Codes = tuple[int, ...]
Step = Any
"""Either pieces to write or a function of the world that writes some."""

_TOKEN = re.compile(r"\{[^}]*\}|\[[^\]]*\]|<[a-z?!]+(?::[a-z0-9]+)*|>|[()|]|'s|[A-Za-z0-9~'_-]+|[.,;:!?]")
TENSES = ("past", "present", "future")
_MARKS: dict[str, tuple[tuple[str, str], ...]] = {
    "rel": (("clause", "relative"),),
    "sub": (("clause", "subordinate"),),
    "comp": (("clause", "complement"),),
    "if": (("clause", "subordinate"), ("mood", "conditional")),
    "?": (("question", "question"), ("mood", "interrogative")),
    "!": (("mood", "imperative"),),
    "may": (("certainty", "possible"),),
    "must": (("certainty", "necessary"),),
    "passive": (("voice", "passive"),),
    "past": (("tense", "past"),),
    "pres": (("tense", "present"),),
    "fut": (("tense", "future"),),
}
_TENSE_OF = {"past": "past", "pres": "present", "fut": "future"}
_SELF = {"i": False, "me": False, "my": False, "mine": False, "you": True, "your": True, "yours": True}
_NEGATED = CODES["negation"]["negated"]
_NEGATION, _TENSE = CTX["negation"], CTX["tense"]


@no_type_check
@dataclass
class Rule:
    """Alternatives for one kind of sentence."""

    name: str
    kind: str
    outlook: str
    lines: tuple[str, ...]
    _compiled: dict[str, tuple[tuple[Step, ...], ...]] = field(default_factory=dict)

    def steps(self, tense: str) -> tuple[tuple[Step, ...], ...]:
        """Return the steps of every alternative in a tense."""
        if tense not in self._compiled:
            self._compiled[tense] = tuple(tuple(_Parser(line, tense).parse()) for line in self.lines)
        return self._compiled[tense]


RULES: dict[str, Rule] = {}
PHRASES: list[Phrase] = []
POOLS: dict[str, tuple[Codes, ...]] = {}
"""Lists of fixed phrases that any rule may draw from."""


def add_rules(text: str) -> None:
    """Enter rules: a line ``# name kind outlook`` and, below it, one alternative a line."""
    for block in re.split(r"^# ", text, flags=re.MULTILINE)[1:]:
        head, *lines = (line.strip() for line in block.strip().split("\n"))
        name, kind, outlook = (*head.split(), "neutral")[:3]
        if name in RULES:
            raise KeyError(f"two rules are called {name}")
        RULES[name] = Rule(name, kind, outlook, tuple(line for line in lines if line))


def add_pool(name: str, phrases: str) -> None:
    """Enter a pool: phrases between bars."""
    POOLS[name] = tuple(lex.pieces(phrase) for phrase in phrases.split("|"))


@no_type_check
class _Parser:
    def __init__(self, line: str, tense: str):
        left = "".join(_TOKEN.sub("", line).split())
        if left:
            raise ValueError(f"cannot read {left!r} in {line!r}")
        self.tokens: list[str] = _TOKEN.findall(line)
        self.at = 0
        self.tense = tense
        self.cap = 0
        self.open: list[tuple[str, str]] = []

    def parse(self, nested: bool = False) -> list[Step]:
        steps: list[Step] = []
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            if nested and token in "|)":
                return steps
            self.at += 1
            new = self._group() if token == "(" else self._step(token)
            if self.cap and token[0] not in "<>":
                new = _capital(new, self.cap)
                self.cap = 0
            if token.startswith("<q"):
                self.cap = lex.CAPITAL | lex.BARE
            elif token in ".?!" and self._goes_on():
                self.cap = lex.CAPITAL
                new = (*new, _new_sentence)
            if isinstance(new, tuple) and new and new[-1] is _new_sentence:
                steps.extend((new[:-1], _new_sentence))
                continue
            if isinstance(new, tuple) and steps and isinstance(steps[-1], tuple):
                steps[-1] += new
            elif new != ():
                steps.append(new)
        if nested or self.open:
            raise ValueError(f"something is left open in {' '.join(self.tokens)}")
        return steps

    def _goes_on(self) -> bool:
        """Return whether a full stop is followed by another sentence, not by who said it."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at] == ">":
            at += 1
        shut = self.open[len(self.open) - (at - self.at) :]
        return at < len(self.tokens) and self.tokens[at] not in "|)" and all(name != "q" for name, _ in shut)

    def _group(self) -> Step:
        before, cap = self.tense, self.cap
        options: list[tuple[Step, ...]] = []
        self.cap = 0
        while True:
            options.append(tuple(self.parse(nested=True)))
            self.at += 1
            if self.tokens[self.at - 1] == ")":
                break
        if self.tense != before:
            raise ValueError("an alternative leaves a clause open")
        self.cap = cap
        if all(len(option) <= 1 and all(isinstance(s, tuple) for s in option) for option in options):
            return _pool(tuple(option[0] if option else () for option in options))
        return _alternatives(tuple(options))

    def _step(self, token: str) -> Step:
        if token[0] == "{":
            return _slot(token[1:-1])
        if token[0] == "[":
            return self._verb(token[1:-1])
        if token[0] == "<":
            return self._enter(token[1:])
        if token == ">":
            kind, self.tense = self.open.pop()
            return _leave_quote if kind == "q" else _leave
        if token.lower() in _SELF and token != "i":
            return _myself(lex.BY_TEXT["I" if token == "I" else token.lower()], token[0].isupper(), _SELF[token.lower()])
        if token in lex.BY_TEXT:
            return (lex.BY_TEXT[token],)
        small = token[0].lower() + token[1:]
        if small not in lex.BY_TEXT:
            raise KeyError(f"no such word: {token}")
        return (lex.BY_TEXT[small] | lex.CAPITAL,)

    def _enter(self, mark: str) -> Step:
        name, *who = mark.split(":")
        self.open.append((name, self.tense))
        if name == "q":
            self.tense = "present"
            return _quote(who[0], who[1] if len(who) > 1 else "")
        self.tense = _TENSE_OF.get(name, self.tense)
        return _enter(tuple((CTX[key], CODES[key][kind]) for key, kind in _MARKS[name]))

    def _verb(self, text: str) -> Step:
        denied = text.startswith("not ")
        text, _, who = text.removeprefix("not ").partition("@")
        shape, _, lemma = text.rpartition(":")
        if lemma.startswith("not "):
            denied, lemma = True, lemma.removeprefix("not ")
        tense = _TENSE_OF.get(shape, self.tense)
        if lemma.startswith("$"):
            return _open_verb(lemma[1:], tense, denied, who or "a", shape)
        if shape in ("base", "ing", "pp"):
            return plain_form(lemma, shape)
        forms = verb_forms(lemma, tense, denied)
        clause = CODES["tense"][tense] if tense != self.tense else 0
        if forms[0] == forms[1] == forms[2] and not denied and not clause:
            return forms[0]
        return _verb(forms, who or "a", denied, clause)


@no_type_check
def _new_sentence(w: Any) -> None:
    w.sentences.append(len(w.codes))
    w.mentioned = 0


@no_type_check
def _myself(piece: int, capital: bool, hearer: bool) -> Step:
    piece |= lex.CAPITAL if capital else 0

    def run(w: Any) -> None:
        who = w.hearer if hearer else w.speaker
        w.codes.append(piece if who is None else piece | who.index << lex.ENTITY)

    return run


@no_type_check
def _capital(step: Step, how: int) -> Step:
    if isinstance(step, tuple):
        return (step[0] | how, *step[1:])

    def run(w: Any) -> None:
        start = len(w.codes)
        step(w)
        w.codes[start] |= how

    return run


@no_type_check
class Phrase:
    """A filler that writes one of its lines in the tense of the clause it stands in."""

    __slots__ = ("rule",)

    def __init__(self, *lines: str):
        self.rule = Rule("phrase", "", "", lines)
        PHRASES.append(self)

    def np(self, w: Any, case: str) -> Codes:
        """Write the phrase; nothing is left to be written."""
        codes = w.codes
        for step in w.pick(self.rule.steps(TENSES[w.ctx[_TENSE] - 1])):
            if step.__class__ is tuple:
                codes += step
            else:
                step(w)
        return ()


@no_type_check
def _pool(options: tuple[Codes, ...]) -> Step:
    def run(w: Any) -> None:
        w.codes += w.pick(options)

    return run


@no_type_check
def _alternatives(options: tuple[tuple[Step, ...], ...]) -> Step:
    def run(w: Any) -> None:
        codes = w.codes
        for step in w.pick(options):
            if step.__class__ is tuple:
                codes += step
            else:
                step(w)

    return run


@no_type_check
def _slot(text: str) -> Step:
    key, _, case = text.partition(":")
    if key.startswith("*$"):
        hole = key[2:]

        def named(w: Any) -> None:
            w.codes += w.pick(POOLS[w.env[hole]])

        return named
    if key.startswith("*"):
        return _pool(POOLS[key[1:]])

    def run(w: Any) -> None:
        filler = w.env[key]
        if filler.__class__ is tuple:
            w.codes += filler
        else:
            w.codes += filler.np(w, case)

    return run


@no_type_check
def _verb(forms: tuple[Codes, Codes, Codes], who: str, denied: bool, tense: int) -> Step:
    if not denied and not tense:

        def plain(w: Any) -> None:
            w.codes += forms[w.agreement(who)]

        return plain

    def marked(w: Any) -> None:
        ctx = w.ctx
        if denied:
            ctx[_NEGATION] = _NEGATED
        if tense:
            ctx[_TENSE] = tense
        w.mark()
        w.codes += forms[w.agreement(who)]

    return marked


@no_type_check
def _open_verb(hole: str, tense: str, denied: bool, who: str, shape: str) -> Step:
    def run(w: Any) -> None:
        if shape in ("base", "ing", "pp"):
            w.codes += plain_form(w.env[hole], shape)
        else:
            if denied:
                w.ctx[_NEGATION] = _NEGATED
                w.mark()
            w.codes += verb_forms(w.env[hole], tense, denied)[w.agreement(who)]

    return run


@no_type_check
def _enter(changes: tuple[tuple[int, int], ...]) -> Callable[[Any], None]:
    def run(w: Any) -> None:
        ctx = w.ctx
        w.stack.append(ctx[:])
        for i, v in changes:
            ctx[i] = v
        w.mark()

    return run


@no_type_check
def _leave(w: Any) -> None:
    w.ctx[:] = w.stack.pop()
    w.mark()


_QUOTED, _SPEAKER, _ADDRESSEE = CTX["quoted"], CTX["speaker"], CTX["addressee"]
_IS_QUOTED, _PRESENT = CODES["quoted"]["quoted"], CODES["tense"]["present"]


@no_type_check
def _quote(speaker: str, addressee: str) -> Callable[[Any], None]:
    def run(w: Any) -> None:
        ctx = w.ctx
        w.stack.append(ctx[:])
        w.voices.append((w.speaker, w.hearer))
        w.speaker, w.hearer = w.env[speaker], w.env.get(addressee)
        ctx[_QUOTED], ctx[_TENSE] = _IS_QUOTED, _PRESENT
        ctx[_SPEAKER] = w.speaker.index
        ctx[_ADDRESSEE] = w.hearer.index if w.hearer is not None else 0
        w.mark()
        w.codes.append(lex.QUOTE)

    return run


@no_type_check
def _leave_quote(w: Any) -> None:
    w.codes.append(lex.UNQUOTE)
    w.ctx[:] = w.stack.pop()
    w.speaker, w.hearer = w.voices.pop()
    w.mark()

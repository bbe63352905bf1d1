"""Lines that look like code, whose results are true, and base64 noise."""

from __future__ import annotations

from saebench.data.storyworld import lexicon as lex
from saebench.data.storyworld import vocab_things as things
from saebench.data.storyworld import vocab_words as words
from saebench.data.storyworld.lexicon import BARE, BY_TEXT, NOUNS, form
from saebench.data.storyworld.variables import CODES, CTX
from saebench.data.storyworld.world import World, allowed

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _token(text: str, kind: str, glue: bool = False) -> int:
    return form(text, "code", glue=glue, default=False, code_kind=kind)


_KEYWORDS = {text: _token(text, "keyword") for text in ("let", "fn", "if", "else", "return", "for", "in", "show", "while", "end")}
_OPS = {text: _token(text, "operator") for text in ("=", "+", "-", "*", "<", ">", "==", "->", "+=", "-=")}
_BRACKETS = {text: _token(text, "bracket", True) for text in "()[]{}:,"}
_OPENING = _token("{", "bracket")
_HASH = _token("#", "comment")
_NUMBERS = tuple(_token(str(n), "literal") for n in range(2000))
_NAMES = {
    noun: _token(noun + "_count", "name") for noun in things.THINGS["food"].split() + things.THINGS["container"].split()
} | {noun: _token(noun, "name") for kind in ("tool", "toy", "jewel") for noun in things.THINGS[kind].split()}
_STRINGS = {noun: _token(f'"{noun}"', "string") for kind in things.THINGS.values() for noun in kind.split()}
_FUNCTIONS = {verb: _token(f"{verb}_all", "name") for verb in (words.VERBS["contact"] + " " + words.VERBS["change"]).split()}
_ARGUMENTS = tuple(_token(x, "name") for x in ("a", "b", "n", "x", "y", "item", "total"))
_INDENT = (form("  ", "code", glue=True, default=False, code_kind="operator"),)
_NOUNS, _VERBS = tuple(_NAMES), tuple(_FUNCTIONS)
_DEPTH, _LINE = CTX["depth"], CTX["line_kind"]
_IS_CODE = CODES["line_kind"]["code"]
_OPEN, _SHUT = frozenset((*(_BRACKETS[x] for x in "([{"), _OPENING)), frozenset(_BRACKETS[x] for x in ")]}")


class _Writer:
    def __init__(self, w: World):
        self.w = w
        self.first = True

    def line(self, *pieces: int, indent: int = 0) -> None:
        """Write one line, and how deep in brackets each piece is."""
        w = self.w
        if not self.first:
            w.newline()
        self.first = False
        w.ctx[_LINE] = _IS_CODE
        w.ctx[_DEPTH] = 0
        w.mark()
        w.sentences.append(len(w.codes))
        w.codes += _INDENT * indent
        begin = len(w.codes)
        glued = False
        for piece in pieces:
            if piece in _SHUT:
                w.ctx[_DEPTH] = max(w.ctx[_DEPTH] - 1, 0)
                w.codes.append(piece)
                w.mark()
                glued = False
                continue
            w.codes.append(piece | BARE if glued else piece)
            glued = piece in _OPEN
            if glued:
                w.ctx[_DEPTH] = min(w.ctx[_DEPTH] + 1, 3)
                w.mark()
        w.codes[begin] |= BARE
        w.bare = False

    def comment(self, *pieces: int) -> None:
        """Write a comment in English."""
        self.line(_HASH, *pieces)


def code(w: World) -> None:
    """Write a program that keeps stock; what it shows is worked out and true."""
    w.scene()
    w.set(language="code", sentence_kind="instruction")
    out = _Writer(w)
    first = w.pick(_NOUNS)
    names = [first, *w.rng.sample([n for n in allowed(w.part, first, "thing") if n in _NAMES], 3)]
    values: dict[str, int] = {}
    w.ctx[_LINE] = _IS_CODE
    out.comment(BY_TEXT["the"], BY_TEXT["number"], BY_TEXT["of"], NOUNS[first].many, BY_TEXT["in"], lex.NAMES[w.town])
    for name in names:
        values[name] = 1 + w.below(60)
        out.line(_KEYWORDS["let"], _NAMES[name], _OPS["="], _NUMBERS[values[name]])
    for _ in range(12 + w.below(20)):
        kind = w.below(8)
        name, other, *_ = w.rng.sample(names, 2)
        if kind == 0:
            _function(w, out)
        elif kind == 1:
            n = 1 + w.below(20)
            values[name] += n
            out.line(_NAMES[name], _OPS["+="], _NUMBERS[n])
        elif kind == 2 and values[name] > 1:
            n = 1 + w.below(values[name] - 1)
            values[name] -= n
            out.line(_NAMES[name], _OPS["-="], _NUMBERS[n])
        elif kind == 3 and values[name] + values[other] < 1000:
            values[name] += values[other]
            out.line(_NAMES[name], _OPS["="], _NAMES[name], _OPS["+"], _NAMES[other])
            out.comment(_VERB_BE, _NOW, _NUMBERS[values[name]])
        elif kind == 4:
            yes = values[name] < values[other]
            out.line(_KEYWORDS["if"], _NAMES[name], _OPS["<"], _NAMES[other], _BRACKETS[":"])
            values_now = values[name] + 1 if yes else values[name]
            out.line(_NAMES[name], _OPS["+="], _NUMBERS[1], indent=1)
            values[name] = values_now
        elif kind == 5:
            items = w.rng.sample(tuple(_STRINGS), 2 + w.below(3))
            row = [_STRINGS[items[0]]]
            for item in items[1:]:
                row += [_BRACKETS[","], _STRINGS[item]]
            out.line(_KEYWORDS["for"], _ARGUMENTS[5], _KEYWORDS["in"], _OPENING, *row, _BRACKETS["}"], _BRACKETS[":"])
            call = _FUNCTIONS[w.pick(_VERBS)]
            out.line(call, _BRACKETS["("], _ARGUMENTS[5], _BRACKETS[","], _NAMES[name], _BRACKETS[")"], indent=1)
        else:
            out.line(_KEYWORDS["show"], _BRACKETS["("], _NAMES[name], _BRACKETS[")"], _HASH, _NUMBERS[values[name]])
    w.ctx[_DEPTH] = 0


_VERB_BE, _NOW = lex.VERBS["be"].third, BY_TEXT["now"]


def _function(w: World, out: _Writer) -> None:
    a, b, *_ = w.rng.sample(_ARGUMENTS, 2)
    name = _FUNCTIONS[w.pick(_VERBS)]
    op = w.pick((_OPS["+"], _OPS["-"], _OPS["*"]))
    bracket = _BRACKETS
    out.line(_KEYWORDS["fn"], name, bracket["("], a, bracket[","], b, bracket[")"], bracket[":"])
    if w.chance(50):
        out.line(_KEYWORDS["if"], a, _OPS["<"], _NUMBERS[w.below(100)], bracket[":"], indent=1)
        out.line(_KEYWORDS["return"], b, indent=2)
    out.line(_KEYWORDS["return"], bracket["("], a, op, b, bracket[")"], op, _NUMBERS[1 + w.below(9)], indent=1)


_WIDTH = 38
_PAIRS = tuple(
    form(a + b, "noise", glue=True, default=False) for a in _ALPHABET for b in _ALPHABET
)  # two letters a piece; each is drawn evenly, so a pair costs ln 4096


def noise(w: World) -> None:
    """Write lines of base64 that nothing can foretell."""
    w.set(language="noise", line_kind="noise")
    for n in range(3 + w.below(12)):
        if n:
            w.newline()
        w.sentences.append(len(w.codes))
        w.codes += [w.pick(_PAIRS) for _ in range(_WIDTH)]
        w.bare = False

"""Tokens as people can see them: white space, control characters and single bytes become signs, and nothing becomes HTML.

A vocabulary holds whatever its text held: markup, quotes, marks that turn the direction of writing, halves of a UTF-8 character.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from markupsafe import Markup, escape

_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_CIRCLE = "\N{DOTTED CIRCLE}"


class TokenTexts:
    """What each token of a model stands for in running text, space in front included.

    Args:
        tokenizer: The model's. A token is decoded behind another one, as some tokenizers drop the space before the first.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        before = list(tokenizer.encode("a", add_special_tokens=False))[-1:]
        self._before: list[int] = before
        self._known: dict[int, str] = {}
        self._start = self._decode(before) if before else ""

    def of(self, token: int) -> str:
        """Return its text; where that is no whole character, its bytes in hex; its name where there is no text."""
        if token not in self._known:
            self._known[token] = self._text(token)
        return self._known[token]

    def _text(self, token: int) -> str:
        text = self._decode([*self._before, token])
        text = text[len(self._start) :] if text.startswith(self._start) else self._decode([token])
        if text and _UNKNOWN not in text:
            return text
        name = self._tokenizer.convert_ids_to_tokens(token)
        if not name:
            return f"<token {token}>"
        return _bytes_of(name) or name

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def plain(text: str) -> str:
    """Return ``text`` with signs for what cannot be seen, ``⏎``, ``⇥`` or its number in hex; spaces stay."""
    return "".join(char if char.isprintable() else sign(char) for char in text)


def sign(char: str) -> str:
    """Return what is shown for a character that cannot be printed."""
    return _SIGNS.get(char) or char.encode("unicode_escape", "surrogatepass").decode()


def visible(text: str) -> Markup:
    """Return ``text`` as HTML: signs and spaces in ``<i>``, everything else escaped.

    A mark that would sit on the character before it gets a circle of its own to sit on.
    """
    parts: list[Markup] = []
    if text and unicodedata.category(text[0]).startswith("M"):
        text = _CIRCLE + text
    for char in text:
        if char == " ":
            parts.append(Markup('<i class="s"> </i>'))
        elif char.isprintable():
            parts.append(escape(char))
        else:
            parts.append(Markup('<i class="c">{}</i>').format(sign(char)))
    return Markup("").join(parts)


def _bytes_of(name: str) -> str | None:
    """Return the bytes of a byte-level token in hex, or their text where they are one; ``None`` for another kind."""
    if any(char not in _BYTES for char in name):
        return None
    data = bytes(_BYTES[char] for char in name)
    return data.decode("utf-8", "backslashreplace")


def _byte_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for.

    Printable bytes stand for themselves, the others, in their order, are written as U+0100 and what follows. Source:
    ``bytes_to_unicode`` in encoder.py of openai/gpt-2.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_letters()

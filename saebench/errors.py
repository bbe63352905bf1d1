"""The errors that a user may see: one clear line each, and the exit code that goes with it.

Exit codes: 0 done; 1 a check failed; 2 usage or input; 3 incomplete, the rest is saved; 4 records invalid or not comparable.
Only the command line turns these into exits; the library raises them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 4000


class SaebenchError(Exception):
    """Base of every error raised on purpose. The message is one line that says what is wrong and what to do."""

    exit_code: int = 2

    def __str__(self) -> str:
        """Return the message; what names and values from files bring along cannot break the line or drive a terminal."""
        return one_line(super().__str__())


class InputError(SaebenchError):
    """A file, name, option or value from outside is wrong (exit code 2)."""

    exit_code = 2


class IncompleteError(SaebenchError):
    """Part of the work failed or was skipped; what finished is saved (exit code 3)."""

    exit_code = 3


class RecordError(SaebenchError):
    """A record is damaged, of another schema, or not comparable (exit code 4)."""

    exit_code = 4


def one_line(text: str) -> str:
    """Return ``text`` with characters that cannot be printed written as escapes, cut where it is absurdly long."""
    cut = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut)


def first_line(error: BaseException) -> str:
    """Return the first line of what ``error`` says, without a closing full stop; its type's name if it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)[:200]


def did_you_mean(name: str, choices: Iterable[str], *, limit: int = 3) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the choices nearest to ``name``, or the empty string.

    Args:
        name: What the user wrote.
        choices: The names that exist.
        limit: How many suggestions at most.
    """
    near = difflib.get_close_matches(name, list(choices), n=limit, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""

"""What we ask of a stream that text is written to."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class TextOut(Protocol):
    """Standard output, standard error, a ``StringIO``, or what a test puts in their place."""

    def write(self, text: str, /) -> int:
        """Write ``text``."""
        ...

    def flush(self) -> None:
        """Send on what was written."""
        ...

    def isatty(self) -> bool:
        """Return whether a person reads along."""
        ...

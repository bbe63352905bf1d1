"""How a run tells a person what it does: a bar with an ETA on a terminal, a line now and then elsewhere, or nothing.

Everything goes to standard error; standard output is for data.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, cast

from saebench.textio import TextOut

_SECONDS_BETWEEN_LINES = 10.0


class SilentProgress:
    """Says nothing; for use from Python."""

    def start(self, total: int, what: str, done: int = 0) -> None:
        """Begin a stretch of ``total`` steps, of which ``done`` are done; one still open ends."""

    def advance(self, n: int) -> None:
        """Count ``n`` more steps as done."""

    def status(self, text: str) -> None:
        """Show ``text`` beside the count, until the next one."""

    def note(self, line: str) -> None:
        """Say one thing the user should know."""

    def done(self) -> None:
        """End. May be called twice."""


class Progress(SilentProgress):
    """Progress on a stream: a bar on a terminal, else a line at the start, about every ten seconds, and at the end.

    Args:
        stream: Where to write; standard error if ``None``.
        seconds_between_lines: How often a plain line may come.
    """

    def __init__(self, stream: TextOut | None = None, *, seconds_between_lines: float = _SECONDS_BETWEEN_LINES) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every = seconds_between_lines
        self._bar: Any = None
        self._task: Any = None
        self._what = self._status = ""
        self._total = self._count = self._before = 0
        self._began = self._told = 0.0
        self._open = False

    def start(self, total: int, what: str, done: int = 0) -> None:
        """Begin a stretch of ``total`` steps called ``what``, of which ``done`` are done; one still open ends."""
        self.done()
        self._what, self._total, self._count, self._open = what, total, done, True
        self._before = done
        self._status = ""
        self._began = self._told = time.monotonic()
        if self._stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
            self._start_bar()
        else:
            self._line(f"{what}: {done}/{total}")

    def advance(self, n: int) -> None:
        """Count ``n`` more steps as done."""
        self._count += n
        if self._bar is not None:
            self._bar.update(self._task, advance=n)
            return
        now = time.monotonic()
        if self._open and self._count < self._total and now - self._told >= self._every:
            self._told = now
            left = (now - self._began) / max(self._count - self._before, 1) * (self._total - self._count)
            told = f"; {self._status}" if self._status else ""
            self._line(f"{self._what}: {self._count}/{self._total}, about {_duration(left)} left{told}")

    def status(self, text: str) -> None:
        """Show ``text`` on the bar, or at the end of the next line."""
        self._status = text
        if self._bar is not None:
            from rich.markup import escape

            self._bar.update(self._task, description=escape(f"{self._what} · {text}" if text else self._what))

    def note(self, line: str) -> None:
        """Print ``line`` above the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._line(line)

    def done(self) -> None:
        """End the stretch, if one is open."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        elif self._open:
            self._line(f"{self._what}: {self._count}/{self._total}, took {_duration(time.monotonic() - self._began)}")
        self._open = False

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=Console(file=cast(Any, self._stream)))
        self._task = self._bar.add_task(escape(self._what), total=self._total, completed=self._count)
        self._bar.start()

    def _line(self, text: str) -> None:
        self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

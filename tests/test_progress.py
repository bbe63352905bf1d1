from __future__ import annotations

import io

import pytest

from saebench.progress import Progress, SilentProgress


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def _drive(progress: SilentProgress) -> None:
    progress.start(4, "core [x]")
    progress.advance(2)
    progress.note("take [care]")
    progress.advance(2)
    progress.done()
    progress.done()


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    _drive(Progress(stream, seconds_between_lines=0.0))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "core [x]: 0/4"
    assert lines[1].startswith("core [x]: 2/4, about 0.0 s left")
    assert lines[2] == "take [care]"
    assert lines[3].startswith("core [x]: 4/4, took 0.0 s")
    assert len(lines) == 4


def test_lines_are_rare():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.start(1000, "w")
    for _ in range(1000):
        progress.advance(1)
    progress.done()
    assert len(stream.getvalue().splitlines()) == 2


def test_steps_done_before_do_not_shorten_what_is_left(monkeypatch: pytest.MonkeyPatch):
    stream, now = io.StringIO(), [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(stream)
    progress.start(100, "w", 80)
    now[0] = 10.0
    progress.advance(5)  # 5 in 10 s, 15 more to go
    assert stream.getvalue().splitlines() == ["w: 80/100", "w: 85/100, about 30 s left"]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Tty()
    _drive(Progress(stream))
    assert "take [care]" in stream.getvalue()
    assert "4/4" in stream.getvalue()
    assert "core [x]" in stream.getvalue()


def test_silent(capsys: pytest.CaptureFixture[str]):
    _drive(SilentProgress())
    assert capsys.readouterr() == ("", "")

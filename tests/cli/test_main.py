from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from saebench import __version__
from saebench import cli as command_line
from saebench.cli import cli, main
from saebench.errors import RecordError
from tests.cli.processor import processor_seconds
from tests.helpers import make_record, save


def test_help_names_every_command():
    text = CliRunner().invoke(cli, ["--help"]).output
    for name in ("run", "inspect", "list", "show", "report"):
        assert f"\n  {name} " in text


def test_every_flag_is_kebab_case_and_positive_and_explained():
    for name, command in cli.commands.items():
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help or option.name == "view", (name, option.name)
                for flag in [*option.opts, *option.secondary_opts]:
                    assert "_" not in flag
                    assert not flag.startswith(("--no-", "--skip-", "--disable-"))


def test_version(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"saebench {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reprt"], "report"),
        (["report", "--formt", "md"], "--format"),
        (["report", "--format", "xml"], "'xml'"),
        (["list"], "; see saebench list --help"),
        (["list", "everything"], "'formats'"),
        (["inspect"], "PATH"),
        (["show", "task", "cor"], "Did you mean 'core'?"),
        (["run", "--sae", "x", "--limit", "0"], "--limit: must be 1 or more"),
        (["run", "--sae", "x", "--seed", "1", "--seed", "1"], "--seeds: must be different"),
    ],
)
def test_usage_errors_exit_2_and_help(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("saebench: ") and err.count("\n") == 1
    assert said in err


def test_no_words_at_all_show_the_help(capsys: pytest.CaptureFixture[str]):
    assert main([]) in (0, 2)
    assert "Commands:" in "".join(capsys.readouterr())


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    @click.command()
    def boom() -> None:
        raise error

    monkeypatch.setitem(command_line.cli.commands, "boom", boom)
    return main(["boom"])


def test_our_errors_are_one_line_with_their_exit_code(monkeypatch, capsys):
    assert _raising(monkeypatch, RecordError("it is damaged")) == 4
    assert capsys.readouterr().err == "saebench: it is damaged\n"


def test_an_interrupt_is_one_line_and_130(monkeypatch, capsys):
    assert _raising(monkeypatch, KeyboardInterrupt()) == 130
    err = capsys.readouterr().err
    assert err == "saebench: interrupted; finished records are kept, run the same command again to go on\n"


def test_the_unexpected_is_one_line_and_3_and_shows_its_traceback_when_asked(monkeypatch, capsys):
    monkeypatch.delenv("SAEBENCH_DEBUG", raising=False)
    assert _raising(monkeypatch, ZeroDivisionError("by\nzero")) == 3
    err = capsys.readouterr().err
    assert err.startswith("saebench: ZeroDivisionError: by zero; please report this")
    assert err.count("\n") == 1
    monkeypatch.setenv("SAEBENCH_DEBUG", "1")
    assert _raising(monkeypatch, ZeroDivisionError("by zero")) == 3
    assert "Traceback" in capsys.readouterr().err


def test_help_starts_at_once():
    assert processor_seconds("-m", "saebench", "--help") < 0.5


def test_a_terminal_without_unicode_gets_escapes_not_an_error(tmp_path: Path):
    save(tmp_path, make_record())
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "saebench", "report", str(tmp_path)], capture_output=True, env=env)
    assert done.returncode == 0
    assert rb"0.750 \xb1 0.010" in done.stdout

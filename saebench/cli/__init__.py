"""The command ``saebench``: one file a command, which imports what it needs only when it runs."""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

import click

from saebench import __version__
from saebench.cli.check import check
from saebench.cli.dashboard import dashboard
from saebench.cli.fit_scaling import fit_scaling
from saebench.cli.inspect import inspect
from saebench.cli.listing import list_
from saebench.cli.report import report
from saebench.cli.run import run
from saebench.cli.show import show
from saebench.cli.train import train
from saebench.errors import IncompleteError, SaebenchError

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="saebench", message="%(prog)s %(version)s")
def cli() -> None:
    """How good is a sparse autoencoder (SAE), and where does it break?

    Data goes to standard output, progress and messages to standard error. Exit codes: 0 done, 1 a check failed, 2 usage or
    input error, 3 incomplete (the rest is saved), 4 records invalid or not comparable.
    """


for _command in (run, train, fit_scaling, inspect, check, list_, show, report, dashboard):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; every error becomes one line on standard error.

    Args:
        arguments: Words after ``saebench``; those of the process if ``None``.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # ± and ↑, or a folder's name that is no text, must not end a run
    try:
        code = _invoke(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except click.ClickException as error:
        _refuse(error)
        return error.exit_code
    except SaebenchError as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted; finished records are kept, run the same command again to go on")
        return _INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("SAEBENCH_DEBUG"):
            traceback.print_exc()
        said = " ".join(str(error).split()) or "no message"
        _say(f"{type(error).__name__}: {said}; please report this; SAEBENCH_DEBUG=1 shows the traceback")
        return IncompleteError.exit_code


def _invoke(arguments: list[str]) -> int:
    try:
        with cli.make_context("saebench", arguments) as context:
            code = cli.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    return code if isinstance(code, int) else 0


def _refuse(error: click.ClickException) -> None:
    """Say in one line what is wrong with the words, and where the help is; without any words, show that help."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if type(error).__name__ == "NoArgsIsHelpError":  # a name that click before 8.2 lacks: it shows the help by itself
        error.show()
    else:
        said = " ".join(error.format_message().split())
        _say(said if context is None else f"{said.rstrip('.')}; see {context.command_path} --help")


def _say(message: str) -> None:
    click.echo(f"saebench: {message}", err=True)

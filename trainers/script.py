"""Run a click command as ``python -m`` does: every error is one line on standard error and an exit code."""

from __future__ import annotations

import click

from saebench.errors import SaebenchError

_INTERRUPTED = 130


def exit_code(command: click.Command, *, interrupted: str) -> int:
    """Run ``command`` on ``sys.argv`` and return its exit code; after Ctrl-C say ``interrupted``."""
    try:
        command.main(standalone_mode=False)
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except SaebenchError as error:
        click.echo(f"saebench: {error}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"saebench: {interrupted}", err=True)
        return _INTERRUPTED

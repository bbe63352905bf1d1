"""Templates and expressions of task files: Jinja, sandboxed, so that a task file cannot reach Python. Imports no torch.

The sandbox keeps a file that somebody sent from running code; it does not bound the time or memory that a template takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from saebench.errors import InputError, first_line


@functools.cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def check_template(source: str) -> None:
    """Raise ``ValueError`` with the first line of what Jinja says if ``source`` is not a template."""
    _parse(source)


def check_expression(source: str) -> None:
    """Raise ``ValueError`` if ``source`` is not one Jinja expression."""
    if not source.strip():
        raise ValueError("an empty expression does not parse")
    if "}}" in source or "{%" in source or "{{" in source:
        raise ValueError(f"{source!r} is a template where an expression is wanted; leave out the braces")
    _parse("{{ (" + source + ") }}")


def _parse(source: str) -> None:
    from jinja2 import TemplateSyntaxError

    try:
        _environment().parse(source)
    except TemplateSyntaxError as error:
        raise ValueError(f"{source!r} does not parse: {first_line(error)}") from None


def template(source: str, where: str) -> Callable[[Mapping[str, Any]], str]:
    """Return what renders ``source`` for the columns of a row.

    Args:
        source: A template, as in lm-eval's ``doc_to_text``.
        where: What it is, for messages.

    Raises:
        InputError: (of what is returned) a column that the row lacks, anything unsafe, or an error in the template.
    """
    compiled = _environment().from_string(source)
    _plain_globals(compiled)
    return functools.partial(_guarded, lambda row: compiled.render(row), where, _refusals())


def expression(source: str, where: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what evaluates the Jinja expression ``source`` for the columns of a row; errors as for :func:`template`."""
    environment = _environment()
    compiled = environment.compile_expression(source, undefined_to_none=False)
    _plain_globals(compiled._template)

    def value(row: Mapping[str, Any]) -> Any:
        found = compiled(row)
        if isinstance(found, environment.undefined):
            str(found)  # raises, naming what is undefined
        return found

    return functools.partial(_guarded, value, where, _refusals())


def _plain_globals(compiled: Any) -> None:
    """Make the names that every template knows a plain dict: they are copied for each row, and a chain of dicts is slow at it."""
    compiled.globals = dict(compiled.globals)


def _refusals() -> tuple[type[Exception], type[Exception]]:
    from jinja2 import UndefinedError
    from jinja2.exceptions import SecurityError

    return SecurityError, UndefinedError


def _guarded(
    compute: Callable[[Mapping[str, Any]], Any],
    where: str,
    refusals: tuple[type[Exception], type[Exception]],
    row: Mapping[str, Any],
) -> Any:
    unsafe, undefined = refusals
    try:
        return compute(row)
    except unsafe as error:
        raise InputError(f"{where}: refused, a task file may not do this: {first_line(error)}") from None
    except undefined as error:
        raise InputError(f"{where}: {first_line(error)}; the row has {', '.join(map(str, row)) or 'no columns'}") from None
    except Exception as error:  # a template can raise anything that Python can
        raise InputError(f"{where}: {type(error).__name__}: {first_line(error)}") from None

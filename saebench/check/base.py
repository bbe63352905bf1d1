"""What a check is, what it finds, and what all of them say together. Imports neither torch nor transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from saebench.errors import first_line

if TYPE_CHECKING:
    from saebench.check.case import Case, Need

Status = Literal["pass", "warn", "fail", "skipped"]
STATUSES: tuple[Status, ...] = ("pass", "warn", "fail", "skipped")


class Outcome(NamedTuple):
    """What one check has found."""

    status: Status
    found: str
    """One line, with the figures."""


def passed(found: str) -> Outcome:
    """Return a pass."""
    return Outcome("pass", found)


def warned(found: str) -> Outcome:
    """Return a warning: it can be used, and somebody should look at it."""
    return Outcome("warn", found)


def failed(found: str) -> Outcome:
    """Return a failure: its scores would be wrong, or another machine would get others."""
    return Outcome("fail", found)


def skipped(found: str) -> Outcome:
    """Return that it could not be tried, and why."""
    return Outcome("skipped", found)


class Check(NamedTuple):
    """One check."""

    name: str
    means: str
    """The sentence that says what a pass means: the first line of the function's docstring."""
    needs: tuple[Need, ...]
    run: Callable[[Case], Outcome]


CHECKS: dict[str, Check] = {}
"""Every check, in the order of the report."""
_Run: TypeAlias = "Callable[[Case], Outcome]"


def check(name: str, *needs: Need) -> Callable[[_Run], _Run]:
    """Return a decorator that makes a function a check.

    Args:
        name: What it is called.
        needs: What must be there for it to be tried.
    """

    def bind(run: _Run) -> _Run:
        assert name not in CHECKS and run.__doc__, name
        CHECKS[name] = Check(name, run.__doc__.strip().splitlines()[0], needs, run)
        return run

    return bind


@dataclass(frozen=True, kw_only=True)
class Result:
    """A row of the report."""

    check: str
    status: Status
    found: str
    means: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Report:
    """What all checks say of one SAE."""

    path: str
    format: str
    sha256: str | None
    """Content hash; ``None`` where it does not load."""
    acts: str | None
    """Where the real acts come from; ``None`` where there were none."""
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether no check fails; warnings and what was skipped do not count."""
        return not self.of("fail")

    def of(self, *statuses: Status) -> list[Result]:
        """Return the rows with one of these statuses."""
        return [row for row in self.results if row.status in statuses]

    def __getitem__(self, name: str) -> Result:
        return next(row for row in self.results if row.check == name)

    def counts(self) -> dict[str, int]:
        """Return how many checks passed, warned, failed and were skipped."""
        return {status: len(self.of(status)) for status in STATUSES}

    def as_data(self) -> dict[str, Any]:
        """Return everything as plain data, as ``saebench check --json`` prints it."""
        rows = [{"check": r.check, "status": r.status, "found": r.found, "means": r.means} for r in self.results]
        about = {"path": self.path, "format": self.format, "sha256": self.sha256, "acts": self.acts}
        return {**about, "ok": self.ok, "counts": self.counts(), "checks": rows}

    def __repr__(self) -> str:
        """Return what a test that fails should show: the rows that did not pass."""
        counts = ", ".join(f"{n} {status}" for status, n in self.counts().items())
        rows = [f"\n  {r.status:<5} {r.check}: {r.found} ({r.means})" for r in self.of("fail", "warn")]
        return f"{self.path} ({self.format}): {counts}{''.join(rows)}"


def run_checks(case: Case, names: Iterable[str] | None = None) -> tuple[Result, ...]:
    """Return a row for each check; one that raises has failed.

    Args:
        case: What is checked.
        names: Which checks; all of those that can be given what they need if ``None``.
    """
    rows = []
    for name in CHECKS if names is None else names:
        one = CHECKS[name]
        missing: list[Need] = [need for need in one.needs if need in case.missing]
        if "oracle" in missing and names is None:
            continue
        try:
            outcome = skipped(case.missing[missing[0]]) if missing else one.run(case)
        except Exception as error:  # whatever a broken SAE or format raises is what was to be found out
            outcome = failed(f"{type(error).__name__}: {first_line(error)}")
        rows.append(Result(check=name, status=outcome.status, found=outcome.found, means=one.means))
    return tuple(rows)

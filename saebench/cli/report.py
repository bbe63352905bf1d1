"""``saebench report``: records to a table, Markdown, CSV or JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from saebench.cli.output import say
from saebench.errors import InputError, RecordError

if TYPE_CHECKING:
    from saebench.record import Record

_PATH = click.Path(path_type=Path)
_WHERE = "Only records whose sae, format, architecture, model, site, task or seed is VALUE (* and ? allowed)."


@click.command()
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=_PATH)
@click.option("--format", "view", type=click.Choice(["table", "md", "csv", "json"]), default="table", show_default=True)
@click.option("--json", "view", flag_value="json", help="Short for --format json.")
@click.option("--metric", "scores", multiple=True, metavar="NAME", help="Score to show, or `all`; may be repeated.")
@click.option("--where", "conditions", multiple=True, metavar="KEY=VALUE", help=_WHERE)
@click.option("--sort", metavar="METRIC", help="Order the rows by this score, best first.")
@click.option("--leaderboard", is_flag=True, help="Few columns, the rows of each model by delta_ce unless --sort says otherwise.")
@click.option("--against", metavar="NAME", help="Put published numbers beside: anders2024, bloom2024.")
@click.option("--paired", nargs=3, metavar="SCORE A B", help="Compare two SAEs on the same probe tasks, variables or examples.")
@click.option("--agreement", metavar="SCORE", help="How far other scores order the SAEs as SCORE does: rank correlation.")
@click.option(
    "--plots", type=_PATH, metavar="DIR", help="Draw what the studies cloze and propagation found: PNG, and beside it CSV."
)
@click.option("-o", "--output", type=_PATH, metavar="FILE", help="Write there instead of printing.")
def report(
    folders: tuple[Path, ...],
    view: str,
    scores: tuple[str, ...],
    conditions: tuple[str, ...],
    sort: str | None,
    leaderboard: bool,
    against: str | None,
    paired: tuple[str, str, str] | None,
    agreement: str | None,
    plots: Path | None,
    output: Path | None,
) -> int:
    """Show the records under DIR (default: results)."""
    from saebench.report.select import load_records, where

    asked = {"--against": against, "--paired": paired, "--agreement": agreement, "--plots": plots}
    if len(given := [flag for flag, value in asked.items() if value]) > 1:
        raise InputError(f"{' and '.join(given)} are different reports; ask for one")
    if plots is not None and output is not None:
        raise InputError("--plots writes pictures into its own folder; leave out --output")
    found = load_records(folders or (Path("results"),))
    for error in found.damaged:
        say(str(error))
    records = where(found.records, conditions)
    if against is not None:
        from saebench.report import against as beside

        _write(beside.render(beside.against(records, against), view), output)
    elif paired is not None:
        from saebench.report import paired as pairs

        score, a, b = paired
        _write(pairs.render(pairs.compare(found.files(records), score, a, b), a, b, view), output)
    elif agreement is not None:
        from saebench.report import agreement as ranking

        _write(ranking.render(ranking.agreement(found.files(records), agreement, scores), agreement, view), output)
    elif plots is not None:
        if records and _draw(found.files(records), plots):
            return RecordError.exit_code
    elif records or view == "json":
        _put(view, records, scores, sort, leaderboard, output)
    return RecordError.exit_code if found.damaged else 0


def _draw(files: dict[Path, Record], folder: Path) -> bool:
    """Draw all there is, say what is not, and return whether a table was damaged."""
    from saebench.report.figures.draw import draw_all

    drawn = draw_all(files, folder)
    for error in drawn.damaged:
        say(str(error))
    for line in drawn.missing:
        say(f"not drawn: {line}")
    for file in drawn.files:
        say(f"wrote {file}")
    return bool(drawn.damaged)


def _put(
    view: str, records: list[Record], scores: tuple[str, ...], sort: str | None, leaderboard: bool, output: Path | None
) -> None:
    from saebench.report.leaderboard import make_leaderboard
    from saebench.report.table import make_table

    if view in ("csv", "json"):
        from saebench.report import flat, nested

        if sort or leaderboard:
            make = make_leaderboard if leaderboard else make_table
            records = [r for row in make(records, scores=["all"], sort=sort).rows for r in row.records]
        text = (flat if view == "csv" else nested).render(records, scores=scores)
    else:
        from saebench.report import markdown, terminal

        table = (make_leaderboard if leaderboard else make_table)(records, scores=scores, sort=sort)
        if view == "table" and output is None:
            terminal.show(table, sys.stdout)
            return
        text = markdown.render(table) if view == "md" else terminal.render(table)
    _write(text, output)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    from saebench.store import write_atomic

    write_atomic(output, text.encode())
    say(f"wrote {output}")

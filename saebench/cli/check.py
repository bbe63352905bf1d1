"""``saebench check``: is an SAE whole and sane, and does its format behave?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saebench.cli.output import json_option, put_json, put_rows, put_text, say
from saebench.cli.sae_options import pairs, set_option

if TYPE_CHECKING:
    from saebench.check import Report

_PATH = click.Path(path_type=Path)
_FAILED = 1


@click.command()
@click.argument("path")
@click.option("--format", metavar="FORMAT", help="File format, if it is not recognised.")
@click.option("--select", metavar="GLOB", help="Check these SAEs of a folder of many, e.g. 'layer_*'; '*' is all.")
@set_option
@click.option("--acts", type=_PATH, metavar="FILE", help="Real acts: .npy, or .safetensors with `acts` (and `target`).")
@click.option("--model", metavar="ID|DIR", help="Language model that makes real acts; `reference` is the bundled one.")
@click.option("--corpus", metavar="NAME|PATH", help="Text for the model.")
@click.option("--limit", type=click.IntRange(min=1), default=8, show_default=True, metavar="N", help="Contexts of that text.")
@click.option("--data-dir", type=_PATH, envvar="SAEBENCH_DATA", help="Local mirror of hub data sets.")
@click.option("--device", default="auto", show_default=True, help="Where the model runs.")
@click.option("--site", metavar="HOOK", help="Where the SAE reads, if its files do not say.")
@click.option("--residual", type=click.Choice(["raw", "centred"]), help="Residual stream that the SAE expects.")
@json_option
def check(path: str, as_json: bool, given: tuple[str, ...], select: str | None, limit: int, **options: Any) -> int:
    """Check the SAE at PATH: its files, its weights, its arithmetic and, on real acts, its sparsity and scale.

    PATH is a folder, a file, FILE#PART, `reference:NAME`, `hub:REPO[:FOLDER]` or `saelens:RELEASE/ID`.

    Real acts come from --acts or from --model; without either, the checks that need them are skipped. Exit code 0: none
    failed, 1: one failed, 2: there is no SAE.
    """
    from saebench.check import check_sae
    from saebench.sae.find import find_names
    from saebench.sae.source import Given

    told = pairs(given)
    names = [path] if select is None else find_names(path, select, options["format"], Given(told))
    if len(names) > 1 and options["model"] is not None:
        from saebench.lm.model import load_model

        options["model"] = load_model(options["model"], device=options["device"])  # once for all of them
    reports = []
    for name in names:
        report = check_sae(name, given=told, contexts=limit, **options)
        reports.append(report)
        if not as_json:
            _show(report, several=select is not None)
        counts = ", ".join(f"{n} {status}" for status, n in report.counts().items())
        say(f"{report.path} ({report.format}): {counts}")
    if as_json:
        data = [report.as_data() for report in reports]
        put_json(data[0] if select is None else data)
    return 0 if all(report.ok for report in reports) else _FAILED


def _show(report: Report, several: bool) -> None:
    from saebench.report.terminal import clean

    if several:
        put_text(f"{clean(report.path)}\n\n")
    put_rows([{"check": row.check, "result": row.status, "found": row.found} for row in report.results])
    rows = report.of("warn", "fail")
    if rows:
        put_text("\n" + "".join(f"{row.check}: {clean(row.means)}\n" for row in rows))
    if several:
        put_text("\n")

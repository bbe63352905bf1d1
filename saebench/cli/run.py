"""``saebench run``: score SAEs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saebench.cli.output import json_option, put_json, put_rows, put_text, say
from saebench.cli.sae_options import pairs, set_option

if TYPE_CHECKING:
    from saebench.run import RunReport

_PATH = click.Path(path_type=Path)
_SAE = (
    "Folder or file of an SAE; may be repeated. `reference:NAME` is a bundled one, `hub:REPO[:FOLDER]` and `saelens:RELEASE/ID` "
    "are fetched; if left out, all bundled ones are scored."
)
_MODEL = "Language model, `reference` for the bundled one; the one that the SAE's own files name if left out."


@click.command()
@click.option("--sae", "saes", multiple=True, metavar="PATH", help=_SAE)
@click.option("--model", metavar="ID|DIR", help=_MODEL)
@click.option("--site", metavar="HOOK", help="Where the SAE reads, e.g. blocks.8.hook_resid_pre; likewise.")
@click.option(
    "--suite", metavar="NAME", help="Named set of tasks, see `saebench list suites`  [default: full; of bundled SAEs storyworld]"
)
@click.option("--task", "tasks", multiple=True, metavar="NAME|YAML", help="A task, or a file that defines one; may be repeated.")
@click.option("--seed", "seeds", multiple=True, type=int, help="Chooses the tokens; may be repeated  [default: 0]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Where records go.")
@click.option("--corpus", metavar="NAME|PATH", help="Text in place of the task's own.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--dtype", metavar="T", help="Of the language model  [default: float32]")
@click.option("--data-dir", type=click.Path(path_type=Path), envvar="SAEBENCH_DATA", help="Local mirror of hub data sets.")
@click.option("--limit", type=int, metavar="N", help="Number of contexts, in place of the task's own.")
@click.option("--context-length", type=int, metavar="N", help="Tokens per context, BOS included.")
@click.option("--batch-size", type=int, metavar="N", help="Contexts at a time; moves no score.")
@click.option("--trained-context", type=int, metavar="N", help="Context length the SAE was trained at, if its files are silent.")
@click.option("--splice-bos", is_flag=True, help="Replace the BOS position too.")
@click.option("--all", "all_latents", is_flag=True, help="Every latent where n2g and explanation would take a sample.")
@click.option("--residual", type=click.Choice(["raw", "centred"]), help="Residual stream that the SAE expects.")
@click.option("--format", metavar="FORMAT", help="File format of the SAE, if it is not recognised.")
@click.option("--select", metavar="GLOB", help="Which SAEs of a folder of many, e.g. 'layer_*/width_16k/*'.")
@set_option
@click.option("--force", is_flag=True, help="Run again what is finished already; without it a run resumes.")
@click.option("--dry-run", is_flag=True, help="Print what would be done.")
@json_option
def run(as_json: bool, seeds: tuple[int, ...], given: tuple[str, ...], **options: Any) -> int:
    """Score SAEs and write one record per SAE, task and seed.

    Without --sae the SAEs that ship with saebench are scored on the model that ships with it, by the suite `storyworld`.
    Finished records are kept: the same command again goes on where it stopped.
    """
    from saebench.config import make_config
    from saebench.progress import Progress
    from saebench.reference import with_defaults

    options["given"] = pairs(given)
    config = make_config(**with_defaults(options), **({"seeds": seeds} if seeds else {}))
    from saebench.run import run as run_plan  # after the options are known to be good: this one is slow to import

    progress = Progress()
    try:
        done = run_plan(config, progress=progress)
    finally:
        progress.done()
    if config.dry_run:
        put_json(done.plan) if as_json else put_rows(done.plan)
        return 0
    return _show(done, config.out, as_json, bundled=not options["saes"])


def _show(done: RunReport, out: Path, as_json: bool, bundled: bool) -> int:
    from saebench.report import nested, terminal
    from saebench.report.leaderboard import make_leaderboard
    from saebench.report.select import order
    from saebench.report.table import make_table
    from saebench.store import read_record

    records = sorted((read_record(path) for path in done.records), key=order)
    if as_json:
        put_text(nested.render(records))
    elif records:
        terminal.show(make_leaderboard(records) if bundled else make_table(records), sys.stdout)
    for failure in done.failures:
        say(f"failed: {failure}")
    found = f", {len(done.skipped)} of them finished before" if done.skipped else ""
    lost = f"; {len(done.failures)} missing, run the same command again to try them again" if done.failures else ""
    say(f"{len(done.records)} record{'' if len(done.records) == 1 else 's'} in {out}{found}{lost}")
    say(f"render them with: saebench report {out}{' --leaderboard' if bundled else ''}")
    return done.exit_code

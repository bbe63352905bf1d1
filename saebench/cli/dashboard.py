"""``saebench dashboard``: pages for looking at single latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saebench.cli.output import say
from saebench.cli.sae_options import pairs, set_option

_PATH = click.Path(path_type=Path)
_CHOOSE = "most_helpful, most_harmful (by --records), densest, rarest or random; N is 10 if left out; may be repeated."
_TASK = "Task whose text is read  [default: n2g; of the bundled model storyworld_n2g]"
_RECORDS = "Folder that `saebench run --out` wrote to; may be repeated."


@click.command()
@click.option("--sae", required=True, metavar="PATH", help="The SAE, as `saebench run` takes it.")
@click.option("--latents", metavar="I,J,…", help="Indices of latents to show.")
@click.option("--choose", "choices", multiple=True, metavar="HOW[:N]", help=_CHOOSE)
@click.option("--records", multiple=True, type=_PATH, metavar="DIR", help=_RECORDS)
@click.option(
    "--examples", type=click.IntRange(1, 1000), default=8, show_default=True, help="Contexts of each kind, for each latent."
)
@click.option("--out", type=_PATH, default=Path("dashboards"), show_default=True, help="Folder that the page goes to.")
@click.option("--model", metavar="ID|DIR", help="Language model; the one that the SAE's own files name if left out.")
@click.option("--site", metavar="HOOK", help="Where the SAE reads; likewise.")
@click.option("--task", metavar="NAME|YAML", help=_TASK)
@click.option("--corpus", metavar="NAME|PATH", help="Text in place of the task's own.")
@click.option("--limit", type=int, metavar="N", help="Number of contexts, in place of the task's own.")
@click.option("--context-length", type=int, metavar="N", help="Tokens per context, BOS included.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses text, random latents and random activations.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--dtype", metavar="T", help="Of the language model  [default: float32]")
@click.option("--data-dir", type=_PATH, envvar="SAEBENCH_DATA", help="Local mirror of hub data sets.")
@click.option("--batch-size", type=int, metavar="N", help="Contexts at a time.")
@click.option("--trained-context", type=int, metavar="N", help="Context length the SAE was trained at, if its files are silent.")
@click.option("--residual", type=click.Choice(["raw", "centred"]), help="Residual stream that the SAE expects.")
@click.option("--format", metavar="FORMAT", help="File format of the SAE, if it is not recognised.")
@set_option
def dashboard(
    sae: str,
    latents: str | None,
    choices: tuple[str, ...],
    records: tuple[Path, ...],
    examples: int,
    task: str | None,
    seed: int,
    given: tuple[str, ...],
    **options: Any,
) -> int:
    """Write an HTML page about single latents of an SAE: contexts, histogram, tokens, patterns, what records say.

    It is one file that opens without network or scripts. Without --latents and --choose it shows ten random latents that fire.
    """
    from saebench.config import make_config
    from saebench.dashboard.choose import parse_choice, parse_latents
    from saebench.errors import RecordError
    from saebench.progress import Progress

    wanted = () if latents is None else parse_latents(latents)
    ways = [parse_choice(text) for text in choices]
    tasks = () if task is None else (task,)
    config = make_config(saes=(sae,), tasks=tasks, seeds=(seed,), given=pairs(given), **options)
    from saebench.dashboard.make import make_dashboard  # after the options are known to be good: this one is slow to import

    progress = Progress()
    try:
        made = make_dashboard(config, latents=wanted, choices=ways, records=records, examples=examples, progress=progress)
    finally:
        progress.done()
    for line in (*made.notes, *map(str, made.damaged)):
        say(line)
    say(f"wrote {made.file}")
    return RecordError.exit_code if made.damaged else 0

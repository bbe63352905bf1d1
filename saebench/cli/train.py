"""``saebench train``: make an SAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from saebench.cli.output import say

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe")
@click.option("--model", metavar="ID|DIR", help="Language model.")
@click.option("--site", metavar="HOOK", help="Where the SAE reads, e.g. blocks.8.hook_resid_pre.")
@click.option("--corpus", metavar="NAME|PATH", help="Text to train on.")
@click.option("--out", type=_PATH, help="Folder of the run; a run that was stopped goes on from there.")
@click.option("--data-dir", type=_PATH, envvar="SAEBENCH_DATA", help="Local mirror of hub data sets.")
@click.option("--device", help="auto, cpu, cuda, …  [default: auto]")
@click.option("--dtype", metavar="T", help="Of the language model  [default: float32]")
@click.option("--config", "file", type=_PATH, help="YAML file with settings.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting; may be repeated.")
def train(recipe: str, file: Path | None, assignments: tuple[str, ...], **options: Any) -> int:
    """Train an SAE by RECIPE (see `saebench list recipes`) and write a folder that `saebench run --sae` takes."""
    from saebench.errors import InputError
    from saebench.progress import Progress
    from saebench.trainers.run import as_values  # pyright: ignore[reportMissingImports]
    from saebench.trainers.run import train as run_training  # pyright: ignore[reportMissingImports]

    values = as_values(assignments, file) | {key: value for key, value in options.items() if value is not None}
    for key in ("model", "site", "corpus", "out"):
        if key not in values:
            raise InputError(f"no {key} given; use --{key}")
    progress = Progress()
    try:
        run_training(recipe, values, progress)
    finally:
        progress.done()
    say(f"written to {values['out']}; score it with: saebench run --sae {values['out']}")
    return 0

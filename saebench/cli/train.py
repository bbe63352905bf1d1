"""``saebench train``: make an SAE, or a sweep of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from saebench.cli.output import say

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("recipe", required=False)
@click.option("--model", metavar="ID|DIR", help="Language model.")
@click.option("--site", metavar="HOOK", help="Where the SAE reads, e.g. blocks.8.hook_resid_pre.")
@click.option("--corpus", metavar="NAME|PATH", help="Text to train on.")
@click.option("--out", type=_PATH, help="Folder of the run; a run that was stopped goes on from there.")
@click.option("--data-dir", type=_PATH, envvar="SAEBENCH_DATA", help="Local mirror of hub data sets.")
@click.option("--device", help="auto, cpu, cuda, …  [default: auto]")
@click.option("--dtype", metavar="T", help="Of the language model  [default: float32]")
@click.option("--cache", type=_PATH, metavar="DIR", help="Keep acts on disk in DIR, made once.")
@click.option("--export", multiple=True, metavar="LIBRARY", help="Write saelens, dictionary_learning or sparsify as well.")
@click.option("--config", "file", type=_PATH, help="YAML file with settings, or with a sweep: a list under `recipes`.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting; may be repeated.")
def train(recipe: str | None, file: Path | None, assignments: tuple[str, ...], **options: Any) -> int:
    """Train an SAE by RECIPE (see `saebench list recipes`) and write a folder that `saebench run --sae` takes.

    Under torchrun (`torchrun --nproc-per-node N -m saebench train …`) the processes share the work.
    """
    from saebench.errors import InputError
    from saebench.progress import Progress
    from saebench.trainers.run import train as run_training  # pyright: ignore[reportMissingImports]
    from saebench.trainers.settings import as_values  # pyright: ignore[reportMissingImports]

    values = as_values(assignments, file) | {key: value for key, value in options.items() if value not in (None, ())}
    for key in ("model", "corpus", "out", "site"):
        if key not in values and not (key == "site" and any("site" in e for e in _entries(values))):
            raise InputError(f"no {key} given; use --{key}")
    progress = Progress()
    try:
        saes = run_training(recipe, values, progress)
    finally:
        progress.done()
    if os.environ.get("RANK", "0") != "0":
        return 0  # under torchrun one process speaks
    folders = [f"{values['out']}/{sae.config.name}" for sae in saes] if "recipes" in values else [values["out"]]
    several = f"{len(saes)} SAEs " if len(saes) > 1 else ""
    say(f"{several}written to {values['out']}; score with: saebench run {' '.join(f'--sae {folder}' for folder in folders)}")
    return 0


def _entries(values: dict[str, Any]) -> list[dict[str, Any]]:
    found = values.get("recipes")
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

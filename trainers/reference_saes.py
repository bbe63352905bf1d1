"""``python -m saebench.trainers.reference_saes``: train the SAEs that ship, in float16, and list every file in the manifest.

A configuration ``configs/saes.yaml`` gives ``<recipe>-layer<L>``, and so does ``configs/saes-<recipe>.yaml``; another,
``configs/saes-<what>.yaml``, gives ``<recipe>-layer<L>-<what>``. Each is also a plain ``saebench train --config FILE``. The model
must lie in ``model/`` already.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click
import torch

from saebench import reference
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import hash_folder
from saebench.progress import Progress, SilentProgress
from saebench.sae import SAE, Site, load_sae, save_native
from saebench.sae.reading.files import read_json
from saebench.store import sha256_file, write_atomic

from .checkpoint import checkpoint_file
from .ranks import Ranks
from .run import train
from .script import exit_code
from .settings import Run, as_values, runs_of

_MODEL_COMMAND = "python -m saebench.trainers.reference_lm --out saebench/reference/model (model/README.md has its settings)"
_SAE_FILES = ("config.json", "sae.safetensors")
_NO_MATTER = {
    "out", "cache", "data_dir", "device", "prefetch", "log_every", "checkpoint_every", "tensorboard", "wandb", "export",
}  # fmt: skip
"""Settings of a run that change nothing in what the SAE becomes but, at most, its rounding."""


def make(values: dict[str, Any], *, progress: Progress | SilentProgress | None = None) -> list[str]:
    """Train what is not trained yet, put all of it into ``saes/``, write the manifest, and return the names.

    Args:
        values: Settings that take the place of those in the configurations, for all of them.
        progress: Told what happens; silent if ``None``.

    Raises:
        InputError: There is no model, no configuration, a bad one, or a run that belongs to another model.
        IncompleteError: Training failed, or the files are too large together.
    """
    progress = progress or SilentProgress()
    write_manifest()
    files = sorted((reference.ROOT / "configs").glob("saes*.yaml"))
    if not files:
        raise InputError(f"no configuration in {reference.ROOT / 'configs'}; it should hold saes.yaml")
    made: dict[str, tuple[SAE, dict[str, Any]]] = {}
    for file in files:
        for folder in _trained(file, values, progress):
            sae = load_sae(folder)
            name = bundled_name(sae, file)
            if name in made:
                raise InputError(f"{file}: two SAEs would be called {name}; put one of them into a file of its own")
            made[name] = sae, _told(read_json(folder / "config.json"), file, values)
    out = reference.ROOT / "saes"
    shutil.rmtree(out, ignore_errors=True)
    for name in sorted(made):
        sae, training = made[name]
        save_native(sae.with_config(model_id=reference.MODEL), out / name, training=training, dtype=torch.float16)
    write_manifest()
    total = sum(entry.bytes for entry in reference.manifest())
    progress.note(f"{len(made)} SAEs, {total / 1e6:.1f} MB with the model, in {reference.ROOT}")
    if total > reference.MAX_BYTES:
        raise IncompleteError(f"the files weigh {total} bytes, more than {reference.MAX_BYTES}; use fewer or narrower SAEs")
    return sorted(made)


def bundled_name(sae: SAE, file: Path) -> str:
    """Return ``<recipe>-layer<L>``, and at its end what follows ``saes`` in the configuration's name, but for the recipe."""
    run = read_json(Path(sae.config.path) / "config.json")["training"]["run"]
    assert sae.config.site is not None
    return name_of(run["recipe"], sae.config.site, file)


def name_of(recipe: str, site: str, file: Path) -> str:
    """Return the name of the SAE that a recipe of the configuration ``file`` makes at a site."""
    what = file.stem.removeprefix("saes")
    return f"{recipe}-layer{Site.parse(site).layer}{'' if what == f'-{recipe}' else what}"


def write_manifest() -> None:
    """List every file of the model and of the SAEs in ``manifest.json``.

    Raises:
        InputError: There is no model.
    """
    root = reference.ROOT
    if not (root / "model/model.safetensors").is_file():
        raise InputError(f"no model in {root / 'model'}; make it with: {_MODEL_COMMAND.split(' (')[0]}")
    files = [(f, _MODEL_COMMAND) for f in sorted((root / "model").iterdir()) if f.is_file() and not f.name.startswith(".")]
    for folder in sorted(p for p in (root / "saes").glob("*/") if all((p / name).is_file() for name in _SAE_FILES)):
        files += [(folder / name, read_json(folder / "config.json")["training"]["made_by"]) for name in _SAE_FILES]
    entries = [
        {"file": f.relative_to(root).as_posix(), "bytes": f.stat().st_size, "sha256": sha256_file(f), "made_by": made_by}
        for f, made_by in files
    ]
    text = json.dumps({"files": entries}, indent=1, ensure_ascii=False) + "\n"
    write_atomic(root / reference.MANIFEST, text.encode())


def _trained(file: Path, values: dict[str, Any], progress: Progress | SilentProgress) -> list[Path]:
    """Return the folders of the runs of one configuration, after training those that are not finished."""
    settings = as_values((), file) | {key: value for key, value in values.items() if key != "work"}
    if "work" in values:
        settings["out"] = str(Path(values["work"]) / file.stem)
    runs = runs_of(None, settings)
    folders: list[Path] = [run.config.out for run in runs]
    finished = [(folder / _SAE_FILES[1]).is_file() for folder in folders]
    if not all(finished):
        if any(finished) and not checkpoint_file(Path(settings["out"]), Ranks()).exists():
            why = f"{file} was changed since, or a run failed"
            raise InputError(f"{settings['out']} holds some of its SAEs and no checkpoint: {why}; remove it and run again")
        progress.note(f"{file.name}: {len(folders)} SAEs")
        train(None, settings, progress)
    now = hash_folder(reference.ROOT / "model")
    for run, folder in zip(runs, folders, strict=True):
        training = read_json(folder / "config.json")["training"]
        if training["model_sha256"] != now:
            raise InputError(f"{folder} was trained on another model than {reference.ROOT / 'model'}; remove it and run again")
        if other := differing(run, training):
            raise InputError(f"{folder} was trained with other settings than {file} has now: {other}; remove it and run again")
    return folders


def differing(run: Run, training: dict[str, Any]) -> str:
    """Return how the settings that an SAE was trained with differ from those of ``run``; empty if they do not.

    Args:
        run: What would be trained now.
        training: What the SAE's ``config.json`` says under ``training``.
    """
    pairs = ((training["run"], run.config), (training["settings"], run.settings))
    return ", ".join(
        f"{key} {was[key]}, not {value}"
        for was, now in pairs
        for key, value in json.loads(now.model_dump_json(exclude=_NO_MATTER)).items()
        if key in was and was[key] != value
    )


def _told(config: dict[str, Any], file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return what a shipped SAE says of its training: no folders of the machine that trained it."""
    training = dict(config["training"])
    training["run"] = {k: v for k, v in training["run"].items() if k not in ("cache", "data_dir")}
    given = (f" --set {shlex.quote(f'{k}={v}')}" for k, v in values.items() if k != "work" and k not in _NO_MATTER)
    command = f"saebench train --config saebench/reference/configs/{file.name}{''.join(given)}"
    return {"made_by": f"{command}; stored in float16 by python -m saebench.trainers.reference_saes"} | training


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--work", type=click.Path(path_type=Path), help="Folder of the runs, in place of the configurations' `out`.")
@click.option("--device", help="auto, cpu, cuda, …  [default: auto]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting for all runs; may be repeated.")
@click.option("--manifest-only", is_flag=True, help="Train nothing; list what lies in model/ and saes/.")
def _main(work: Path | None, device: str | None, assignments: tuple[str, ...], manifest_only: bool) -> None:
    """Train the SAEs of saebench/reference/configs into saebench/reference/saes and write the manifest.

    A run that was stopped goes on when the command is given again; what is trained already is not trained again.
    """
    if manifest_only:
        write_manifest()
        return
    given = {key: value for key, value in {"work": work, "device": device}.items() if value is not None}
    progress = Progress()
    try:
        make(as_values(assignments, None) | given, progress=progress)
    finally:
        progress.done()


def main() -> int:
    """Run the command and return its exit code; every error becomes one line on standard error."""
    return exit_code(_main, interrupted="interrupted; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())

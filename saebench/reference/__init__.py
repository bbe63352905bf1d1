"""What ships with saebench: a small language model of storyworld and SAEs of it. Imports neither torch nor transformers.

``reference`` names the model wherever a model is named, ``reference:NAME`` one of the SAEs wherever a path is given. The names
alone always mean what ships; a folder called ``reference`` is ``./reference``. Every file is compared with ``manifest.json``
before it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from saebench.errors import InputError, did_you_mean

MODEL = "reference"
"""The model's name, as ``--model`` takes it."""
SUITE = "storyworld"
"""The suite that fits the model: the one ``saebench run`` takes for bundled SAEs where no suite or task is given."""
MAX_BYTES = 40_000_000
"""What the files may weigh together."""
ROOT = Path(__file__).resolve().parent
"""Where ``model/``, ``saes/<name>/``, ``configs/`` and ``manifest.json`` lie."""
MANIFEST = "manifest.json"

_PREFIX = f"{MODEL}:"
_AGAIN = "install saebench again, or in a checkout make it with `make reference-saes` (docs/reference.md)"


class Entry(NamedTuple):
    """One file of the manifest."""

    file: str
    """Its path below :data:`ROOT`, with slashes."""
    bytes: int
    sha256: str
    made_by: str
    """The command that made it."""


def manifest() -> list[Entry]:
    """Return what the manifest lists, in its order.

    Raises:
        InputError: It is missing or damaged.
    """
    path = ROOT / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return [Entry(str(e["file"]), int(e["bytes"]), str(e["sha256"]), str(e["made_by"])) for e in data["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged ({type(error).__name__}); {_AGAIN}") from None


def sae_names() -> list[str]:
    """Return the names of the SAEs that ship, in the manifest's order."""
    parts = (PurePosixPath(entry.file).parts for entry in manifest())
    return list(dict.fromkeys(p[1] for p in parts if p[0] == "saes" and len(p) > 2))


def has_model() -> bool:
    """Return whether the manifest lists a model."""
    return any(entry.file.startswith("model/") for entry in manifest())


def describe() -> list[dict[str, object]]:
    """Return one row for each SAE that ships: what ``--sae`` takes, architecture, site, widths, training context, bytes.

    Raises:
        InputError: A configuration is missing or damaged.
    """
    rows: list[dict[str, object]] = []
    for name in sae_names():
        path = ROOT / "saes" / name / "config.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            facts = {key: about[key] for key in ("architecture", "site", "d_sae", "k", "context_length")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is missing or damaged ({type(error).__name__}); {_AGAIN}") from None
        size = sum(entry.bytes for entry in manifest() if entry.file.startswith(f"saes/{name}/"))
        rows.append({"sae": _PREFIX + name, **facts, "bytes": size})
    return rows


def saes() -> list[str]:
    """Return the SAEs that ship as ``--sae`` takes them; raises ``InputError`` if there is none."""
    names = sae_names()
    if not names:
        raise InputError(f"no SAE was given and none is bundled in {ROOT}; give one with --sae PATH, or {_AGAIN}")
    return [_PREFIX + name for name in names]


def model_folder(id: str, *, check: bool = True) -> Path | None:
    """Return the folder of the bundled model if ``id`` names it, else ``None``.

    Args:
        id: A model's name, as the user gave it.
        check: Whether the files are compared with the manifest.

    Raises:
        InputError: A file is missing or is not the one that the manifest lists.
    """
    if id != MODEL:
        return None
    if check:
        _check("model", f"the model {MODEL!r}")
    return ROOT / "model"


def sae_folder(path: str | Path) -> Path | None:
    """Return the folder of a bundled SAE if ``path`` is ``reference:NAME``, else ``None``.

    Raises:
        InputError: No SAE of that name ships, or one of its files is missing or is not the one that the manifest lists.
    """
    text = str(path)
    if not text.startswith(_PREFIX):
        return None
    name, known = text.removeprefix(_PREFIX), sae_names()
    if name not in known:
        there = f"There are: {', '.join(known)}." if known else f"None is bundled in {ROOT}; {_AGAIN}."
        raise InputError(f"no bundled SAE {name!r}.{did_you_mean(name, known)} {there}")
    _check(f"saes/{name}", text)
    return ROOT / "saes" / name


def with_defaults(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run: with the bundled SAEs where none is named, and their suite if all are and no task is asked.

    Args:
        options: Fields of :class:`saebench.config.RunConfig`.

    Raises:
        InputError: No SAE is named though the model, site or format of one is, or none is bundled.
    """
    suite = options.get("suite") or (None if options.get("tasks") else SUITE)
    if options.get("saes"):
        bundled = all(str(path).startswith(_PREFIX) for path in options["saes"]) and options.get("model") in (None, MODEL)
        return {**options, "suite": suite} if bundled else dict(options)
    for key in ("site", "format", "residual", "trained_context", "select", "given"):
        if options.get(key):
            flag = "set" if key == "given" else key.replace("_", "-")
            raise InputError(f"no SAE given, but --{flag}; use --sae PATH (repeat it for several)")
    if options.get("model") not in (None, MODEL):
        raise InputError(f"no SAE given for --model {options['model']}; use --sae PATH (repeat it for several)")
    return {**options, "saes": tuple(saes()), "suite": suite}


def _check(folder: str, what: str) -> None:
    """Raise ``InputError`` unless every file that the manifest lists under ``folder`` is there as it lists it."""
    from saebench.store import sha256_file  # brings pydantic along, which `inspect` has no use for

    entries = [entry for entry in manifest() if entry.file.startswith(f"{folder}/")]
    if not entries:
        raise InputError(f"{what} is not bundled in {ROOT}; {_AGAIN}")
    for entry in entries:
        file = ROOT / entry.file
        if not file.is_file():
            raise InputError(f"{what}: {file} is missing; {_AGAIN}")
        if file.stat().st_size != entry.bytes or sha256_file(file) != entry.sha256:
            raise InputError(f"{what}: {file} is not the file that {MANIFEST} lists (its SHA-256 differs); {_AGAIN}")

"""The texts that ship inside the package ``sae-probes`` (Kantamneni et al. 2025, MIT), read without importing it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from saebench.data.datasets import Row, mirror_file, mirror_root, read_jsonl
from saebench.errors import InputError, did_you_mean, first_line

PACKAGE = "sae_probes"
MIRROR = "sae-probes"
HOW = "pip install 'saebench-harness[probes]' brings them (or: pip install --no-deps sae-probes, 45 MB)"


def package_rows(name: str, mirror: str | None, data_dir: Path | None) -> tuple[list[Row], str]:
    """Return the rows of one file of the package, and where they came from.

    The columns are ``prompt`` and ``target``, as text, and ``positive``: whether the target is the second of the two in
    alphabetical order, the class that the package calls 1. The mirror's ``sae-probes/<mirror>/train.jsonl.gz`` goes first, then
    the package, where it is installed.

    Args:
        name: Its file's name without the ending, number included: ``65_high-school``.
        mirror: Folder of the mirror under ``sae-probes``; ``name`` if ``None``.
        data_dir: Folder of a local mirror.

    Raises:
        InputError: There is neither mirror nor package, the file is not in it, it is damaged, or has not two targets.
    """
    mirrored = mirror_file(MIRROR, mirror or name, "train", data_dir)
    if mirrored is not None:
        where, origin, rows = str(mirrored), f"mirror:{MIRROR}/{mirror or name}", list(read_jsonl(mirrored))
    else:
        file = _file(name, mirror or name, data_dir)
        where, origin, rows = str(file), f"package:{MIRROR}/{file.name}", _read(file)
    if any("prompt" not in row or "target" not in row for row in rows):
        raise InputError(f"{where} lacks a column prompt or target; get it again")
    targets = sorted({str(row["target"]) for row in rows})
    if len(targets) != 2:
        raise InputError(f"{where} has {len(targets)} targets ({', '.join(targets[:3])}), expected two; get it again")
    return [
        {"prompt": str(row["prompt"]), "target": str(row["target"]), "positive": str(row["target"]) == targets[1]} for row in rows
    ], origin


def _file(name: str, mirror: str, data_dir: Path | None) -> Path:
    """Return the file in the installed package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        root = mirror_root(data_dir)
        where = f"{root / MIRROR / mirror} does not exist" if root else f"no --data-dir or SAEBENCH_DATA holds {MIRROR}/{mirror}"
        raise InputError(f"the texts of {name} ship in the package sae-probes, which is not installed, and {where}. {HOW}")
    folder = Path(found.submodule_search_locations[0]) / "data/cleaned_data"
    file = folder / f"{name}.csv.zst"
    if not file.is_file():
        known = [path.name.removesuffix(".csv.zst") for path in folder.glob("*.csv.zst")]
        if not known:
            raise InputError(f"the package sae-probes has no texts in {folder}; install version 0.4.2. {HOW}")
        raise InputError(f"the package sae-probes has no file {name!r}.{did_you_mean(name, known)}")
    return file


def _read(file: Path) -> list[Row]:
    import pandas as pd
    import pyarrow as pa

    try:
        with pa.input_stream(str(file), compression="zstd") as stream:
            table = pd.read_csv(stream, dtype=str, keep_default_na=False)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{file} is damaged ({first_line(error)}); install the package sae-probes again") from None
    return table.to_dict("records")  # pyright: ignore[reportReturnType]

"""Peak memory and seconds of every hostile case, each loaded in a forked process of its own: ``python -m … FOLDER``.

Address space is limited besides: what is allocated and never touched counts there too. The peak is that of the process less that
of one which loads nothing.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.hostile import all_cases, trained

ADDRESS_SPACE = 1 << 30
GOOD, LOADED = "a good one of 120 MB", 3


def mapped_now() -> int:
    """Return the address space that this process has, in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


def child(path: Path | None) -> int:
    """Load ``path`` and return 0 if both ways end in an ``InputError``."""
    limit = mapped_now() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    if path is None:
        return 0
    for load in (load_sae, inspect_sae):
        try:
            load(path)
            return LOADED
        except InputError:
            pass
        except BaseException as error:
            sys.stderr.write(f"{path}: {type(error).__name__}: {error}\n")
            return 4
    return 0


def measured(path: Path | None) -> dict[str, float]:
    """Return how loading ``path`` ended, its seconds of processor time and its peak in megabytes."""
    process = os.fork()
    if process == 0:
        code = 5
        try:
            code = child(path)
        finally:
            os._exit(code)
    _, status, used = os.wait4(process, 0)
    return {"status": status, "seconds": round(used.ru_utime + used.ru_stime, 2), "megabytes": round(used.ru_maxrss / 1024, 1)}


def large(folder: Path) -> Path:
    """Write an SAE that takes 120 MB when it is read."""
    rows = torch.ones(60_000, 256)
    biases = {"encoder.bias": torch.ones(60_000), "bias": torch.ones(256)}
    return trained(folder, {"encoder.weight": rows, "decoder.weight": rows.T.contiguous()} | biases)


def main(root: Path) -> None:
    list(FORMATS.items())
    rows: dict[str, dict[str, float]] = {}
    written: dict[str, Any] = {GOOD: (root / "good", large)}
    written |= {name: (root / str(at), case.write) for at, (name, case) in enumerate(all_cases().items())}
    for folder, write in written.values():
        process = os.fork()  # what writing them leaves in memory would count as loading
        if process == 0:
            code = 1
            try:
                made = write(folder)
                (root / f"{folder.name}.path").write_bytes(os.fsencode(made or folder))
                code = 0
            finally:
                os._exit(code)
        assert os.wait4(process, 0)[1] == 0, folder
    nothing = measured(None)["megabytes"]
    for name, (folder, _) in written.items():
        rows[name] = measured(Path(os.fsdecode((root / f"{folder.name}.path").read_bytes())))
        rows[name]["megabytes"] = round(rows[name]["megabytes"] - nothing, 1)
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Where a number came from: versions, commit, machine, memory."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

_PACKAGES = {
    "saebench": "saebench-harness",
    "torch": "torch",
    "transformers": "transformers",
    "transformer_lens": "transformer-lens",
    "datasets": "datasets",
    "numpy": "numpy",
}


def versions() -> dict[str, str]:
    """Return the version of saebench and of every package whose arithmetic or data enters a score."""
    found = {"python": platform.python_version()}
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def source_commit() -> dict[str, str | bool | None]:
    """Return the commit of the package's own source tree and whether it was changed since (``None``: not a checkout).

    The folder of the package is asked, never the working directory.
    """
    here = Path(__file__).resolve().parent
    tracked = _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    commit = _git(here, "rev-parse", "HEAD") if tracked is not None else None
    if commit is None:
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(_git(here, "status", "--porcelain", "--", str(here.parent)))}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory_bytes(device: str = "cpu") -> int:
    """Return the most memory held so far, in bytes: of this process (resident), or of torch on a CUDA device.

    Args:
        device: The torch device, as text.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(torch.device(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine(device: str) -> dict[str, str | int]:
    """Return what the numbers were computed on.

    Args:
        device: The torch device, as text.
    """
    import torch

    name = (
        torch.cuda.get_device_name(torch.device(device))
        if device.startswith("cuda")
        else platform.processor() or platform.machine()
    )
    return {"device": device, "device_name": name, "threads": torch.get_num_threads(), "platform": platform.platform()}

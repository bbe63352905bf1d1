"""Finding out what a path holds, and loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from saebench.errors import InputError, first_line
from saebench.reference import sae_folder
from saebench.registry import FORMATS
from saebench.sae.sae import SAE
from saebench.sae.site import Site


def load_sae(
    path: str | Path,
    *,
    format: str | None = None,
    site: str | None = None,
    model_id: str | None = None,
    residual: Literal["raw", "centred"] | None = None,
    context_length: int | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> SAE:
    """Load an SAE, whatever library wrote it.

    Args:
        path: Its folder, a file in it, a folder with exactly one SAE inside, or ``reference:NAME``, which is bundled.
        format: One of ``saebench list formats``; found from the files if ``None``.
        site: Takes the place of the site its files name, with a warning.
        model_id: Takes the place of the model its files name, with a warning.
        residual: Takes the place of the residual stream its files name, with a warning.
        context_length: The context length it was trained at, where its files do not say.
        device: Where to put it.
        dtype: Dtype of weights; float32 if ``None``.

    Raises:
        InputError: No such path, no known format, several that fit, or files that are damaged or contradict each other.
    """
    bundled = sae_folder(path)
    folder, name = resolve(bundled or Path(path).expanduser(), format)
    sae = _read(folder, name)
    changes: dict[str, Any] = {"name": sae_name(folder)} | ({"path": str(path)} if bundled else {})
    warnings = list(sae.config.warnings)
    for key, value in {"site": site, "model_id": model_id, "residual": residual, "context_length": context_length}.items():
        own = getattr(sae.config, key)
        if value is None or value == own:
            continue
        if own is not None and not (key == "model_id" and Path(str(value)).name == own):
            warnings.append(f"its files say {key} {own}, overridden by {value}")
        changes[key] = value
        if key == "site" and own is not None:
            changes["site_out"] = None if sae.config.site_out in (None, own) else sae.config.site_out
    final = changes.get("site", sae.config.site)
    if final is not None:
        Site.parse(final)
    sae = sae.with_config(**changes, warnings=tuple(warnings))
    return sae.to(device=device, dtype=dtype or torch.float32)


def _read(folder: Path, name: str) -> SAE:
    try:
        return FORMATS.get(name).load(folder)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            f"{folder} cannot be read as an SAE of format {name} ({type(error).__name__}: {first_line(error)}); its files are "
            "damaged or of another kind, fetch it again"
        ) from error


def resolve(path: Path, format: str | None = None) -> tuple[Path, str]:
    """Return (the SAE's folder, its format's name). Reads JSON and headers only."""
    if not path.exists():
        raise InputError(f"no such file or folder: {path}")
    folder = path if path.is_dir() else path.parent
    if format is not None:
        FORMATS.get(format)
        return folder, format
    found = _formats(folder)
    if not found and path.is_dir():
        inner = sorted({p.parent for p in path.rglob("*") if p.is_file() and p.suffix in {".safetensors", ".pt"}})
        holding = [p for p in inner[:1000] if _formats(p)]
        if len(holding) == 1:
            return resolve(holding[0])
        if holding:
            some = ", ".join(str(p.relative_to(path)) for p in holding[:6])
            raise InputError(f"{path} holds {len(holding)} SAEs; name one: {some}{', …' if len(holding) > 6 else ''}")
    if not found:
        looked = "; ".join(member.looked_for for _, member in FORMATS.items())
        raise InputError(f"{path} is no SAE of a known format. Looked for: {looked}")
    if len(found) > 1:
        raise InputError(f"{path} fits several formats: {', '.join(found)}; choose one with --format")
    return folder, found[0]


def _formats(folder: Path) -> list[str]:
    return [name for name, member in FORMATS.items() if member.detect(folder)]


def sae_name(folder: Path) -> str:
    """Return a short name: the folder's own, with its parent's where it alone says little."""
    own = folder.resolve()
    generic = own.name.startswith(("trainer_", "layers.", "h.", "layer_", "final", "checkpoint"))
    return f"{own.parent.name}-{own.name}" if generic else own.name

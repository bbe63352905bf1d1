"""Loading an SAE, whatever library wrote it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from saebench.errors import InputError, first_line
from saebench.sae.find import Found, locate
from saebench.sae.sae import SAE, SAEConfig
from saebench.sae.site import Site, is_known
from saebench.sae.source import Entry, Given, Source

_DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RuntimeError, OSError)


def load_sae(
    path: str | Path,
    *,
    format: str | None = None,
    site: str | None = None,
    model_id: str | None = None,
    residual: Literal["raw", "centred"] | None = None,
    context_length: int | None = None,
    given: Mapping[str, str] | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> SAE:
    """Load an SAE, whatever library wrote it.

    Args:
        path: Its folder, a file in it, a folder with exactly one SAE inside, ``FILE#PART`` for one of several in a file, or
            ``reference:NAME``, which is bundled; or ``hub:REPO[@REVISION][:FOLDER-OR-FILE]`` or ``saelens:RELEASE/ID``, fetched
            where it is not in the hub's cache.
        format: One of ``saebench list formats``; found from the files if ``None``.
        site: Takes the place of the site its files name, with a warning.
        model_id: Takes the place of the model its files name, with a warning.
        residual: Takes the place of the residual stream its files name, with a warning.
        context_length: The context length it was trained at, where its files do not say.
        given: What else its files do not say: ``k``, ``norm_scale`` and the like, as text.
        device: Where to put it.
        dtype: Dtype of weights; float32 if ``None``.

    Raises:
        InputError: No such path, no known format, several that fit, files that are damaged or contradict each other, or a hub
            that does not give them.
    """
    found = locate(path, format, Given(given))
    told = {"site": site, "model_id": model_id, "residual": residual, "context_length": context_length}
    config, entry = read_entry(found, path, told)
    with damage(found):
        sae = SAE(config, entry.weights())
        _ = sae.sha256  # of the tensors as they are stored
        for name in [name for name, _ in sae.weights.items()]:  # one after the other: none is kept beside its cast
            cast = found.source.cast(getattr(sae.weights, name), device=device, dtype=dtype or torch.float32)
            sae.weights = replace(sae.weights, **{name: cast})
            del cast
    return sae


def read_entry(found: Found, path: str | Path, told: Mapping[str, Any] | None = None) -> tuple[SAEConfig, Entry]:
    """Return what an SAE is after what was told of it, and what its files alone say.

    Args:
        found: The SAE.
        path: What the user called it.
        told: Fields of the configuration that take the place of the files'.

    Raises:
        InputError: As :func:`load_sae`.
    """
    with damage(found):
        entry = found.member.read(found.source)
    origin = found.source.origin
    own, given = origin.amend(entry.config) if origin else entry.config, found.source.given
    changes: dict[str, Any] = {"name": sae_name(found), "path": str(path) if str(path).startswith("reference:") else found.path}
    warnings = list(own.warnings)
    for key, value in (told or {}).items():
        before = getattr(own, key)
        if value is None or value == before:
            continue
        if before is not None and not (key == "model_id" and Path(str(value)).name == before):
            warnings.append(f"its files say {key} {before}, overridden by {value}")
        changes[key] = value
        if key == "site" and before is not None:
            changes["site_out"] = None if own.site_out in (None, before) else own.site_out
    if "site" in changes:
        Site.parse(changes["site"])
    else:
        warnings += _unknown_sites(own)
    warnings += [
        f"--set {key} moves nothing here: the files say it, or need none" for key in given.values if key not in given.asked
    ]
    return replace(own, **changes, warnings=tuple(warnings)), entry


def _unknown_sites(config: SAEConfig) -> list[str]:
    """Return a line for each of its sites that no run can read or write: all else can be done with such an SAE."""
    return [
        f"{site!r} is no site that saebench knows: such an SAE can be inspected, checked and exported, and not scored"
        for site in dict.fromkeys((config.site, config.site_out))
        if site is not None and not is_known(site)
    ]


@contextmanager
def damage(found: Found) -> Iterator[None]:
    """Turn what damaged files make formats raise into one line that names them."""
    try:
        found.source.check_unchanged()
        yield
    except _DAMAGE as error:
        raise InputError(
            f"{found.path} cannot be read as an SAE of format {found.format} ({type(error).__name__}: {first_line(error)}); its "
            "files are damaged or of another kind, fetch it again"
        ) from error


def sae_name(found: Found) -> str:
    """Return a short name: the folder's or file's own, with what it lies in where it alone says little."""
    source = found.source
    from_hub = source.origin is not None or "/" in source.words[0]  # there folders are called by commits, and files by hashes
    own = Path(*source.words) if from_hub else Path(os.path.abspath(source.path))
    if source.part:
        return f"{own.stem}-{source.part}"
    if source.file is not None and not getattr(found.member, "own_files", False):
        if own.parent.name == "checkpoints":
            return f"{own.parent.parent.name}-{own.stem}"
        own = own.parent
    elif source.file is not None:
        return f"{_folder_name(own.parent, source)}-{own.name.removesuffix(own.suffix)}"
    generic = own.name.startswith(
        ("trainer_", "layers.", "h.", "layer_", "seed", "final", "checkpoint", "average_l0_", "canonical")
    )
    return f"{own.parent.name}-{own.name}" if generic else _folder_name(own, source)


def _folder_name(folder: Path, source: Source) -> str:
    """Return the folder's name; in a hub's cache, where the outermost is called by its commit, the repository's."""
    return source.words[0].rsplit("/", 1)[-1] if folder.parent.name == "snapshots" else folder.name

"""Writing an SAE as another library's folder, so that the library itself loads it and computes the same numbers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from saebench.errors import InputError, did_you_mean
from saebench.sae.export import dictionary_learning, saelens, sparsify
from saebench.sae.find import detect
from saebench.sae.sae import SAE, SAEConfig
from saebench.sae.source import Source

__all__ = ["EXPORTS", "check_export", "export_notes", "export_sae"]

_EXPORTERS: dict[str, ModuleType] = {
    "saelens": saelens,
    "dictionary_learning": dictionary_learning,
    "sparsify": sparsify,
}
EXPORTS: tuple[str, ...] = tuple(_EXPORTERS)
"""The names that ``export_sae`` takes."""


def export_sae(sae: SAE, folder: str | Path, to: str) -> Path:
    """Write ``sae`` in the folder layout of another library, in float32, with what can be folded into the weights folded.

    Args:
        sae: What to write.
        folder: Made if absent. The same kind of SAE in it is replaced, another kind is an error.
        to: One of :data:`EXPORTS`.

    Returns:
        The folder that the library's loader takes: ``folder``, or for ``sparsify`` the folder in it that bears the name of the
        module the SAE reads.

    Raises:
        InputError: No such library, its format cannot hold this SAE, or the folder holds something else.
    """
    exporter = _exporter(to)
    check_export(sae.config, to, skip=sae.weights.W_skip is not None, rank=sae.weights.rank is not None)
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder to export to")
    there = detect(Source(folder)) if folder.is_dir() else None
    if there not in (None, exporter.FORMAT):
        raise InputError(f"{folder} already holds an SAE of the format {there}; choose another folder to export to")
    return exporter.write(sae, folder, export_notes(sae, to))


def check_export(config: SAEConfig, to: str, *, skip: bool = False, rank: bool = False) -> None:
    """Raise ``InputError`` with the reason if ``to`` cannot hold such an SAE; needs no weights, so it can be asked early.

    Args:
        config: What the SAE is, or will be.
        to: One of :data:`EXPORTS`.
        skip: Whether it has a ``W_skip``.
        rank: Whether it has a ``rank``, which none of them can hold.
    """
    told = "its topk compares latents by a scale that it does not keep them at (rank), and no export has a place for that"
    refusal = _exporter(to).refusal
    reason = told if rank else refusal(config, skip)
    if reason is None:
        return
    holders = [] if rank else [name for name, exporter in _EXPORTERS.items() if exporter.refusal(config, skip) is None]
    instead = f"export to {' or '.join(holders)}, or keep" if holders else "keep"
    raise InputError(f"{config.name} cannot be written for {to}: {reason}; {instead} saebench's own format (native)")


def export_notes(sae: SAE, to: str) -> list[str]:
    """Return what ``to`` has no place for or names otherwise, one line each, to be shown to the user."""
    return _exporter(to).notes(sae)


def _exporter(to: str) -> ModuleType:
    if to not in _EXPORTERS:
        raise InputError(f"unknown export {to!r}.{did_you_mean(to, EXPORTS)} Known: {', '.join(EXPORTS)}.")
    return _EXPORTERS[to]

"""Which SAEs a repository holds and which files each needs, from the names of its files alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from saebench.sae.source import WEIGHTS

MAIN = (
    "sae_weights.safetensors", "sae_weights.pt", "sae.safetensors", "sae.pt", "ae.pt", "params.npz", "params.safetensors",
    "latest_ckpt.safetensors", "cc_weights.pt",
)  # fmt: skip
"""Names of weights that make a folder one SAE, whatever lies beside them."""
_OPENMOSS = ("pruned.safetensors", "pruned.pt", "final.safetensors", "final.pt")
"""In the folder ``checkpoints`` beside ``hyperparams.json``, in the order in which their authors' code looks for them."""
BESIDE = {"sae_weights.safetensors": "activation_whitening.safetensors"}
"""What belongs to weights of a name where it lies beside them: sae_lens' checkpoints keep a matrix that is not yet folded in."""
_ASIDE = re.compile(
    r"(?:(?:.*[_.-])?(?:optimi[sz]ers?|optim|scheduler|rank_\d+_state|trainer_state|training_state|rng_state|acts|sparsity"
    r"|activations?(?:_(?:store|store_state|cache|whitening|norms?))?)|state|scaler|tokens|buffer|rare_freq_dir)"
    r"(?:[_.-]?\d+)*\.\w+",
    re.IGNORECASE,
)
"""States of training, activations and the like: never an SAE's weights, and never fetched."""
_ASIDE_FOLDERS = {"activations", "acts", "optimizer", "optimizers", "wandb", "logs", ".git"}
_SETTINGS = (".json", ".yaml", ".yml")
_MOST_SETTINGS = 24


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What is probably one SAE (or one file of several)."""

    path: str
    """Its folder or its file, below the repository's root; empty for the root."""
    weights: tuple[str, ...]


def is_weights(name: str) -> bool:
    """Return whether a file may hold the weights of an SAE, as opposed to an optimizer's state or activations."""
    path = PurePosixPath(name)
    return path.name.endswith(WEIGHTS) and not _ASIDE.fullmatch(path.name) and not _ASIDE_FOLDERS & set(path.parts[:-1])


def candidates(files: Iterable[str], inside: str = "") -> list[Candidate]:
    """Return the SAEs in a folder of a repository and below, in the order of their names.

    A folder is one SAE if it holds a file of a well-known name (:data:`MAIN`); else every file of weights is one. If ``inside``
    itself is one, it is the only one. Weights in a folder ``checkpoints`` below an SAE are its own or from the middle of its
    training, not further SAEs.

    Args:
        files: All files of the repository.
        inside: The folder; empty for the root.
    """
    all_files = set(files)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in sorted(all_files):
        if is_weights(name) and (not inside or name.startswith(f"{inside}/")):
            folders[_folder(name)].append(name)
    found: dict[str, Candidate] = {}
    for folder in sorted({*folders, *(_folder(one) for one in folders if PurePosixPath(one).name == "checkpoints")}):
        own = [name for name in folders.get(folder, []) if PurePosixPath(name).name in MAIN]
        if not own and _join(folder, "hyperparams.json") in all_files:
            kept = (_join(folder, f"checkpoints/{name}") for name in _OPENMOSS)
            own = [name for name in kept if name in all_files][:1]
        beside = (_join(folder, BESIDE[name]) for name in (PurePosixPath(one).name for one in own) if name in BESIDE)
        own += [name for name in beside if name in all_files]
        if own:
            found[folder] = Candidate(path=folder, weights=tuple(own))
    if inside in found:
        return [found[inside]]
    for folder, names in folders.items():
        below_one = PurePosixPath(folder).name == "checkpoints" and _folder(folder) in found
        if folder not in found and not below_one:
            found |= {name: Candidate(path=name, weights=(name,)) for name in names}
    return [found[path] for path in sorted(found)]


def settings_of(files: Iterable[str], candidate: Candidate) -> list[str]:
    """Return the files of settings that may belong to an SAE: those of its folder and of the folders above it.

    Those that are named like other weights beside it (``47_cfg.json`` beside ``47.pt``) are left out. Of a folder with very many,
    those named like its own weights come first, then those of short names.
    """
    files = set(files)
    folders = {_folder(name) for name in candidate.weights} | (
        {candidate.path} if candidate.path not in candidate.weights else set()
    )
    for folder in list(folders):
        folders |= {"" if str(above) == "." else str(above) for above in PurePosixPath(folder).parents}
    by_folder: dict[str, list[str]] = defaultdict(list)
    for name in sorted(files):
        if name.endswith(_SETTINGS) and _folder(name) in folders:
            by_folder[_folder(name)].append(name)
    own = {_stem(name) for name in candidate.weights}
    others = {_stem(name) for name in files if is_weights(name)} - own

    def order(name: str) -> tuple[bool, int, str]:
        return not _starts(name) & own, len(name), name

    def is_others(name: str) -> bool:
        return not _starts(name) & own and bool(_starts(name) & others)

    kept = {folder: sorted((name for name in names if not is_others(name)), key=order) for folder, names in by_folder.items()}
    return [name for folder in sorted(kept) for name in kept[folder][:_MOST_SETTINGS]]


def _stem(name: str) -> str:
    return name.removesuffix(PurePosixPath(name).suffix)


def _starts(name: str) -> set[str]:
    """Return how the name of a file starts, up to each of its joints: ``a/25`` and ``a/25_cfg`` for ``a/25_cfg.json``."""
    at = len(name) - len(PurePosixPath(name).name)
    return {name[:end] for end in range(at, len(name)) if name[end] in "_.-"}


def folders_of(files: Sequence[str]) -> set[str]:
    """Return every folder that holds one of ``files``, at any depth, the root left out."""
    return {str(above) for name in files for above in PurePosixPath(name).parents} - {"."}


def _folder(name: str) -> str:
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name

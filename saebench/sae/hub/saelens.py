"""SAEs by the names that sae_lens gives them: ``saelens:RELEASE/ID``, looked up in the directory that the package brings.

Only the package's file ``pretrained_saes.yaml`` is read; sae_lens itself is not imported (it is slow, and needs a
transformer-lens below 4). What the directory knows besides the files (a factor for the input, settings that are wrong in the
files, the model) is applied as ``SAE.from_pretrained`` of sae_lens applies it, and told as assumptions.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from saebench.errors import InputError, did_you_mean, first_line
from saebench.registry import FORMATS
from saebench.sae.hub.repository import PREFIX as HUB
from saebench.sae.hub.repository import check_revision, open_address, parse
from saebench.sae.sae import SAEConfig
from saebench.sae.source import Given, Source

PREFIX = "saelens:"
FORMAT_OF = {
    "sae_lens": "sae_lens",
    "dictionary_learning_1": "dictionary_learning",
    "sparsify": "sparsify",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "connor_rob_hook_z": "neel_nanda",
    "llama_scope": "openmoss_v1",
    "llama_scope_r1_distill": "openmoss_v2",
    "deepseek_r1": "deepseek_r1",
    "qwen_scope": "qwen_scope",
    "mwhanna_transcoder": "circuit_tracer",
    "goodfire": "goodfire",
}
"""Our format for each loader of sae_lens (``conversion_func`` in its directory)."""
REFUSED = {
    "temporal": "its SAEs work on whole sequences, not on one token at a time",
    "mntss_clt_layer_transcoder": "it is a layer of a cross-layer transcoder, which sae_lens loads for its latents, not recons",
}
"""Loaders of sae_lens whose SAEs cannot be scored."""
_FIELDS = {"model_name": "model_id", "hook_name": "site", "context_size": "context_length", "prepend_bos": "prepend_bos"}
_MOVES_NOTHING = {"dataset_path", "dataset_trust_remote_code", "neuronpedia_id", "device", "dtype"}
_SOME = 6


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One SAE of the directory."""

    release: str
    id: str
    repo: str
    path: str
    """Folder or file of the repository."""
    loader: str
    model: str | None
    factor: float | None
    """What acts are multiplied by before the encoder."""
    overrides: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What opens it."""
        return f"{PREFIX}{self.release}/{self.id}"


def open_saelens(text: str, given: Given | None = None) -> Source:
    """Return the SAE called ``saelens:RELEASE/ID[@COMMIT]``, its files fetched.

    Raises:
        InputError: sae_lens is not installed, does not know it, or its loader has no counterpart here; or as
            :func:`saebench.sae.hub.repository.open_hub`.
    """
    release, id, revision = _parse(text)
    listed = _listed(release)
    if not id and len(listed) > 1:
        raise InputError(
            f"{text} has {len(listed)} SAEs; name one, as in {next(iter(listed.values())).name}, or choose with --select GLOB: "
            f"{_some(listed)}"
        )
    if id and id not in listed:
        raise InputError(f"sae_lens {version()} lists no {id!r} in {release}.{did_you_mean(id, listed)} It has {_some(listed)}")
    one = listed[id] if id else next(iter(listed.values()))
    format = _format(one)
    own_keys = format == "sae_lens"
    known = {"norm_scale": repr(one.factor)} if one.factor is not None else {}
    told = Given(given.values if given else None, known=known)
    source = open_address(
        replace(parse(f"{HUB}{one.repo}:{one.path}"), revision=revision),
        told,
        place=f"{one.name}@COMMIT",
        format=format,
        settings={"cfg.json": one.overrides} if own_keys else None,
    )
    assert source.origin is not None
    offline = source.origin.amend
    source.origin = replace(source.origin, amend=lambda config: _completed(offline(config), one, told, source, own_keys))
    return source


def list_saelens(text: str, select: str | None = None) -> list[str]:
    """Return the names of the SAEs of a release (``saelens:RELEASE``), or of the one that ``text`` names.

    Raises:
        InputError: As :func:`open_saelens`, or ``select`` fits none.
    """
    release, id, _ = _parse(text)
    listed = _listed(release)
    if id:
        return [text]
    chosen = [one.name for one in listed.values() if select is None or fnmatchcase(one.id, select)]
    if not chosen:
        raise InputError(f"--select {select!r} fits none of the {len(listed)} SAEs of {release}; there are {_some(listed)}")
    return chosen


def version() -> str:
    """Return the installed version of sae_lens, or ``(unknown version)``."""
    try:
        return importlib.metadata.version("sae-lens")
    except importlib.metadata.PackageNotFoundError:
        return "(unknown version)"


def _parse(text: str) -> tuple[str, str, str | None]:
    """Return (release, id, commit); the id is empty for a whole release."""
    body, at, revision = text.removeprefix(PREFIX).partition("@")
    release, _, id = body.partition("/")
    if not release or not body.isprintable():
        raise InputError(
            f"{text!r} names no release; write saelens:RELEASE/ID, as in saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre"
        )
    if at:
        check_revision(revision, text)
    return release, id.rstrip("/"), revision or None


def _listed(release: str) -> dict[str, Listed]:
    releases = directory(_file())
    if release not in releases:
        raise InputError(
            f"sae_lens {version()} knows no release {release!r}.{did_you_mean(release, releases)} All of them: "
            "https://decoderesearch.github.io/SAELens/latest/pretrained_saes/"
        )
    return releases[release]


def _file() -> Path:
    """Return the directory's file in the installed package, which is not imported."""
    try:
        found = importlib.util.find_spec("sae_lens")
    except (ImportError, ValueError):
        found = None
    folders = (found.submodule_search_locations if found else None) or []
    for folder in folders:
        if (Path(folder) / "pretrained_saes.yaml").is_file():
            return Path(folder) / "pretrained_saes.yaml"
    raise InputError(
        "saelens:… needs the package sae_lens: pip install 'saebench-harness[saelens]' (sae_lens needs transformer-lens below 4, "
        "3.9 serves saebench too), or give the repository itself as hub:OWNER/NAME:FOLDER"
    )


@functools.cache
def directory(file: Path) -> dict[str, dict[str, Listed]]:
    """Return what a ``pretrained_saes.yaml`` lists, by release and id.

    Raises:
        InputError: The file is not as sae_lens writes it.
    """
    import yaml

    try:
        with open(file, encoding="utf-8") as handle:
            data = yaml.load(handle, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # the C one is five times as fast
        return {
            str(release): {
                str(one["id"]): Listed(
                    release=str(release),
                    id=str(one["id"]),
                    repo=str(about["repo_id"]),
                    path=str(one["path"]),
                    loader=about.get("conversion_func") or "sae_lens",
                    model=about.get("model"),
                    factor=None if one.get("norm_scaling_factor") is None else float(one["norm_scaling_factor"]),
                    overrides=dict(about.get("config_overrides") or {}),
                )
                for one in about["saes"]
            }
            for release, about in data.items()
        }
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} is no directory as sae_lens 6 has it ({type(error).__name__}: {first_line(error)}); install sae_lens again"
        ) from None


def _format(one: Listed) -> str:
    if one.loader in REFUSED:
        raise InputError(f"{one.name} cannot be scored: {REFUSED[one.loader]}")
    format = FORMAT_OF.get(one.loader)
    if format is None or format not in FORMATS.names():
        known = ", ".join(sorted(loader for loader, name in FORMAT_OF.items() if name in FORMATS.names()))
        raise InputError(
            f"{one.name} needs sae_lens' loader {one.loader!r}, which has no counterpart here; there is one for {known}"
        )
    return format


def _completed(config: SAEConfig, one: Listed, given: Given, source: Source, own_keys: bool) -> SAEConfig:
    """Return the configuration with what the directory adds to the files, each with its reason."""
    by = f"the directory of sae_lens {version()}"
    told = [f"files taken from hub:{one.repo}@{_commit(source)}:{one.path}: {by} says so of {one.release}/{one.id}"]
    changes: dict[str, Any] = {}
    for key, value in one.overrides.items():
        if key in _MOVES_NOTHING:
            continue
        if own_keys:
            told.append(f"{key} taken as {value}: {by} puts that in place of what cfg.json says (config_overrides)")
        elif key in _FIELDS:
            changes[_FIELDS[key]] = value
            told.append(f"{_FIELDS[key]} taken as {value}: {by} says so (config_overrides)")
        else:
            raise InputError(f"{one.name}: {by} overrides {key!r}, which means nothing here for the loader {one.loader!r}")
    if one.model and config.model_id is None and "model_id" not in changes:
        changes["model_id"] = one.model
        told.append(f"model taken as {one.model}: {by} says so")
    if one.factor is not None and "norm_scale" in given.asked and "norm_scale" not in given.values:
        told.append(f"acts are multiplied by {one.factor:g} before the encoder: {by} says so (norm_scaling_factor)")
    return replace(config, **changes, assumptions=(*config.assumptions, *told))


def _commit(source: Source) -> str:
    assert source.origin is not None
    return source.origin.place.rpartition("@")[2]


def _some(listed: Mapping[str, Listed]) -> str:
    return ", ".join(list(listed)[:_SOME]) + (", …" if len(listed) > _SOME else "")

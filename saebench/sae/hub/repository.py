"""SAEs in repositories of a hub: ``hub:REPO[@REVISION][:FOLDER-OR-FILE]``.

The commit that a revision is now is looked up once and everything comes from it. Which SAE is meant is decided from the names
of the repository's files; only that SAE's weights and small settings are fetched (:mod:`saebench.sae.hub.fetch`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from saebench.errors import InputError, did_you_mean
from saebench.sae.hub.fetch import Snapshot, fetch, snapshot
from saebench.sae.hub.names import Candidate, candidates, folders_of, is_weights, settings_of
from saebench.sae.origin import Origin
from saebench.sae.sae import SAEConfig
from saebench.sae.source import WEIGHTS, Given, Source

PREFIX = "hub:"
_SOME = 6
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_REVISIONS = set(" ~^?*[\\")


@dataclass(frozen=True, kw_only=True)
class Address:
    """What a user wrote, taken apart and found harmless."""

    repo: str
    revision: str | None = None
    inside: str = ""

    @property
    def text(self) -> str:
        """The address as it is written."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.repo}{revision}" + (f":{self.inside}" if self.inside else "")


def parse(text: str) -> Address:
    """Return the address in ``hub:REPO[@REVISION][:FOLDER-OR-FILE]``.

    Raises:
        InputError: It is none, or a part of it would lead out of the repository.
    """
    place, _, inside = text.removeprefix(PREFIX).partition(":")
    repo, at, revision = place.partition("@")
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or len(repo) > 96:
        raise InputError(f"{text!r} names no repository; write hub:OWNER/NAME, hub:OWNER/NAME@REVISION or hub:OWNER/NAME:FOLDER")
    if at:
        check_revision(revision, text)
    return Address(repo=repo, revision=revision or None, inside=_checked_inside(inside.rstrip("/"), text))


def check_revision(revision: str, text: str) -> None:
    """Raise ``InputError`` if ``revision``, a part of ``text``, is not the name of a branch, tag or commit."""
    parts = revision.split("/")
    harmless = revision.isprintable() and not _NOT_IN_REVISIONS & set(revision) and ".." not in revision
    if not harmless or any(not part or part.startswith((".", "-")) for part in parts):
        raise InputError(f"{text!r}: {revision!r} is not the name of a branch, tag or commit")


def _checked_inside(inside: str, text: str) -> str:
    harmless = inside.isprintable() and "\\" not in inside and "~" not in inside
    if not harmless or (inside and {"", ".", ".."} & set(inside.split("/"))):
        raise InputError(
            f"{text!r}: {inside!r} is not a folder or file inside a repository; no '..', '~', backslashes or leading slashes"
        )
    return inside


def open_hub(text: str, given: Given | None = None) -> Source:
    """Return the one SAE at an address, its files fetched.

    Args:
        text: ``hub:REPO[@REVISION][:FOLDER-OR-FILE[#PART]]``.
        given: What the user told of it.

    Raises:
        InputError: The address is none, the hub does not give it, or there is no SAE or several.
    """
    return open_address(parse(text), given)


def open_address(
    address: Address,
    given: Given | None = None,
    *,
    place: str | None = None,
    format: str | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Source:
    """Return the one SAE at an address, its files fetched.

    Args:
        address: Where.
        given: What the user told of it.
        place: What it is called in place of its address; ``COMMIT`` in it becomes the commit.
        format: Its format, where that is known.
        settings: As :class:`Origin` takes them.

    Raises:
        InputError: As :func:`open_hub`.
    """
    where = snapshot(address.repo, address.revision)
    inside, part = _split(address.inside, where)
    chosen = _one(where, inside, address)
    folder = fetch(where, address.revision, chosen.weights, settings_of(where.files, chosen))
    pinned = replace(address, revision=where.commit, inside="")
    origin = Origin(
        place=pinned.text if place is None else place.replace("COMMIT", where.commit),
        inside=chosen.path if place is None else "",
        format=format,
        settings=settings or {},
        amend=_offline_note(where, address),
    )
    words = (address.repo, *(chosen.path.split("/") if chosen.path else ()))
    return Source(folder / chosen.path, given=given, part=part, words=words, origin=origin)


def list_hub(text: str, select: str | None = None) -> list[str]:
    """Return the addresses, with their commit, of the SAEs at an address and below; nothing is fetched.

    Args:
        text: As :func:`open_hub`.
        select: Shell pattern of the part of the name below the address; ``None``: all.

    Raises:
        InputError: The hub does not give it, or there is no SAE, or none that fits.
    """
    address = parse(text)
    where = snapshot(address.repo, address.revision)
    inside, part = _split(address.inside, where)
    pinned = replace(address, revision=where.commit)
    if part is not None:
        return [pinned.text]
    found = _all(where, inside, address)
    names = {_below(one, inside): replace(pinned, inside=one.path).text for one in found}
    chosen = [full for name, full in names.items() if select is None or fnmatchcase(name, select) or fnmatchcase(full, select)]
    if not chosen:
        raise InputError(f"--select {select!r} fits none of the {len(found)} SAEs in {text}; there are {_some(found, inside)}")
    return chosen


def _split(inside: str, where: Snapshot) -> tuple[str, str | None]:
    """Return (file, part) of ``FILE#PART``, unless a file is called so."""
    head, mark, part = inside.rpartition("#")
    if mark and inside not in where.files and head in where.files:
        return head, part
    return inside, None


def _one(where: Snapshot, inside: str, address: Address) -> Candidate:
    found = _all(where, inside, address)
    if len(found) > 1:
        raise InputError(
            f"{address.text} holds {len(found)} SAEs; name one, as in {replace(address, inside=found[0].path).text}, or choose "
            f"with --select GLOB: {_some(found, inside)}"
        )
    return found[0]


def _all(where: Snapshot, inside: str, address: Address) -> list[Candidate]:
    if inside in where.files:
        if not is_weights(inside):
            what = "holds a state of training or activations, no SAE" if inside.endswith(WEIGHTS) else "is no file of weights"
            raise InputError(f"{address.text} {what}; name a folder, or a file that ends in {', '.join(WEIGHTS)}")
        return [Candidate(path=inside, weights=(inside,))]
    found = candidates(where.files, inside)
    if found:
        return found
    all_found, folders = candidates(where.files), folders_of(where.files)
    held = "in the cache" if where.offline else "there are"
    if inside and inside not in folders:
        near = did_you_mean(inside, {one.path for one in all_found} | folders)
        raise InputError(f"{where.repo} has no folder or file {inside!r}.{near} SAEs {held}: {_some(all_found, '') or 'none'}")
    raise InputError(
        f"{address.text} has no file of weights that an SAE could be in ({', '.join(WEIGHTS)}); {held}: "
        f"{_some(all_found, '') or ', '.join(where.files[:_SOME]) or 'no files'}"
    )


def _some(found: list[Candidate], inside: str) -> str:
    return ", ".join(_below(one, inside) for one in found[:_SOME]) + (", …" if len(found) > _SOME else "")


def _below(one: Candidate, inside: str) -> str:
    return one.path.removeprefix(f"{inside}/") if inside else one.path or "."


def _offline_note(where: Snapshot, address: Address) -> Any:
    """Return what adds the warning that a branch may have gone on, if only the cache was asked."""
    named = address.revision or "the main branch"

    def amend(config: SAEConfig) -> SAEConfig:
        if not where.offline or _COMMIT.fullmatch(named):
            return config
        told = f"HF_HUB_OFFLINE is set: commit {where.commit[:8]} is what the cache knows of {named}; the hub may have another"
        return replace(config, warnings=(*config.warnings, told))

    return amend

"""Which format a path is of, and which SAEs lie in a folder of many. Reads settings and headers only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from saebench.errors import InputError, first_line
from saebench.reference import sae_folder
from saebench.registry import FORMATS
from saebench.sae.hub.remote import is_remote, list_remote, open_remote
from saebench.sae.reading.pickle_imports import foreign_class
from saebench.sae.source import WEIGHTS, Given, Source

_MOST = 10_000
"""Folders that are looked through."""
_SOME = 6


@dataclass(frozen=True, kw_only=True)
class Found:
    """An SAE that lies somewhere."""

    source: Source
    format: str

    @property
    def path(self) -> str:
        """What names it: a folder or a file, and ``#PART`` for one of several in a file."""
        return self.source.called + (f"#{self.source.part}" if self.source.part else "")

    @property
    def member(self) -> Any:
        """Return the format."""
        return FORMATS.get(self.format)


def locate(path: str | Path, format: str | None = None, given: Given | None = None) -> Found:
    """Return the one SAE at ``path``.

    Args:
        path: A folder, a file, a folder with exactly one SAE somewhere inside, ``FILE#PART`` or ``reference:NAME``.
        format: Its format; found from the files if ``None``.
        given: What the user told of it.

    Raises:
        InputError: Nothing is there, no format or several fit, or there are several SAEs.
    """
    source = open_path(path, given)
    format = format or (source.origin.format if source.origin else None)
    name = _named(source, format)
    if name is not None:
        return _whole(Found(source=source, format=name))
    inside = list(walk(source, format))
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise InputError(f"{path} holds {len(inside)} SAEs; name one, or choose with --select GLOB: {_some(inside, source.path)}")
    if format is not None:
        return _whole(Found(source=source, format=format))  # reading it says what it lacks
    raise _unknown(source)


def find_all(path: str | Path, select: str | None = None, format: str | None = None, given: Given | None = None) -> list[Found]:
    """Return every SAE at ``path`` and below, in the order of their names.

    Args:
        path: As :func:`locate`.
        select: Shell pattern of the part of the name below ``path``; ``None``: all. Of a repository, whose files are fetched
            here, several have to be asked for: ``*`` is all.
        format: Only of this format.
        given: What the user told.

    Raises:
        InputError: Nothing is there, or nothing that fits; the message says what there is.
    """
    if is_remote(path):
        if select is None and len(list_remote(path)) > 1:
            locate(path, format, given)  # says which there are
        return [locate(one, format, given) for one in list_remote(path, select)]
    source = open_path(path, given)
    name = _named(source, format)
    found = list(walk(source, format)) if name is None else _parts(Found(source=source, format=name))
    if not found and format is not None:
        found = [Found(source=source, format=format)]  # as in ``locate``
    if not found:
        raise _unknown(source)
    if select is None:
        return found
    chosen = [one for one in found if fnmatchcase(_below(one, source.path), select) or fnmatchcase(one.path, select)]
    if not chosen:
        if len(found) == 1:
            raise InputError(f"--select {select!r} does not fit {found[0].path}, the only SAE there; leave it off")
        raise InputError(
            f"--select {select!r} fits none of the {len(found)} SAEs in {path}; there are {_some(found, source.path)}"
        )
    return chosen


def find_names(path: str | Path, select: str | None = None, format: str | None = None, given: Given | None = None) -> list[str]:
    """Return what names each SAE of :func:`find_all`; of a repository all are meant if ``select`` is ``None``, none is fetched.

    Args:
        path: As :func:`find_all`.
        select: Likewise.
        format: Likewise; a repository's SAEs are listed whatever their format.
        given: Likewise.

    Raises:
        InputError: As :func:`find_all`.
    """
    return list_remote(path, select) if is_remote(path) else [one.path for one in find_all(path, select, format, given)]


def open_path(path: str | Path, given: Given | None = None) -> Source:
    """Return the source at a path as users write it.

    Raises:
        InputError: Nothing is there.
    """
    bundled = sae_folder(path)
    if bundled is not None:
        return Source(bundled, given=given)
    if is_remote(path):
        return open_remote(path, given)
    if not str(path):
        raise InputError("the path of the SAE is empty; name a folder or a file")
    part = None
    try:
        place = Path(path).expanduser()
        if not place.exists() and "#" in str(path):
            text, _, part = str(path).rpartition("#")
            place = Path(text).expanduser()
        if not place.exists():
            raise InputError(f"no such file or folder: {path}")
        return Source(place, given=given, part=part)
    except (OSError, ValueError, RuntimeError) as error:  # names that are too long, links in a ring, folders that may not be read
        raise InputError(f"{path} cannot be opened: {first_line(error)}") from None


def detect(source: Source) -> str | None:
    """Return the name of the source's format, ``None`` if nothing knows it.

    Raises:
        InputError: Several formats know it and none goes before the others, or they know different files of it.
    """
    best: dict[str, tuple[float, str]] = {}
    others: list[str] = []
    for name, member in FORMATS.items():
        file: str | None = _asked(source, name, "detect")
        rank: float | None = getattr(member, "rank", None)
        if file is None:
            continue
        if rank is None:
            others.append(name)
        else:
            best[file] = min(best.get(file, (rank, name)), (rank, name))
    names = sorted([*others, *(name for _, name in best.values())])
    if len(names) > 1:
        raise InputError(f"{source.called} fits several formats: {', '.join(names)}; choose one with --format")
    return names[0] if names else None


def walk(source: Source, format: str | None = None) -> Iterator[Found]:
    """Yield the SAEs below a folder: folders that are one, else files that are one, or would be if they were whole.

    Args:
        source: The folder; there are none below a file.
        format: Only of this format, or of no certain one and perhaps of this; of any if ``None``.
    """
    below = {folder for _, member in FORMATS.items() for folder in getattr(member, "below", ())}
    for at, (name, inner, _) in enumerate(os.walk(source.path)):
        inner.sort()
        if at >= _MOST:
            raise InputError(f"{source.path} has more than {_MOST} folders; name one that is nearer to the SAEs")
        folder = source.below(Path(name))
        if not any(file.endswith(WEIGHTS) for file in folder.names) and below.isdisjoint(inner):
            continue
        own = _wanted(folder, _or_none(folder), format)
        if own is not None:
            inner[:] = [one for one in inner if one not in getattr(FORMATS.get(own), "below", ())]
            yield from _parts_or_none(Found(source=folder, format=own))
            continue
        files = [source.below(Path(name) / file) for file in folder.names if file.endswith(WEIGHTS)]
        formats = [_wanted(one, _format_of_file(one), format) for one in files]
        known = {one.path.suffix: own for one, own in zip(files, formats, strict=True) if own is not None}
        for one, own in zip(files, formats, strict=True):
            if own is not None:
                yield from _parts_or_none(Found(source=one, format=own))
            elif one.path.suffix in known and _is_damaged(one):
                yield Found(source=one, format=known[one.path.suffix])  # as those beside it; reading it says what is wrong


def _named(source: Source, format: str | None) -> str | None:
    """Return the format that was named, if the files are of it or may be; where none was, the one that is found."""
    if format is None:
        return detect(source)
    may = hasattr(FORMATS.get(format), "fits") and _asked(source, format, "fits")
    return format if may or _asked(source, format, "detect") is not None else None


def _wanted(source: Source, found: str | None, format: str | None) -> str | None:
    """Return the format that was found if it is the one that was named; where none was found, that one if it may be."""
    if found is not None or format is None:
        return found if format in (None, found) else None
    try:
        return _named(source, format)
    except InputError:
        return None


def _or_none(source: Source) -> str | None:
    """Return its format; what fits several, or has damaged settings, has none."""
    try:
        return detect(source)
    except InputError:
        return None


def _format_of_file(source: Source) -> str | None:
    """Return its format, or the one that cannot look at it, its settings being damaged: reading it says so."""
    try:
        return detect(source)
    except InputError:
        return next((name for name, _ in FORMATS.items() if _raises(source, name)), None)


def _raises(source: Source, format: str) -> bool:
    try:
        _asked(source, format, "detect")
    except InputError:
        return True
    return False


def _is_damaged(source: Source) -> bool:
    """Return whether a file is no whole file of tensors; one of other things, such as a trainer's objects, is whole."""
    try:
        source.headers(source.path.name)
    except InputError:
        return foreign_class(source.path) is None
    return False


def _asked(source: Source, format: str, question: str) -> Any:
    """Return what a format says of a source; whatever damaged files make it raise becomes one line that names them."""
    try:
        return getattr(FORMATS.get(format), question)(source)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{source.called} cannot be looked at as an SAE of format {format} ({type(error).__name__}: {first_line(error)}); "
            "its files are damaged or of another kind, fetch it again"
        ) from error


def _parts(found: Found) -> list[Found]:
    source = found.source
    if source.part is not None and not hasattr(found.member, "parts"):
        raise InputError(f"{source.called} is one SAE (format {found.format}), it has no part {source.part!r}; leave it off")
    if source.part is not None or not hasattr(found.member, "parts"):
        return [found]
    return [Found(source=source.below(source.path, part), format=found.format) for part in _asked(source, found.format, "parts")]


def _parts_or_none(found: Found) -> list[Found]:
    try:
        return _parts(found)
    except InputError:
        return []


def _whole(found: Found) -> Found:
    """Return the one SAE of ``found``, or say which parts it has."""
    parts = _parts(found)
    if len(parts) > 1:
        told = _some(parts, None)
        raise InputError(f"{found.source.called} holds {len(parts)} SAEs; name one, or choose with --select GLOB: {told}")
    return parts[0] if parts else found


def _some(found: list[Found], path: Path | None) -> str:
    """Return the names of the first few, below ``path`` if it is given."""
    names = [one.path if path is None else _below(one, path) for one in found[:_SOME]]
    return ", ".join(names) + (", …" if len(found) > _SOME else "")


def _below(found: Found, path: Path) -> str:
    inner = found.source.path.relative_to(path) if found.source.path.is_relative_to(path) else found.source.path
    return str(inner) + (f"#{found.source.part}" if found.source.part else "")


def _unknown(source: Source) -> InputError:
    foreign = foreign_class(source.at(source.file)) if source.file and source.file.endswith((".pt", ".pth")) else None
    if foreign is not None:
        return InputError(
            f"{source.path} is a pickle that wants to run {foreign}; refused, nothing was executed. Where you trust it, save its "
            "tensors with the library that wrote it, as safetensors"
        )
    unsure = [name for name, member in FORMATS.items() if hasattr(member, "fits")]
    may = [name for name in unsure if _asked(source, name, "fits") or next(walk(source, name), None)]
    if may:
        return InputError(
            f"the files at {source.called} do not say of which format they are; choose one with --format: {', '.join(may)}"
        )
    if source.file is None and not any(name.endswith(WEIGHTS) for _, _, names in os.walk(source.path) for name in names):
        return InputError(
            f"{source.called} is no SAE of a known format: it holds no file of weights ({', '.join(WEIGHTS)}), nor does a folder "
            "below it"
        )
    looked = "; ".join(member.looked_for for _, member in FORMATS.items() if hasattr(member, "looked_for"))
    return InputError(f"{source.called} is no SAE of a known format. Looked for: {looked}")

"""Zip archives as torch and numpy write them: where each member lies, checked before anything is read or unpacked."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from saebench.errors import InputError, first_line

_MAX_DIRECTORY = 2 << 20
"""Bytes of the list of members: more than ten thousand tensors."""
_SWELL, _SLACK = 16, 64 << 20
"""How many times its size, and how many bytes more, an archive may unpack to: published weights unpack to six times."""
_LOCAL = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_UTF8 = 1 << 11


class Member(NamedTuple):
    """One file in an archive."""

    offset: int
    """Where its bytes begin."""
    size: int
    """How many there are, unpacked."""


class PlainFile(io.FileIO):
    """A file open for reading that is a file: no folder, and no pipe or device, which may have no end.

    Args:
        path: The file; links are followed.
        limit: Bytes that are read at once at most; no limit if ``None``.

    Raises:
        InputError: It is something else, or cannot be read.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        try:
            super().__init__(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)))
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else first_line(error)
            raise InputError(f"{path} cannot be read: {said}") from None
        about = os.fstat(self.fileno())
        self.bytes, self._limit = about.st_size, limit
        self._same = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns)
        if not stat.S_ISREG(about.st_mode):
            self.close()
            raise InputError(f"{path} is no file but a folder, a pipe or a device; name the file itself")

    def read(self, size: int | None = -1) -> bytes:
        """Return ``size`` bytes, all that are left if it is negative or ``None``."""
        size = max(0, self.bytes - self.tell()) if size is None or size < 0 else size
        if self._limit is not None and size > self._limit:
            raise zipfile.BadZipFile(f"it wants {size} bytes read at once")
        return super().read(size)

    def check_unchanged(self, path: Path) -> None:
        """Raise ``InputError`` if what lies at ``path`` is not the same file, of the same size, as was opened.

        Asked right before and after a file is mapped: of a map that is longer than its file the rest cannot be read.
        """
        try:
            about = os.stat(path)
        except OSError as error:
            raise InputError(f"{path} vanished while it was read ({error.strerror}); try again when it is written") from None
        if (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns) != self._same:
            raise InputError(f"{path} changed while it was read; try again when it is written")


def is_archive(path: Path) -> bool:
    """Return whether it is a zip archive, from its first bytes and its end."""
    with PlainFile(path) as file:
        return file.read(4) == b"PK\x03\x04" and zipfile.is_zipfile(file)


def members(path: Path, *, compressed: bool) -> dict[str, Member]:
    """Return the members of an archive by name.

    Args:
        path: The archive.
        compressed: Whether members may be compressed; ``offset`` is then of little use.

    Raises:
        InputError: It is damaged, would unpack to much more than it is, or is like no archive that torch or numpy write.
    """
    with PlainFile(path, limit=_MAX_DIRECTORY) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
            found: dict[str, Member] = {}
            spans: list[tuple[int, int]] = []
            for info in infos:
                _check_name(info.filename, found)
                if info.flag_bits & _ENCRYPTED:
                    raise zipfile.BadZipFile(f"{info.filename!r} is encrypted")
                allowed = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) if compressed else (zipfile.ZIP_STORED,)
                if info.compress_type not in allowed:
                    raise zipfile.BadZipFile(f"{info.filename!r} is compressed, which torch.save never does")
                if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
                    raise zipfile.BadZipFile(f"{info.filename!r} has two sizes")
                start = _data(file, info)
                if start + info.compress_size > file.bytes:
                    raise zipfile.BadZipFile(f"{info.filename!r} is cut")
                spans.append((info.header_offset, start + info.compress_size))
                found[info.filename] = Member(start, info.file_size)
            spans.sort()
            if any(after < end for (_, end), (after, _) in pairwise(spans)):
                raise zipfile.BadZipFile("members overlap")
            total = sum(one.size for one in found.values())
            if total > _SWELL * file.bytes + _SLACK:
                raise zipfile.BadZipFile(f"it would unpack from {file.bytes} to {total} bytes; weights hardly compress")
        except Exception as error:  # zipfile raises many kinds for damaged archives
            raise InputError(f"{path} is not a whole archive ({first_line(error)}); fetch it again") from None
    return found


def _check_name(name: str, known: dict[str, Member]) -> None:
    if name in known:
        raise zipfile.BadZipFile(f"two members are called {name!r}")
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise zipfile.BadZipFile(f"a member is called {name!r}, which leads out of the archive")


def _data(file: PlainFile, info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin, if its own header says the same name as the archive's list."""
    file.seek(info.header_offset)
    magic, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    text = file.read(name).decode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    if magic != b"PK\x03\x04" or text != info.orig_filename:
        raise zipfile.BadZipFile(f"{info.filename!r} is listed, and something else lies there")
    return info.header_offset + _LOCAL.size + name + extra

"""Zip archives that unpack to far more than they are, or whose lists of members lie."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.sae.hostile import case, linear, plain, trained

_ZEROS = 1 << 20


def saved() -> dict[str, bytes]:
    """Return the members of an archive that torch wrote."""
    out = io.BytesIO()
    torch.save(linear(), out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return them as an archive again."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def zeros(megabytes: int) -> tuple[bytes, int]:
    """Return a deflated stream of so many megabytes of zeros, which compress a thousandfold, and its CRC."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    one = packer.compress(bytes(_ZEROS)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = packer.flush()
    crc = 0
    for _ in range(megabytes):
        crc = zlib.crc32(bytes(_ZEROS), crc)
    return one * megabytes + end, crc


def bomb(name: str, megabytes: int, start: bytes = b"") -> bytes:
    """Return an archive with one member that unpacks to so many megabytes."""
    stream, crc = zeros(megabytes)
    size = megabytes * _ZEROS
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 8, 0, 33, crc, len(stream), size, len(name), 0)
    data = local + name.encode() + stream
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 8, 0, 33, crc, len(stream), size, len(name), 0, 0, 0, 0, 0, 0
    )
    return data + entry + name.encode() + end(1, len(entry) + len(name), len(data))


def end(members: int, size: int, offset: int) -> bytes:
    """Return what an archive ends with."""
    return struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, members % 65536, members % 65536, size, offset, 0)


def changed(members: dict[str, bytes], change: Callable[[bytearray, int, int], None]) -> bytes:
    """Return an archive of them after ``change(data, local header, list entry)`` of the member ``…/data/0``."""
    data = bytearray(archive(members))
    name = next(name for name in members if name.endswith("/data/0")).encode()
    local = data.index(name) - 30
    change(data, local, data.index(name, data.index(b"PK\x01\x02")) - 46)
    return bytes(data)


def numpy(folder: Path, data: bytes | None = None) -> Path:
    """Write an SAE of Gemma Scope."""
    folder = folder / "gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71"
    folder.mkdir(parents=True)
    if data is None:
        arrays: Any = {key: one.numpy() for key, one in (plain() | {"threshold": plain()["b_enc"].abs()}).items()}
        np.savez(folder / "params.npz", **arrays)
    else:
        (folder / "params.npz").write_bytes(data)
    return folder


@case("torch: a compressed list of tensors of a gigabyte", "compressed")
def _(folder: Path) -> None:
    trained(folder, bomb("archive/data.pkl", 1024))


@case("torch: compressed numbers", "compressed")
def _(folder: Path) -> None:
    trained(folder, archive(saved(), zipfile.ZIP_DEFLATED))


@case("numpy: two gigabytes of zeros", "would unpack")
def _(folder: Path) -> Path:
    return numpy(folder, bomb("W_enc.npy", 2048))


@case("numpy: an archive in an archive", "is no array")
def _(folder: Path) -> Path:
    return numpy(folder, archive({"inner.npz": bomb("W_enc.npy", 16)}))


@case("numpy: members compressed in another way", "compressed")
def _(folder: Path) -> Path:
    numpy(folder)
    member = bytes(1 << 20)
    path = numpy(folder / "b", archive({"W_enc.npy": member}, zipfile.ZIP_BZIP2))
    return path


@case("a million members", "bytes read at once")
def _(folder: Path) -> None:
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    start = b"PK\x03\x04" + bytes(26)
    trained(folder, start + entry * 1_000_000 + end(1_000_000, len(entry) * 1_000_000, len(start)))


@case("members that are called alike", "two members are called")
def _(folder: Path) -> None:
    with zipfile.ZipFile(trained(folder) / "ae.pt", "a") as file:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.writestr("ae/data.pkl", b"\x80\x02}.")


@case("a member that leads out", "leads out of the archive")
def _(folder: Path) -> None:
    with zipfile.ZipFile(trained(folder) / "ae.pt", "a") as file:
        file.writestr("../../../escaped", b"x")


@case("a member with a root", "leads out of the archive")
def _(folder: Path) -> None:
    with zipfile.ZipFile(trained(folder) / "ae.pt", "a") as file:
        file.writestr("/etc/escaped", b"x")


@case("a member in another one", "overlap")
def _(folder: Path) -> None:
    members = saved()
    key = next(name for name in members if name.endswith("/data/0"))
    inner = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 4, 4, 5, 0) + b"inner" + b"data"
    members[key] = members[key][: -len(inner)] + inner
    data = archive(members)
    at = data.index(b"PK\x03\x04", data.index(key.encode()))
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 4, 4, 5, 0, 0, 0, 0, 0, at) + b"inner"
    start = data.index(b"PK\x01\x02")
    directory = data[start:-22] + entry
    trained(folder, data[:start] + directory + end(len(members) + 1, len(directory), start))


@case("a member that is listed elsewhere than it lies", "something else lies there")
def _(folder: Path) -> None:
    def move(data: bytearray, _: int, entry: int) -> None:
        data[entry + 42 : entry + 46] = struct.pack("<I", 0)

    trained(folder, changed(saved(), move))


@case("a member of two sizes", "two sizes")
def _(folder: Path) -> None:
    def grow(data: bytearray, _: int, entry: int) -> None:
        data[entry + 24 : entry + 28] = struct.pack("<I", 1 << 30)

    trained(folder, changed(saved(), grow))


@case("a member beyond the end", "is not a whole archive")
def _(folder: Path) -> None:
    def grow(data: bytearray, _: int, entry: int) -> None:
        data[entry + 20 : entry + 28] = struct.pack("<II", 1 << 30, 1 << 30)

    trained(folder, changed(saved(), grow))


@case("an encrypted member", "encrypted")
def _(folder: Path) -> None:
    def lock(data: bytearray, local: int, entry: int) -> None:
        data[entry + 8] |= 1
        data[local + 6] |= 1

    trained(folder, changed(saved(), lock))


@case("a list of members that begins before the file", "is not a whole archive")
def _(folder: Path) -> None:
    data = archive(saved())
    trained(folder, data[:-22] + end(len(saved()), len(data), 1 << 31))


@case("an archive with an archive in front", "ae.pt")
def _(folder: Path) -> None:
    first = bytearray(archive(saved()))
    trained(folder, bytes(first[:-22]) + archive({"x/data.pkl": b"\x80\x02}."}))


@case("no list of tensors", "without a data.pkl")
def _(folder: Path) -> None:
    trained(folder, archive({"archive/weights.bin": b"x" * 100}))


@case("two lists of tensors", "several lists of tensors")
def _(folder: Path) -> None:
    trained(folder, archive(saved() | {"other/data.pkl": b"\x80\x02}."}))


@case("numbers that are missing", "is missing")
def _(folder: Path) -> None:
    trained(folder, archive({name: data for name, data in saved().items() if not name.endswith("/data/0")}))


@case("numbers that are too few", "should have")
def _(folder: Path) -> None:
    trained(folder, archive({name: data[:-4] if name.endswith("/data/0") else data for name, data in saved().items()}))


@case("numbers that are turned", "not little-endian")
def _(folder: Path) -> None:
    trained(folder, archive({name: b"big" if name.endswith("/byteorder") else data for name, data in saved().items()}))


@case("a list of tensors of twenty megabytes", "too large for a list of tensors")
def _(folder: Path) -> None:
    trained(folder, archive({"archive/data.pkl": b"\x80\x02" + b"N0" * 10_000_000 + b"N."}))


@case("an empty archive", "ae.pt")
def _(folder: Path) -> None:
    trained(folder, end(0, 0, 0))


@case("an archive by its first bytes only", "not a whole torch file")
def _(folder: Path) -> None:
    trained(folder, b"PK\x03\x04" + bytes(200))

"""Torch files, the archives of today and the row of pickles of before torch 1.6: where their numbers lie, mapped or read.

Layouts: ``torch.save`` of torch 2 (``NAME/data.pkl``, ``NAME/data/KEY``, ``NAME/byteorder``) and ``_legacy_save`` (magic number,
protocol, system, content, keys, then each storage behind its number of entries).
"""

from __future__ import annotations

import bisect
import math
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from saebench.sae.reading.archives import Member, PlainFile, is_archive, members
from saebench.sae.reading.mapped import Maps
from saebench.sae.reading.stored import BYTES, Header, StoredTensor
from saebench.sae.reading.unpickle import MAX_PICKLE, Refused, Storage, View, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_ALIGNED = 16
_ALIASES = 16
_COPIES = 4
"""How many times its size a file may be read into memory: for tied weights, which each get numbers of their own."""
_REPEATED = 16 << 20
"""Bytes that all tensors together may take beyond what is stored of them: a bias may be one number, repeated."""


def read_torch(path: Path, stand_ins: Mapping[str, type], maps: Maps | None) -> Any:
    """Return what a torch file describes.

    Args:
        path: The file.
        stand_ins: As :func:`saebench.sae.reading.unpickle.read_pickle`.
        maps: Is told which tensors are mapped; ``None``: all are read into memory.

    Raises:
        Refused: It is damaged, or holds something else than plain data and tensors.
        InputError: It is no file, a damaged archive, or changed meanwhile.
    """
    return _read(path, stand_ins, lambda file, places, whole: _Tensors(path, file, places, maps if whole else None))


def look_torch(path: Path, stand_ins: Mapping[str, type]) -> Any:
    """Return what a torch file describes with a :class:`StoredTensor` in the place of each tensor; needs no torch.

    Args:
        path: The file.
        stand_ins: As :func:`read_torch`, whose errors this raises too.
    """
    return _read(path, stand_ins, lambda file, places, _: _Places(path, file, places))


def _read(path: Path, stand_ins: Mapping[str, type], maker: Callable[[PlainFile, Mapping[str, Member], bool], _Places]) -> Any:
    """Return what it describes.

    Args:
        path: The file.
        stand_ins: As :func:`read_torch`.
        maker: Gives what makes tensors, of the file, the places of its storages, and whether these may be mapped.
    """
    return (_read_archive if is_archive(path) else _read_legacy)(path, stand_ins, maker)


def _read_archive(path: Path, stand_ins: Mapping[str, type], maker: Callable[..., _Places]) -> Any:
    found = members(path, compressed=False)
    tops = [name.removesuffix("/data.pkl") for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tops) != 1:
        raise Refused("it is an archive without a data.pkl" if not tops else "it has several lists of tensors")
    top = tops[0]
    if f"{top}/constants.pkl" in found:
        raise Refused("it is a TorchScript program; save its state_dict() instead")
    if found[f"{top}/data.pkl"].size > MAX_PICKLE:
        raise Refused(f"its data.pkl is too large for a list of tensors ({found[f'{top}/data.pkl'].size} bytes)")
    with PlainFile(path) as file:
        order = found.get(f"{top}/byteorder")
        if order is not None and _bytes(file, order, 16) != b"little":
            raise Refused("its numbers are not little-endian")
        start = f"{top}/data/"
        places = {name.removeprefix(start): one for name, one in found.items() if name.startswith(start)}
        make = maker(file, places, True).make
        made = read_pickle(BytesIO(_bytes(file, found[f"{top}/data.pkl"], MAX_PICKLE)), make, stand_ins)
        file.check_unchanged(path)
    return made


def _read_legacy(path: Path, stand_ins: Mapping[str, type], maker: Callable[..., _Places]) -> Any:
    with PlainFile(path) as file:
        stream = BytesIO(file.read(min(file.bytes, MAX_PICKLE)))
        wanted: dict[str, Storage] = {}

        def note(view: View) -> object:
            wanted.setdefault(view.storage.key, view.storage)
            return object()

        if read_pickle(stream, note, stand_ins) != _MAGIC or read_pickle(stream, note) != _PROTOCOL:
            raise Refused("it does not begin as torch.save would")
        system = read_pickle(stream, note)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("its numbers are not little-endian")
        content = stream.tell()
        read_pickle(stream, note, stand_ins)
        keys = read_pickle(stream, note)
        places: dict[str, Member] = {}
        at = stream.tell()
        for key in keys if isinstance(keys, list) else ():
            if not isinstance(key, str) or key not in wanted or key in places:
                raise Refused("it holds numbers that belong to no tensor")
            size = wanted[key].whole
            file.seek(at)
            count = file.read(8)
            if len(count) < 8 or struct.unpack("<q", count)[0] * BYTES[wanted[key].dtype] != size or at + 8 + size > file.bytes:
                raise Refused(f"storage {key!r} is cut, or has another size than the list of tensors says")
            places[key] = Member(at + 8, size)
            at += 8 + size
        stream.seek(content)
        made = read_pickle(stream, maker(file, places, False).make, stand_ins)
        file.check_unchanged(path)
    return made


def _bytes(file: PlainFile, member: Member, limit: int) -> bytes:
    file.seek(member.offset)
    return file.read(min(member.size, limit))


class _Places:
    """Finds tensors in the file after what the pickle says of them, and leaves them there."""

    def __init__(self, path: Path, file: PlainFile, places: Mapping[str, Member]) -> None:
        self.path, self.file, self.places = path, file, places
        self.taken: dict[str, list[list[tuple[int, int]]]] = defaultdict(list)
        self.repeated = _REPEATED

    def make(self, view: View) -> Any:
        """Return the tensor, or what stands for it."""
        place, _, _ = self.find(view)
        at = place.offset + view.start * BYTES[view.dtype]
        return StoredTensor(path=self.path, offset=at, header=Header(view.size, view.dtype), stride=view.stride)

    def find(self, view: View) -> tuple[Member, int, bool]:
        """Return (its storage, the first set of tensors that have none of its bytes, whether it repeats numbers)."""
        key, item = view.storage.key, BYTES[view.dtype]
        place = self.places.get(key)
        if place is None or place.size != view.storage.whole:
            there = "is missing" if place is None else f"has {place.size} bytes and should have {view.storage.whole}"
            raise Refused(f"storage {key[:40]!r} {there}")
        layer = self._layer(key, view.start * item, (view.start + view.extent) * item)
        repeats = math.prod(view.size) > view.extent
        self.repeated -= math.prod(view.size) * item if repeats else 0
        if self.repeated < 0:
            raise Refused(f"a tensor of shape {list(view.size)} repeats {view.extent} stored numbers; save it whole")
        return place, layer, repeats

    def _layer(self, key: str, start: int, end: int) -> int:
        """Return the first set of tensors that have none of these bytes, and add them to it."""
        if start == end:
            return 0
        for layer, spans in enumerate(self.taken[key]):
            at = bisect.bisect(spans, (start, end))
            if (at == 0 or spans[at - 1][1] <= start) and (at == len(spans) or end <= spans[at][0]):
                spans.insert(at, (start, end))
                return layer
        if len(self.taken[key]) >= _ALIASES:
            raise Refused(f"more than {_ALIASES} tensors lie in the same bytes")
        self.taken[key].append([(start, end)])
        return len(self.taken[key]) - 1


class _Tensors(_Places):
    """Makes tensors of what the pickle says of them.

    Two tensors that lie in the same bytes (tied weights) each get them for themselves, from a map of its own, so that scales
    may be folded into one of them in place.
    """

    def __init__(self, path: Path, file: PlainFile, places: Mapping[str, Member], maps: Maps | None) -> None:
        super().__init__(path, file, places)
        self.maps = maps
        self.bases: dict[int, Any] = {}
        self.storages: dict[tuple[str, int], Any] = {}
        self.unread = _COPIES * file.bytes

    def make(self, view: View) -> torch.Tensor:
        """Return the tensor."""
        place, layer, repeats = self.find(view)
        tensor = torch.empty(0, dtype=getattr(torch, view.dtype))
        tensor.set_(self._storage(view.storage.key, layer, place), view.start, view.size, view.stride)
        return tensor.contiguous() if repeats else tensor

    def _storage(self, key: str, layer: int, place: Member) -> Any:
        if (key, layer) not in self.storages:
            mapped = self.maps is not None and place.size > 0 and place.offset % _ALIGNED == 0
            found = self._base(layer)[place.offset : place.offset + place.size] if mapped else self._read(place)
            self.storages[key, layer] = found
            if mapped and self.maps is not None:
                self.maps.add([torch.empty(0, dtype=torch.uint8).set_(found)])
        return self.storages[key, layer]

    def _base(self, layer: int) -> Any:
        if layer not in self.bases:
            self.file.check_unchanged(self.path)
            self.bases[layer] = torch.UntypedStorage.from_file(str(self.path), False, self.file.bytes)
        return self.bases[layer]

    def _read(self, place: Member) -> torch.UntypedStorage:
        self.unread -= place.size
        if self.unread < 0:
            raise Refused("too many tensors lie in the same bytes")
        out = torch.empty(place.size, dtype=torch.uint8)
        left: Any = memoryview(out.numpy().data)
        self.file.seek(place.offset)
        while left:
            n = self.file.readinto(left)
            if not n:
                raise Refused("it ends before its numbers do")
            left = left[n:]
        return out.untyped_storage()

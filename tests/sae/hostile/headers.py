"""Headers of safetensors files and of numpy arrays that lie."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.sae.formats.cases import D, S
from tests.sae.hostile import canary, case, lens
from tests.sae.hostile.archives import archive, numpy

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def headed(header: bytes | dict[str, Any], data: bytes = bytes(8), length: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changed: Any) -> bytes:
    """Return a file of one tensor, with something changed in its header."""
    return headed({"W_enc": F32 | changed})


HEADERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "less than a length": (b"\x10\x00\x00", "3 bytes"),
    "a length and nothing else": (struct.pack("<Q", 0), "Expecting value"),
    "a length of an exabyte": (headed(b"{}", length=1 << 60), "header claims"),
    "a length of 2**64 - 1": (headed(b"{}", length=(1 << 64) - 1), "header claims"),
    "white space": (headed(b" " * 4096), "Expecting value"),
    "three megabytes of white space": (headed(b"{" + b" " * (3 << 20) + b"}"), "too many for an SAE"),
    "a list": (headed(b"[]"), "no JSON object"),
    "bytes that are no text": (headed(b'{"\xff\xfe": 1}'), "codec can't decode"),
    "UTF-16": (headed('{"a": 1}'.encode("utf-16")), "codec can't decode"),
    "a hundred thousand lists in each other": (headed(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "recursion"),
    "a number of a million digits": (headed(b'{"a": ' + b"9" * 1_000_000 + b"}"), "digits"),
    "a tensor that is a number": (headed({"W_enc": 5}), "not a whole safetensors file"),
    "no shape": (headed({"W_enc": {"dtype": "F32", "data_offsets": [0, 8]}}), "shape"),
    "one offset": (tensor(data_offsets=[8]), "not a whole safetensors file"),
    "offsets that are turned": (tensor(data_offsets=[8, 0]), "impossible shape or place"),
    "an offset below 0": (tensor(data_offsets=[-8, 0]), "impossible shape or place"),
    "an offset that is text": (tensor(data_offsets=["0", "8"]), "impossible shape or place"),
    "an offset beyond the end": (tensor(shape=[4], data_offsets=[0, 16]), "the tensors need"),
    "a shape below 0": (tensor(shape=[-2]), "impossible shape or place"),
    "a shape of true": (tensor(shape=[True, 2]), "impossible shape or place"),
    "a shape of halves": (tensor(shape=[2.0]), "impossible shape or place"),
    "a shape of 2**63": (tensor(shape=[1 << 63]), "impossible shape or place"),
    "a shape whose product overflows to 2": (tensor(shape=[(1 << 32) + 1, 1 << 32, 2]), "does not fit"),
    "a shape of ten thousand dimensions": (tensor(shape=[1] * 10_000 + [2]), "impossible shape or place"),
    "a dtype that nobody knows": (tensor(dtype="F31"), "unknown dtype"),
    "a dtype that is a list": (tensor(dtype=["F32"]), "unknown dtype"),
    "tensors that overlap": (headed({"a": F32, "b": F32}), "overlap or leave gaps"),
    "a gap": (headed({"a": F32, "b": F32 | {"data_offsets": [16, 24]}}, bytes(24)), "overlap or leave gaps"),
    "bytes behind the last tensor": (headed({"a": F32}, bytes(9)), "the tensors need"),
    "a name twice": (headed(b'{"a": ' + json.dumps(F32).encode() + b', "a": ' + json.dumps(F32).encode() + b"}"), "twice"),
    "a name with half of a character": (headed({"W_enc\ud800": F32}), "surrogate"),
    "metadata that are no texts": (headed({"__metadata__": {"a": [1]}, "a": F32}), "sae_weights.safetensors"),
    "a name of a megabyte that breaks the line": (headed({"a\n\x1b[2J" * 100_000: F32}), "lacks the tensor"),
    "a tensor without numbers": (headed({"W_enc": F32 | {"shape": [0, S], "data_offsets": [0, 0]}}, b""), "sae_weights"),
}  # fmt: skip
for name, (data, said) in HEADERS.items():

    @case(f"safetensors: {name}", said)
    def _(folder: Path, data: bytes = data) -> None:
        lens(folder, data)


def npy(header: Any, data: bytes = bytes(8), version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    """Return a numpy archive of one array with this header."""
    text = (
        header if isinstance(header, str) else repr({"descr": "<f4", "fortran_order": False, "shape": (2,)} | header)
    ).encode()
    n = len(text) if length is None else length
    size = struct.pack("<H", n) if version[0] == 1 else struct.pack("<I", n)
    return archive({"W_enc.npy": b"\x93NUMPY" + version + size + text + data})


def runs(folder: Path) -> str:
    return f"__import__('os').system({canary(folder)!r})"


ARRAYS: dict[str, tuple[Any, str]] = {
    "a shape of a petabyte": ({"shape": (1 << 47,)}, "does not fit"),
    "a shape of 2**63": ({"shape": (1 << 63,)}, "impossible shape"),
    "a shape below 0": ({"shape": (-2,)}, "impossible shape"),
    "a shape whose product overflows": ({"shape": ((1 << 32) + 1, 1 << 32)}, "does not fit"),
    "objects": ({"descr": "|O"}, "pickled objects"),
    "objects in a record": ({"descr": [("a", "|O"), ("b", "<f4")]}, "pickled objects"),
    "a record": ({"descr": [("a", "<f4")]}, "not plain numbers"),
    "a record of a billion numbers": ({"descr": [("a", "<f4", (1 << 30,))]}, "params.npz"),
    "texts": ({"descr": "<U2", "shape": (1,)}, "not plain numbers"),
    "texts without letters": ({"descr": "|S0", "shape": (1 << 40,)}, "params.npz"),
    "big-endian numbers": ({"descr": ">f4"}, "not plain numbers"),
    "a header that is no dictionary": ("[1, 2]", "params.npz"),
    "a header of brackets": ("(" * 5000, "params.npz"),
}  # fmt: skip
for name, (header, said) in ARRAYS.items():

    @case(f"npy: {name}", said)
    def _(folder: Path, header: Any = header) -> Path:
        return numpy(folder, npy(header))


@case("npy: a header that runs something", "params.npz")
def _(folder: Path) -> Path:
    return numpy(folder, npy(runs(folder)))


@case("npy: a header of four gigabytes", "params.npz")
def _(folder: Path) -> Path:
    return numpy(folder, npy({}, version=b"\x02\x00", length=(1 << 32) - 1))


@case("npy: a version of the future", "version")
def _(folder: Path) -> Path:
    return numpy(folder, npy({}, version=b"\x09\x00"))


@case("npy: an array that is cut", "does not fit")
def _(folder: Path) -> Path:
    out = io.BytesIO()
    np.save(out, np.zeros((D, S), np.float32))
    return numpy(folder, archive({"W_enc.npy": out.getvalue()[:-100], "W_dec.npy": out.getvalue()}))


@case("npy: bytes that are damaged", "not a whole numpy archive")
def _(folder: Path) -> Path:
    out = io.BytesIO()
    arrays: Any = {key: np.ones((D, S), np.float32) for key in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
    np.savez(out, **arrays)
    data = bytearray(out.getvalue())
    with zipfile.ZipFile(out) as file:
        at = file.infolist()[0].header_offset
    data[at + 40 : at + 60] = bytes(20)
    return numpy(folder, bytes(data))

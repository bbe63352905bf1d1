"""Tensors whose shapes, strides and storages say more than the file holds, and tensors of kinds that are not read."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from tests.sae.formats.cases import D, S
from tests.sae.hostile import case, lens, linear, plain, trained
from tests.sae.hostile.code import text, zipped

_STORED = 4 * D * S


def whole(value: int) -> bytes:
    """Return the opcode that pushes a number of up to 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def tensor(
    size: Sequence[int] = (S, D), stride: Sequence[int] = (D, 1), *, offset: int = 0, numel: int = D * S,
    storage: bytes = b"torch\nFloatStorage", key: str = "0",
) -> bytes:  # fmt: skip
    """Return the instructions that make a tensor."""
    place = b"(" + text("storage") + b"c" + storage + b"\n" + text(key) + text("cpu") + whole(numel) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + whole(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89"
        + hooks
        + b"tR"
    )


def lying(folder: Path, made: bytes) -> None:
    """Write an SAE whose encoder is made so, in an archive with numbers for one honest encoder."""
    trained(folder, zipped(b"\x80\x02}" + text("encoder.weight") + made + b"s.", {"data/0": bytes(_STORED)}))


VIEWS: dict[str, tuple[bytes, str]] = {
    "a terabyte of numbers": (tensor((1 << 20, 1 << 18), (1 << 18, 1)), "reaches beyond"),
    "one number more than there is": (tensor((D * S + 1,), (1,)), "reaches beyond"),
    "an offset beyond the end": (tensor(offset=1), "reaches beyond"),
    "an offset below 0": (tensor(offset=-1), "impossible shape or strides"),
    "an offset of 2**64": (tensor(offset=1 << 64), "impossible shape or strides"),
    "a stride below 0": (tensor(stride=(-D, 1)), "impossible shape or strides"),
    "a stride of 2**40": (tensor(stride=(1 << 40, 1)), "reaches beyond"),
    "a stride too few": (tensor(stride=(D,)), "impossible shape or strides"),
    "a side below 0": (tensor(size=(-S, D)), "impossible shape or strides"),
    "a thousand dimensions": (tensor((1,) * 1000, (1,) * 1000), "impossible shape or strides"),
    "one number, a trillion times": (tensor((1 << 20, 1 << 20), (0, 0)), "repeats 1 stored numbers"),
    "one row, a billion times": (tensor((1 << 30, D), (0, 1)), f"repeats {D} stored numbers"),
    "sides whose product overflows": (tensor(((1 << 32) + 1, 1 << 32), (0, 0)), "repeats 1 stored numbers"),
    "a storage that claims a terabyte": (tensor(numel=1 << 38), "should have"),
    "a storage that claims its neighbours": (tensor(numel=D * S + 64), "should have"),
    "a storage that is not there": (tensor(key="1"), "is missing"),
    "a storage elsewhere": (tensor(key="../../../../etc/passwd"), "is missing"),
    "a storage of another kind": (tensor(storage=b"torch\nDoubleStorage"), "should have"),
    "a storage of a kind that nobody knows": (tensor(storage=b"torch\nEvilStorage"), "torch.EvilStorage"),
    "a storage of quantised numbers": (tensor(storage=b"torch\nQInt8Storage"), "quantised"),
    "a storage that is a tensor": (b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor() + whole(0) + b"))\x89NtR", "no storage"),
    "attributes of a tensor": (tensor() + b"}" + text("data") + b"K\x01sb", "attributes of plain data"),
    "no numbers": (tensor((0, D), (D, 1)), "is empty"),
    "one number in the place of a matrix": (tensor((), ()), "should be a matrix"),
}  # fmt: skip
for name, (made, said) in VIEWS.items():

    @case(f"torch: {name}", said)
    def _(folder: Path, made: bytes = made) -> None:
        lying(folder, made)


@case("torch: more tensors in the same bytes than anybody ties", "lie in the same bytes")
def _(folder: Path) -> None:
    made = b"".join(text(str(i)) + tensor() for i in range(20))
    trained(folder, zipped(b"\x80\x02}(" + made + b"u.", {"data/0": bytes(_STORED)}))


@case("torch: a hundred thousand tensors", "tensors")
def _(folder: Path) -> None:
    call = b"ctorch._utils\n_rebuild_tensor_v2\nq\x00" + tensor((1,), (1,)).split(b"_v2\n", 1)[1][:-1] + b"q\x01R0"
    trained(folder, zipped(b"\x80\x02}" + call + b"h\x00h\x01R0" * 100_000 + b".", {"data/0": bytes(_STORED)}))


KINDS: dict[str, tuple[torch.Tensor, str]] = {
    "sparse": (torch.eye(S, D).to_sparse(), "sparse"),
    "compressed sparse": (torch.eye(S, D).to_sparse_csr(), "sparse"),
    "quantised": (torch.quantize_per_tensor(torch.ones(S, D), 0.1, 0, torch.qint8), "quantised"),
    "complex": (torch.ones(S, D, dtype=torch.complex64), "complex64"),
    "of whole numbers": (torch.ones(S, D, dtype=torch.int32), "int32"),
    "of truth values": (torch.ones(S, D, dtype=torch.bool), "bool"),
    "of eight-bit floats": (torch.ones(S, D).to(torch.float8_e4m3fn), "float8_e4m3fn"),
    "without storage": (torch.ones(S, D, device="meta"), "meta"),
    "with NaN": (torch.full((S, D), float("nan")), "NaN or infinite"),
    "with one infinity": (torch.ones(S, D).index_put_((torch.tensor(3), torch.tensor(3)), torch.tensor(float("inf"))), "NaN or"),
}  # fmt: skip
for name, (value, said) in KINDS.items():

    @case(f"torch: a tensor {name}", said)
    def _(folder: Path, value: torch.Tensor = value) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trained(folder, linear() | {"encoder.weight": value})


@case("torch: a transposed encoder", "ae.pt")
def _(folder: Path) -> None:
    trained(folder, linear() | {"encoder.weight": linear()["decoder.weight"]})


@case("torch: a bare tensor", "expected a dictionary")
def _(folder: Path) -> None:
    trained(folder, torch.ones(S, D))


def legacy(folder: Path) -> bytearray:
    """Write an SAE as torch did before 1.6 and return its bytes."""
    trained(folder)
    torch.save(linear(), folder / "ae.pt", _use_new_zipfile_serialization=False)
    return bytearray((folder / "ae.pt").read_bytes())


@case("legacy torch: a storage of another size than it says", "another size")
def _(folder: Path) -> None:
    data = legacy(folder)
    at = data.rindex(struct.pack("<q", D * S))
    data[at : at + 8] = struct.pack("<q", 1 << 40)
    trained(folder, bytes(data))


@case("legacy torch: numbers that are cut", "is cut")
def _(folder: Path) -> None:
    trained(folder, bytes(legacy(folder)[:-100]))


@case("legacy torch: a terabyte that is claimed", "is cut")
def _(folder: Path) -> None:
    data = legacy(folder)
    whole_size = b"M" + struct.pack("<H", D * S)
    assert whole_size in data
    trained(folder, bytes(data.replace(whole_size, b"\x8a\x06" + struct.pack("<Q", 1 << 38)[:6])))


@case("safetensors: NaN", "NaN or infinite")
def _(folder: Path) -> None:
    lens(folder, save(plain() | {"b_dec": torch.full((D,), float("nan"))}))


@case("safetensors: whole numbers", "int64")
def _(folder: Path) -> None:
    lens(folder, save(plain() | {"b_dec": torch.ones(D, dtype=torch.int64)}))


@case("safetensors: eight-bit floats", "float8_e5m2")
def _(folder: Path) -> None:
    lens(folder, save(plain() | {"W_dec": torch.ones(S, D).to(torch.float8_e5m2)}))

"""Pickles that run something, or would be costly to read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.sae.hostile import canary, case, linear, trained


class Calls:
    """Unpickled, it calls ``function(*args)``."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def text(value: str) -> bytes:
    """Return the opcode that pushes a text."""
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def zipped(pkl: bytes, members: dict[str, bytes] | None = None) -> bytes:
    """Return an archive as torch writes it, with this list of tensors."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in ({"data.pkl": pkl, "byteorder": b"little", "version": b"3\n"} | (members or {})).items():
            archive.writestr(f"archive/{name}", data)
    return out.getvalue()


@case("reduce: os.system in an archive", "posix.system", "nothing was executed")
def _(folder: Path) -> None:
    trained(folder, linear() | {"x": Calls(os.system, canary(folder))})


@case("reduce: os.system deep in lists", "posix.system")
def _(folder: Path) -> None:
    trained(folder, linear() | {"x": [{"y": ({"z": [Calls(os.system, canary(folder))]},)}]})


@case("reduce: eval in a legacy file", "builtins.eval")
def _(folder: Path) -> None:
    trained(folder)
    code = f"__import__('os').system({canary(folder)!r})"
    torch.save(linear() | {"x": Calls(eval, code)}, folder / "ae.pt", _use_new_zipfile_serialization=False)


@case("reduce: exec in a plain pickle", "builtins.exec")
def _(folder: Path) -> None:
    trained(folder, pickle.dumps(Calls(exec, f"import os; os.system({canary(folder)!r})")))


@case("reduce: before the magic number of a legacy file", "posix.system")
def _(folder: Path) -> None:
    trained(folder, pickle.dumps(Calls(os.system, canary(folder)), 2) + b"rest")


@case("reduce: as a key of a dictionary", "posix.system")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02}(cposix\nsystem\n(" + text(canary(folder)) + b"tRK\x01u."))


@case("reduce: in the settings of a tensor", "posix.system")
def _(folder: Path) -> None:
    call = b"cposix\nsystem\n(" + text(canary(folder)) + b"tR"
    trained(folder, zipped(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((" + call + b"ttR."))


@case("reduce: a tensor in bytes", "torch.storage._load_from_bytes")
def _(folder: Path) -> None:
    inner = io.BytesIO()
    torch.save(Calls(os.system, canary(folder)), inner)
    trained(folder, zipped(pickle.dumps(Calls(torch.storage._load_from_bytes, inner.getvalue()), 2)))


@case("STACK_GLOBAL: names from the memo", "posix.system")
def _(folder: Path) -> None:
    names = text("system") + pickle.MEMOIZE + text("posix") + pickle.MEMOIZE + b"h\x01h\x00"
    trained(folder, zipped(b"\x80\x04" + names + pickle.STACK_GLOBAL + text(canary(folder)) + b"\x85R."))


@case("STACK_GLOBAL: a dotted way to os", "torch.serialization.os.system")
def _(folder: Path) -> None:
    call = text("torch.serialization") + text("os.system") + pickle.STACK_GLOBAL + text(canary(folder)) + b"\x85R."
    trained(folder, zipped(b"\x80\x04" + call))


@case("STACK_GLOBAL: names that are no text", "an import without a name")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x04K\x01K\x02" + pickle.STACK_GLOBAL + b"."))


@case("INST", "posix.system")
def _(folder: Path) -> None:
    trained(folder, zipped(b"(S'" + canary(folder).replace("'", '"').encode() + b"'\niposix\nsystem\n."))


@case("OBJ", "posix.system")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02(cposix\nsystem\n" + text(canary(folder)) + b"o."))


@case("NEWOBJ: a process", "subprocess.Popen")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02csubprocess\nPopen\n" + text(canary(folder)) + b"\x85\x81."))


@case("NEWOBJ: a harmless function", "object of no class")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02ctorch\ndevice\n" + text("cpu") + b"\x85\x81."))


@case("BUILD: attributes of a dictionary", "attributes of plain data")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02}}(" + text("__class__") + b"K\x01ubs."))


@case("EXT1", "copyreg.extension 7")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02\x82\x07."))


@case("persistent id: a module with its source", "no storage")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02(" + text("module") + b"ccollections\nOrderedDict\n" + text("a") + text("b") + b"NtQ."))


@case("persistent id: text", "PERSID")
def _(folder: Path) -> None:
    trained(folder, zipped(b"Pstorage\n."))


@case("a class that only looks like the library's", "sae_trainings.config.Config")
def _(folder: Path) -> Path:
    trained(folder, zipped(b"\x80\x02csae_trainings.config\nConfig\n)\x81."))
    (folder / "ae.pt").rename(folder / "final_sparse_autoencoder_gpt2-small_blocks.8.hook_resid_pre_24576.pt")
    return folder


@case("a class whose name breaks the line", "evil\\nname")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x04" + text("evil\nname") + text("x\x1b[2J") + pickle.STACK_GLOBAL + b")R."))


@case("a whole module", "torch.nn.modules.linear.Linear")
def _(folder: Path) -> None:
    trained(folder, torch.nn.Linear(3, 4))


@case("TorchScript", "TorchScript")
def _(folder: Path) -> None:
    trained(folder, zipped(pickle.dumps({}, 2), {"constants.pkl": b"\x80\x02).", "code/x.py": b"import os"}))


@case("a tar archive of 2016", "not a whole torch file")
def _(folder: Path) -> None:
    trained(folder)
    with tarfile.open(folder / "ae.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle", "../../escaped"):
            data = pickle.dumps(Calls(os.system, canary(folder)), 2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@case("objects in a numpy archive", "pickled objects")
def _(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    bomb = np.empty(1, dtype=object)
    bomb[0] = Calls(os.system, canary(folder))
    np.savez(folder / "params.npz", W_enc=bomb, W_dec=np.zeros((3, 4)))


CALLS = {
    "bytearray of a terabyte": b"c__builtin__\nbytearray\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR",
    "tensor of a terabyte": b"ctorch\nTensor\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR",
    "storage of a terabyte": b"ctorch\nFloatStorage\n(\x8a\x06\x00\x00\x00\x00\x00\x01tR",
    "codec": b"c_codecs\nencode\n(" + text("x") + text("zlib") + b"tR",
    "set of lists": b"c__builtin__\nset\n(](]eatR",
    "shape of texts": b"ctorch\nSize\n(](" + text("x") + b"etR",
    "device of a number": b"ctorch\ndevice\n(K\x01tR",
}
for name, call in CALLS.items():

    @case(f"a harmless function made harmful: {name}", "ae.pt")
    def _(folder: Path, call: bytes = call) -> None:
        trained(folder, zipped(b"\x80\x02" + call + b"."))


@case("ten million instructions", "too many for a list of tensors")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02" + b"N0" * 5_000_000 + b"N."))


@case("a megabyte of text encoded over and over", "steps")
def _(folder: Path) -> None:
    call = b"c_codecs\nencode\nq\x00" + text("a" * 1_000_000) + text("latin1") + b"\x86q\x01R0"
    trained(folder, zipped(b"\x80\x02]" + call + b"h\x00h\x01R0" * 50_000 + b"."))


@case("lists of lists of lists, each a thousand times", "expected a dictionary")
def _(folder: Path) -> None:
    layers = b"".join(b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 999 + b"eq" + bytes([i + 1]) for i in range(8))
    trained(folder, zipped(b"\x80\x02]q\x00" + layers + b"."))


@case("a list fifty thousand deep", "expected a dictionary")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02" + b"(" * 50_000 + b"N" + b"l" * 50_000 + b"."))


@case("a key that is a tuple twenty thousand deep", "absurd key")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02}N" + b"\x85" * 20_000 + b"Ns."))


@case("keys made to collide", "keys that are no text")
def _(folder: Path) -> None:
    keys = b"".join(b"\x8a\x08" + struct.pack("<q", (i << 40) % (1 << 61)) + b"N" for i in range(20_000))
    trained(folder, zipped(b"\x80\x02}(" + keys + b"u."))


@case("a number of a million digits", "absurdly large number")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20) + b"."))


@case("a text of four gigabytes that is not there", "pickle is damaged")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02X\xff\xff\xff\xffshort"))


@case("a text with half of a character", "UnicodeEncodeError")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02}X\x03\x00\x00\x00\xed\xa0\x80Ns."))


@case("a memo of two thousand million entries", "expected a dictionary")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02Nr\xff\xff\xff\x7f."))


@case("a dictionary that holds itself", "lacks the tensor")
def _(folder: Path) -> None:
    trained(folder, zipped(b"\x80\x02}q\x00" + text("me") + b"h\x00s."))


@case("ten thousand dictionaries that are one", "ae.pt")
def _(folder: Path) -> None:
    inner = b"}q\x00(" + b"".join(text(str(i)) + b"N" for i in range(2000)) + b"u0"
    outer = b"".join(text(str(i)) + b"h\x00" for i in range(10_000))
    trained(folder, zipped(b"\x80\x02" + inner + b"}(" + outer + b"u."))

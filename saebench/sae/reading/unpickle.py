"""A pickle read as a list of instructions, by an interpreter of its own: it makes plain data and tensors, and nothing else.

``torch.load(weights_only=True)`` runs no foreign code either, but believes what a file says of itself: it allocates what is
claimed, and a mapped storage that claims to be longer than it is reads on into what lies behind it. Here every tensor is held
against what is stored, and the work is bounded: instructions, tensors and copies are counted, keys of dictionaries are flat.
"""

from __future__ import annotations

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

from saebench.errors import InputError
from saebench.sae.reading.pickle_parts import Dtype, Foreign, Function, Kind, Odd, Refused, Storage, View, full_name, plain_name
from saebench.sae.reading.stored import BYTES

MAX_PICKLE = 16 << 20
"""Bytes of a list of tensors."""
STEPS = 200_000
"""Instructions in one."""
_TENSORS = 20_000
_BITS = 1024
_DIMENSIONS = 8
_FLAT_KEY = 8
_ODD_KEYS = 10_000


def read_pickle(stream: BytesIO, make: Callable[[View], Any], stand_ins: Mapping[str, type] | None = None) -> Any:
    """Return what the next pickle of ``stream`` describes; the stream is left behind it.

    Args:
        stream: Bytes in memory.
        make: Makes a tensor of its description.
        stand_ins: By ``module.name``: classes without any effect, which take the place of the file's.

    Raises:
        Foreign: It names another class or function.
        Refused: It is damaged, too long, or holds what SAEs are not made of.
    """
    machine = _Machine(make, stand_ins or {})
    try:
        return machine.run(stream)
    except (Refused, InputError):
        raise
    except Exception as error:  # a damaged pickle can raise any kind
        raise Refused(f"its pickle is damaged: {type(error).__name__}") from None


class _Machine:
    def __init__(self, make: Callable[[View], Any], stand_ins: Mapping[str, type]) -> None:
        self.make, self.stand_ins = make, stand_ins
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.made: dict[int, tuple[Any, View]] = {}
        self.steps, self.odd_keys = STEPS, _ODD_KEYS

    def run(self, stream: BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            self.steps -= 1
            if self.steps < 0:
                self.spend(0)
            if opcode.name == "STOP":
                return self.stack.pop()
            do = _OPS.get(opcode.name)
            if do is None:
                raise Refused(f"its pickle uses {opcode.name}, which torch.save does not")
            do(self, argument)
        raise Refused("its pickle is cut")

    def spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise Refused(f"its pickle has more than {STEPS} steps, too many for a list of tensors")

    def push(self, value: Any) -> None:
        if type(value) is int and value.bit_length() > _BITS:
            raise Refused("it holds an absurdly large number")
        if type(value) is str:
            value.encode()  # halves of a character, which pickles allow, cannot be written anywhere
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple_of(self, n: int) -> None:
        items = self.stack[len(self.stack) - n :]
        if len(items) < n:
            raise IndexError
        del self.stack[len(self.stack) - n :]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("it fills something that is no list")
        self.stack[-1].extend(items)

    def add(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set:
            raise Refused("it fills something that is no set")
        self.stack[-1].update(self.key(item) for item in items)

    def set(self, items: list[Any], into: Any = None) -> None:
        into = into if into is not None else self.stack[-1]
        if type(into) not in (dict, OrderedDict) or len(items) % 2:
            raise Refused("it fills something that is no dictionary")
        into.update((self.key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def key(self, key: Any) -> Any:
        """Return a key that can be hashed in no time: texts, numbers and short tuples of them."""
        parts = key if type(key) is tuple else (key,)
        if len(parts) > _FLAT_KEY or not all(isinstance(p, str | bytes | int | float | None) for p in parts):
            raise Refused("it has an absurd key")
        self.odd_keys -= not isinstance(key, str)
        if self.odd_keys < 0:
            raise Refused("it has too many keys that are no text")
        return key

    def get(self, at: Any) -> None:
        """Fetch what was remembered; a tensor is made anew, so that no two names share one that may be changed in place."""
        value = self.memo[int(at)]
        if id(value) in self.made:
            value = self.tensor(self.made[id(value)][1])
        self.stack.append(value)

    def put(self, at: Any) -> None:
        self.memo[int(at)] = self.stack[-1]

    def name(self, module: str, attribute: str) -> None:
        full = full_name(module, attribute)
        found = plain_name(full)
        found = self.stand_ins.get(full) if found is None else found
        if found is None:
            raise Foreign(full)
        if isinstance(found, Odd):
            raise Refused(f"it holds {found.kind} tensor; save plain ones")
        self.stack.append(found)

    def global_(self, argument: str) -> None:
        module, _, attribute = argument.partition(" ")
        self.name(module, attribute)

    def stack_global(self, _: Any) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Foreign("an import without a name")
        self.name(module, attribute)

    def instance(self, argument: str) -> None:
        raise Foreign(argument.replace(" ", ".", 1))

    def extension(self, argument: Any) -> None:
        raise Foreign(f"copyreg.extension {argument}")

    def new(self, _: Any) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        if isinstance(kind, type) and isinstance(args, tuple):
            self.stack.append(kind.__new__(kind, *args))
        else:
            raise Refused("it makes an object of no class")

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(args, tuple):
            raise Refused("it calls something without arguments")
        if isinstance(function, Function):
            self.stack.append(_CALLS[function.name](self, *args))
        elif isinstance(function, type):
            self.stack.append(function(*args))
        else:
            raise Refused("it calls something that is no function")

    def build(self, _: Any) -> None:
        state, value = self.stack.pop(), self.stack[-1]
        if type(value) in self.stand_ins.values():
            value.__setstate__(state)
        elif type(value) is not OrderedDict:  # whose attributes, the versions of a module's parts, are of no use
            raise Refused("it sets attributes of plain data")

    def persistent(self, _: Any) -> None:
        found = self.stack.pop()
        if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] not in ("storage", b"storage"):
            raise Refused("it refers to something that is no storage")
        kind, key, numel, view = found[1], found[2], found[4], found[5] if len(found) == 6 else None
        if not isinstance(kind, Kind) or not isinstance(key, str) or not _count(numel):
            raise Refused("it refers to an impossible storage")
        start, whole = 0, numel * BYTES[kind.dtype]
        if view is not None:  # files of 2017: a storage inside another one
            _, start, inner = view
            if not _count(start) or not _count(inner) or start + inner > numel:
                raise Refused("a storage lies beyond the one that it is a part of")
            numel = inner
        self.stack.append(Storage(key, kind.dtype, start, numel, whole))

    def tensor(self, view: View) -> Any:
        if len(self.made) >= _TENSORS:
            raise Refused(f"it holds more than {_TENSORS} tensors")
        made = self.make(view)
        self.made[id(made)] = (made, view)
        return made

    def rebuild(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, hooks: Any = None, metadata: Any = None,
        dtype: Dtype | None = None,
    ) -> Any:  # fmt: skip
        if not isinstance(storage, Storage) or hooks or metadata:
            raise Refused("a tensor is made of something that is no storage")
        size, stride = tuple(size), tuple(stride)
        self.spend(len(size) + len(stride))
        if len(size) != len(stride) or len(size) > _DIMENSIONS or not all(map(_count, (offset, *size, *stride))):
            raise Refused("a tensor has an impossible shape or strides")
        kind = dtype.name if dtype else storage.dtype
        if kind not in BYTES:
            raise Refused(f"it holds a tensor of {kind}; save plain numbers")
        there = storage.numel * BYTES[storage.dtype] // BYTES[kind]
        extent = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0
        if offset + extent > there:
            raise Refused(f"a tensor of shape {list(size)} reaches beyond the {there} numbers that are stored for it")
        if storage.start * BYTES[storage.dtype] % BYTES[kind]:
            raise Refused("a tensor begins in the middle of a number")
        start = storage.start * BYTES[storage.dtype] // BYTES[kind] + offset
        return self.tensor(View(storage, kind, start, size, stride, extent))

    def rebuild_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
    ) -> Any:
        if not isinstance(dtype, Dtype):
            raise Refused("a tensor is of no dtype")
        return self.rebuild(storage, offset, size, stride, grad, hooks, metadata, dtype)

    def parameter(self, data: Any, _grad: Any = None, hooks: Any = None) -> Any:
        if id(data) not in self.made or hooks:
            raise Refused("a parameter is made of something that is no tensor")
        return data

    def ordered(self, items: Any = ()) -> OrderedDict[Any, Any]:
        found: OrderedDict[Any, Any] = OrderedDict()
        self.spend(len(items))
        self.set([part for item in items for part in (item[0], item[1])], found)
        return found

    def set_of(self, items: Any = ()) -> set[Any]:
        self.spend(len(items))
        return {self.key(item) for item in items}

    def bytes_of(self, text: Any = "", encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str | bytes) or encoding not in ("latin1", "latin-1"):
            raise Refused("it encodes something")
        self.spend(len(text) // 16)
        return text if isinstance(text, bytes) else text.encode("latin-1")

    def complex_of(self, real: Any, imaginary: Any) -> complex:
        if not isinstance(real, float) or not isinstance(imaginary, float):
            raise Refused("it holds an impossible number")
        return complex(real, imaginary)

    def device(self, name: Any, index: Any = None) -> str:
        if not isinstance(name, str) or not (index is None or _count(index)):
            raise Refused("it names an impossible device")
        return name if index is None else f"{name}:{index}"

    def size_of(self, size: Any = ()) -> tuple[int, ...]:
        if not isinstance(size, list | tuple) or not all(map(_count, size)):
            raise Refused("it holds an impossible shape")
        self.spend(len(size))
        return tuple(size)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _Machine.rebuild,
    "torch._utils._rebuild_tensor_v2": _Machine.rebuild,
    "torch._utils._rebuild_tensor_v3": _Machine.rebuild_v3,
    "torch._utils._rebuild_parameter": _Machine.parameter,
    "collections.OrderedDict": _Machine.ordered,
    "builtins.set": _Machine.set_of,
    "builtins.complex": _Machine.complex_of,
    "builtins.bytearray": _Machine.bytes_of,
    "_codecs.encode": _Machine.bytes_of,
    "torch.device": _Machine.device,
    "torch.Size": _Machine.size_of,
}
_PUSHED = (
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
)  # fmt: skip
_OPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_PUSHED, _Machine.push),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.extension),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "MARK": _Machine.mark,
    "TUPLE": lambda m, _: m.push(tuple(m.marked())),
    "LIST": lambda m, _: m.push(m.marked()),
    "DICT": lambda m, _: (lambda items: (m.push({}), m.set(items)))(m.marked()),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.set([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set(m.marked()),
    "ADDITEMS": lambda m, _: m.add(m.marked()),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.marked(),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instance,
    "NEWOBJ": _Machine.new,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}

"""What a pickle of plain tensors speaks of: the few names that it may bring along, storages, and tensors as parts of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

FUNCTIONS = frozenset({
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter", "torch.device", "torch.Size", "collections.OrderedDict", "builtins.set",
    "builtins.complex", "builtins.bytearray", "_codecs.encode",
})  # fmt: skip
"""What may be called; the interpreter has functions of its own for these."""
_DTYPE = re.compile(r"bool|(?:b?float|q?u?int|complex|bits)\d+(?:x\d+)?(?:_\w+)?", re.ASCII)
"""Names of torch's dtypes, of those that are not read too."""
_STORED = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "ComplexFloat": "complex64", "ComplexDouble": "complex128",
}  # fmt: skip
_ODD = {
    "torch._utils._rebuild_sparse_tensor": "a sparse", "torch._utils._rebuild_qtensor": "a quantised",
    "torch._utils._rebuild_meta_tensor_no_storage": "an empty (meta)", "torch._utils._rebuild_nested_tensor": "a nested",
    "torch.QInt8Storage": "a quantised", "torch.QUInt8Storage": "a quantised", "torch.QInt32Storage": "a quantised",
    "torch.QUInt4x2Storage": "a quantised", "torch.QUInt2x4Storage": "a quantised",
}  # fmt: skip
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "torch.cuda": "torch"}


class Refused(ValueError):
    """What a file holds is not read: it is damaged, or of a kind that no SAE needs."""


class Foreign(Refused):
    """A pickle names a class or function that is no part of plain tensors.

    Args:
        name: ``module.name``.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name.encode("unicode_escape").decode()


class Storage(NamedTuple):
    """A run of numbers in the file: ``numel`` of ``dtype``, from ``start`` on in the storage called ``key``."""

    key: str
    dtype: str
    start: int
    numel: int
    whole: int
    """Bytes of the whole storage, as the pickle claims."""


class View(NamedTuple):
    """A tensor as it lies in a storage; the numbers that it covers are all inside."""

    storage: Storage
    dtype: str
    start: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    extent: int
    """From ``start`` on, numbers up to the last one that it covers."""


@dataclass(frozen=True)
class Dtype:
    """A dtype of torch."""

    name: str


class Kind(NamedTuple):
    """A kind of storage."""

    dtype: str


class Function(NamedTuple):
    """One of ``FUNCTIONS``."""

    name: str


class Odd(NamedTuple):
    """A kind of tensor that is not read."""

    kind: str


def full_name(module: str, attribute: str) -> str:
    """Return ``module.name`` as Python 3 calls it."""
    return f"{_RENAMED.get(module, module)}.{attribute}"


def plain_name(full: str) -> Any:
    """Return what a name that tensors bring along stands for in this interpreter; ``None`` for every other name."""
    attribute = full.rpartition(".")[2]
    kind = _STORED.get(attribute.removesuffix("Storage")) if attribute.endswith("Storage") else None
    if full in FUNCTIONS:
        return Function(full)
    if full == f"torch.{attribute}" and kind is not None:
        return Kind(kind)
    if full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return Kind("uint8")
    if full == f"torch.{attribute}" and _DTYPE.fullmatch(attribute):
        return Dtype(attribute)
    return Odd(_ODD[full]) if full in _ODD else None

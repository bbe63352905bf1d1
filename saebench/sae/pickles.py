"""What a pickle would import, read from its opcodes; nothing is ever executed."""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

_HARMLESS = re.compile(
    r"collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|parameter|device_tensor_from_numpy|meta_tensor_no_storage)"
    r"|torch (\w+Storage|Size|device|(bfloat|float|u?int|complex)\d+\w*|bool)"
    r"|torch\.storage (UntypedStorage|TypedStorage)"
    r"|torch\.nn\.parameter Parameter"
)
"""Modules and names that a state dict of plain tensors brings along. This only finds the name to put in a message; what may be
loaded is for torch's ``weights_only`` to decide."""
_TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
_PROTOCOL_0_STREAMS = 5
"""A legacy torch file is a row of pickles: magic number, protocol, system, content, keys."""


def foreign_class(path: Path, known: Collection[str] = ()) -> str | None:
    """Return the first class or function that is no part of a plain state dict, as ``module.name``; ``None`` if there is none.

    Args:
        path: A zip archive of ``torch.save``, a legacy torch file, or any pickle. Damage ends the search, not the program.
        known: Classes that are passed over.
    """
    return next((name for name in foreign_classes(path) if name not in known), None)


def foreign_classes(path: Path) -> Iterator[str]:
    """Yield all of them, in the file's order and as often as they stand there."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pkl"):
                        with archive.open(member) as stream:
                            yield from _foreign(stream, 1)
            return
        with open(path, "rb") as stream:
            yield from _foreign(stream, _PROTOCOL_0_STREAMS)
    except Exception:  # damaged archives raise many kinds; loading says that it is damaged
        return


def _foreign(stream: Any, pickles: int) -> Iterator[str]:
    for _ in range(pickles):
        try:
            for module, attribute in _imports(stream):
                if not _HARMLESS.fullmatch(f"{module} {attribute}"):
                    yield f"{module}.{attribute}".encode("unicode_escape").decode()  # it goes into messages of one line
        except Exception:  # no pickle, or the end of one
            return


def _imports(stream: Any) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything that the next pickle of ``stream`` would import."""
    texts: list[str] = []
    memo: dict[Any, str] = {}
    last: str | None = None
    for opcode, argument, _ in pickletools.genops(stream):
        kind = opcode.name
        if kind in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            yield module, attribute
        elif kind == "STACK_GLOBAL":
            yield (texts[-2], texts[-1]) if len(texts) > 1 else ("an import", "without a name")
        elif kind in ("EXT1", "EXT2", "EXT4"):
            yield "copyreg", f"extension {argument}"
        elif kind in _TEXT:
            last = str(argument)
            texts.append(last)
            continue
        elif kind == "MEMOIZE":
            memo[len(memo)] = last or ""
            continue
        elif kind in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = last or ""
            continue
        elif kind in ("GET", "BINGET", "LONG_BINGET"):
            texts.append(memo.get(argument, ""))
            last = texts[-1]
            continue
        last = None

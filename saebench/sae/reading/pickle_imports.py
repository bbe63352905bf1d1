"""What a pickle would import, read from its opcodes; nothing is ever executed."""

from __future__ import annotations

import functools
import pickletools
from collections.abc import Collection, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from saebench.sae.reading.archives import PlainFile, is_archive, members
from saebench.sae.reading.unpickle import MAX_PICKLE, STEPS, full_name, plain_name

_TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
_NAMES = 1000
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
    """Yield all of them, in the file's order and as often as they stand there, up to a thousand."""
    try:
        about = path.stat()
        yield from _named(path, (about.st_ino, about.st_size, about.st_mtime_ns))
    except OSError:
        return


@functools.lru_cache(maxsize=8)
def _named(path: Path, _stamp: tuple[int, int, int]) -> tuple[str, ...]:
    return tuple(islice(_all(path), _NAMES))


def _all(path: Path) -> Iterator[str]:
    try:
        if is_archive(path):
            with PlainFile(path) as file:
                for name, member in members(path, compressed=False).items():
                    if name.endswith(".pkl") and member.size <= MAX_PICKLE:
                        file.seek(member.offset)
                        yield from _foreign(BytesIO(file.read(member.size)), 1)
            return
        with PlainFile(path) as file:
            yield from _foreign(BytesIO(file.read(min(file.bytes, MAX_PICKLE))), _PROTOCOL_0_STREAMS)
    except Exception:  # damaged archives raise many kinds; loading says that it is damaged
        return


def _foreign(stream: BytesIO, pickles: int) -> Iterator[str]:
    for _ in range(pickles):
        try:
            for module, attribute in _imports(stream):
                full = full_name(module, attribute)
                if plain_name(full) is None:
                    yield full.encode("unicode_escape").decode()  # it goes into messages of one line
        except Exception:  # no pickle, or the end of one
            return


def _imports(stream: BytesIO) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of everything that the next pickle of ``stream`` would import."""
    texts: list[str] = []
    memo: dict[Any, str] = {}
    last: str | None = None
    for opcode, argument, _ in islice(pickletools.genops(stream), STEPS):
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

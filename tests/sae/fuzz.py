"""Valid files of every format, damaged at random: what loads must work, what does not must be refused in one line.

``python -m tests.sae.fuzz --seconds 60 --seed 1``; a failure names the round, and ``--only ROUND`` runs it again. Written in a
process of its own, since a map of a damaged file can end it: the last round is in ``--log`` then.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.fixtures import FIXTURES, write_fixture
from tests.sae.hostile.bounded import ADDRESS_SPACE, mapped_now

SECONDS = 10.0
"""Of the processor, that a load may take."""
EXTREMES = (0, 1, -1, 2, 127, 255, 65535, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 63) - 1, -(1 << 63))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 2.5, 1e308, float("nan"), float("inf"), 1 << 62, 10**300, "", "x", "topk", "relu", "../../x",
    "a\nb\x1b[2J", "\u202e", "9" * 400, "blocks.0.hook_resid_pre", [], [1], [[["x"]]], {}, {"a": 1}, {"b": {"c": "x"}},
)  # fmt: skip


class Hang(BaseException):
    """A load that takes too long."""


class Template(NamedTuple):
    """A valid SAE: its files, and what is loaded and told."""

    files: Mapping[str, bytes]
    path: str
    given: Mapping[str, str] | None


def templates(root: Path) -> dict[str, Template]:
    """Return one for every format."""
    found = {}
    for at, name in enumerate(FIXTURES):
        folder = root / f"template{at}"
        written = write_fixture(name, folder)
        files = {one.relative_to(folder).as_posix(): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}
        found[name] = Template(files, written.path.removeprefix(f"{folder}/"), written.given)
    return found


def bits(data: bytearray, r: random.Random) -> None:
    for _ in range(r.choice((1, 1, 3, 20))):
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def early_bits(data: bytearray, r: random.Random) -> None:
    for _ in range(r.choice((1, 2, 5))):
        data[r.randrange(min(len(data), 600))] ^= 1 << r.randrange(8)


def cut(data: bytearray, r: random.Random) -> None:
    del data[r.randrange(len(data)) :]


def remove(data: bytearray, r: random.Random) -> None:
    start = r.randrange(len(data))
    del data[start : start + r.choice((1, 2, 8, 64, 1000))]


def insert(data: bytearray, r: random.Random) -> None:
    at = r.randrange(len(data))
    data[at:at] = r.randbytes(r.choice((1, 2, 8, 64, 1000)))


def fill(data: bytearray, r: random.Random) -> None:
    start, n = r.randrange(len(data)), r.choice((1, 4, 16, 300))
    data[start : start + n] = bytes([r.choice((0, 255, 0x7F, ord("("), ord("]")))]) * len(data[start : start + n])


def number(data: bytearray, r: random.Random) -> None:
    size = r.choice((1, 2, 4, 8))
    at = max(0, r.randrange(min(len(data), r.choice((100, 1000, len(data))))) - size)
    value = r.choice(EXTREMES) % (1 << (8 * size))
    data[at : at + size] = value.to_bytes(size, "little")


def end_number(data: bytearray, r: random.Random) -> None:
    """Change a number near the end, where archives list what they hold."""
    tail = data[-600:]
    number(tail, r)
    data[-600:] = tail


def swap(data: bytearray, r: random.Random) -> None:
    n = r.choice((1, 4, 30, 200))
    a, b = r.randrange(len(data)), r.randrange(len(data))
    one, other = bytes(data[a : a + n]), bytes(data[b : b + n])
    if len(one) == len(other) == n and abs(a - b) >= n:
        data[a : a + n], data[b : b + n] = other, one


def double(data: bytearray, r: random.Random) -> None:
    start, n = r.randrange(len(data)), r.choice((1, 8, 100, 5000))
    data[start:start] = data[start : start + n]


BYTES = (bits, early_bits, early_bits, cut, remove, insert, fill, number, number, end_number, swap, double)


def change(value: Any, r: random.Random) -> Any:
    """Return settings with one value, somewhere inside, changed, taken away or put elsewhere."""
    if isinstance(value, dict) and value and r.random() < 0.9:
        key, kind = r.choice(list(value)), r.random()
        if kind < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.25:
            return {(r.choice(("x", "k", str(k).upper())) if k == key else k): v for k, v in value.items()}
        return {k: change(v, r) if k == key else v for k, v in value.items()}
    if isinstance(value, list) and value and r.random() < 0.7:
        at = r.randrange(len(value))
        return [change(one, r) if i == at else one for i, one in enumerate(value)]
    return r.choice((r.choice(VALUES), [value], {"x": value}, str(value)))


def settings(name: str, data: bytes, r: random.Random) -> bytes | None:
    """Return a file of settings or a safetensors file with changed settings, ``None`` for another one."""
    try:
        if name.endswith(".json"):
            return json.dumps(change(json.loads(data), r)).encode()
        if name.endswith(".yaml"):
            return yaml.safe_dump(change(yaml.safe_load(data), r)).encode()
        if name.endswith(".safetensors"):
            n = struct.unpack("<Q", data[:8])[0]
            header = json.dumps(change(json.loads(data[8 : 8 + n]), r)).encode()
            return struct.pack("<Q", len(header)) + header + data[8 + n :]
    except (ValueError, struct.error, yaml.YAMLError):  # changed before
        return data
    return None


def damaged(found: Mapping[str, Template], name: str, r: random.Random) -> dict[str, bytes]:
    """Return the files of an SAE, some of them damaged."""
    files = dict(found[name].files)
    for _ in range(r.choice((1, 1, 1, 2, 4))):
        file, kind = r.choice(sorted(files)), r.random()
        if kind < 0.4:
            files[file] = settings(file, files[file], r) or files[file]
        elif kind < 0.9 and files[file]:
            data = bytearray(files[file])
            r.choice(BYTES)(data, r)
            files[file] = bytes(data)
        elif kind < 0.97:
            other = found[r.choice(list(found))].files
            like = [one for one in other if one.rpartition(".")[2] == file.rpartition(".")[2]] or list(other)
            data, half = other[r.choice(like)], len(files[file]) // 2
            files[file] = r.choice((data, files[file][:half] + data[len(data) // 2 :], data + files[file], b""))
        elif len(files) > 1:
            del files[file]
    return files


def alarm(*_: Any) -> None:
    raise Hang


def tried(path: str, given: Mapping[str, str] | None) -> str:
    """Load the SAE, run it if it loads, look at it, and return how that ended."""
    ended = []
    for load in (load_sae, inspect_sae):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            sae = load(path, given=given)
            if load is load_sae:
                sae.reconstruct(torch.ones(3, sae.config.d_in))
            ended.append("loaded")
        except InputError as error:
            assert str(error).isprintable() and len(str(error)) <= 4001, str(error)[:500]
            ended.append("refused")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return " and ".join(dict.fromkeys(ended))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="run this one round and leave its files in --keep")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    signal.signal(signal.SIGPROF, alarm)
    with tempfile.TemporaryDirectory() as root:
        found = templates(Path(root))
        for name, one in found.items():
            at = Path(root) / f"template{list(found).index(name)}"
            assert tried(f"{at}/{one.path}", one.given) == "loaded", f"the valid SAE of {name} does not load"
        limit = mapped_now() + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        ends: Counter[str] = Counter()
        start, at = time.monotonic(), 0 if args.only is None else args.only
        while time.monotonic() - start < args.seconds or at < len(found):
            name = list(found)[at % len(found)]
            if args.log:
                args.log.write_text(f"round {at}: {name}\n")
            folder = Path(root) / "damaged" if args.keep is None else args.keep
            for file, data in damaged(found, name, random.Random(f"{args.seed} {at}")).items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(data)
            try:
                ends[tried(f"{folder}/{found[name].path}", found[name].given)] += 1
            except BaseException:
                sys.stderr.write(f"{traceback.format_exc()}\nround {at} of seed {args.seed}: {name}\n")
                sys.exit(1)
            if args.only is not None:
                break
            shutil.rmtree(folder)
            at += 1
        sys.stdout.write(f"{at} rounds: {dict(ends)}\n")


if __name__ == "__main__":
    main()

"""Acts on disk: made once, in safetensors shards with a manifest, and read back in random order.

A cache that was interrupted goes on where it stopped. One shard holds the scored acts of some contexts, one tensor a site.

Letters: ``N`` contexts, ``L`` positions, ``D`` width of a site.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.port import Port
from saebench.progress import SilentProgress
from saebench.store import sha256_file, write_atomic

from .source import Chunk, Order, SiteReader

MANIFEST = "manifest.json"
_SHARD_BYTES = 256 << 20
_SPARE = 1.05
"""Room asked for, over the size of the acts."""


class ActsCache:
    """A folder of acts.

    Args:
        folder: Where it lies, or shall lie.
        ports: The sites.
        corpus: The contexts.
        dtype: In which acts are kept.

    Raises:
        InputError: The folder holds the acts of another model, text or dtype, or is damaged.
    """

    def __init__(self, folder: Path, ports: Sequence[Port], corpus: Corpus, dtype: torch.dtype) -> None:
        self.folder, self._corpus, self._dtype = folder, corpus, dtype
        self._reader = SiteReader(ports)
        model = ports[0].model
        self._names = [port.read.name for port in ports]
        self.identity = {
            "model": model.sha256 or f"{model.id}@{model.revision}", "model_dtype": str(model.dtype), "sites": self._names,
            "corpus": corpus.sha256, "contexts": len(corpus.tokens), "dtype": str(dtype),
        }  # fmt: skip
        probe = self._reader.read(corpus.tokens[:1].to(model.device))
        self._bytes_per_act = sum(p.shape[2] for p in probe) * dtype.itemsize
        self._per_shard = max(1, _SHARD_BYTES // max(1, self._bytes_per_act * corpus.context_length))
        self.shards: list[dict[str, Any]] = self._known()
        self._checked: set[int] = set()

    @property
    def n_shards(self) -> int:
        """How many shards the whole cache has."""
        return -(-len(self._corpus.tokens) // self._per_shard)

    @property
    def complete(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.n_shards

    def size(self) -> int:
        """Return the bytes of all acts."""
        return int(self._corpus.scored.sum()) * self._bytes_per_act

    def _known(self) -> list[dict[str, Any]]:
        path = self.folder / MANIFEST
        if not path.exists():
            return []
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            shards, identity = list(told["shards"]), dict(told["identity"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete the folder, and it is made again") from None
        for key, value in self.identity.items():
            if identity.get(key) != value:
                raise InputError(
                    f"{self.folder} holds acts of another {key} ({identity.get(key)}, not {value}); choose another cache folder"
                )
        return shards

    def look_again(self) -> None:
        """Take note of the shards that another process has made."""
        self.shards = self._known()

    def fill(self, progress: SilentProgress) -> None:
        """Make the shards that are missing; says the size first.

        Raises:
            InputError: There is not room enough on the disk, or it cannot be written.
        """
        if self.complete:
            return
        missing = self.n_shards - len(self.shards)
        room = _free(self.folder)
        wanted = int(self.size() * missing / self.n_shards * _SPARE)
        told = f"{self.size() / 1e9:.2f} GB of acts in {self.n_shards} shards at {self.folder}"
        if wanted > room:
            raise InputError(
                f"no room for the cache: {told}, {wanted / 1e9:.2f} GB still to write, {room / 1e9:.2f} GB free; train on "
                "fewer tokens, choose another cache folder, or leave the cache out"
            )
        progress.note(f"caching {told}, {missing} to make; {room / 1e9:.1f} GB are free")
        progress.start(missing, "cache")
        for i in range(len(self.shards), self.n_shards):
            self.shards.append(self._make(i))
            told_so_far = {"identity": self.identity, "shards": self.shards}
            write_atomic(self.folder / MANIFEST, json.dumps(told_so_far, indent=1).encode())
            progress.advance(1)

    def _make(self, i: int) -> dict[str, Any]:
        device = self._reader.model.device
        step = max(1, 4096 // self._corpus.context_length)
        end = min((i + 1) * self._per_shard, len(self._corpus.tokens))
        parts: list[Chunk] = []
        for start in range(i * self._per_shard, end, step):
            rows = slice(start, min(start + step, end))
            scored = self._corpus.scored[rows].to(device)
            acts = self._reader.read(self._corpus.tokens[rows].to(device))
            parts.append([act[scored].to(self._dtype).cpu() for act in acts])
        tensors = {name: torch.cat([part[s] for part in parts]).clone() for s, name in enumerate(self._names)}
        path = self.folder / f"acts-{i:05d}.safetensors"
        write_atomic(path, save(tensors))
        return {"file": path.name, "acts": len(tensors[self._names[0]]), "sha256": sha256_file(path)}

    def read(self, i: int) -> Chunk:
        """Return the acts of shard ``i``, float32, on the CPU; raises ``InputError`` if its bytes are not those written."""
        shard = self.shards[i]
        path = self.folder / shard["file"]
        try:
            if i not in self._checked and sha256_file(path) != shard["sha256"]:
                raise ValueError("its hash is not the manifest's")
            tensors = load(path.read_bytes())
            chunk = [tensors[name].float() for name in self._names]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}); delete {self.folder}, and it is made again") from None
        self._checked.add(i)
        return chunk


def _free(folder: Path) -> int:
    there = folder.expanduser().resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


class CachedSource:
    """Shards of a complete cache, in a new order each time round; every process reads all of them.

    Args:
        cache: The cache.
        device: Where the acts shall lie.
        seed: Of the orders.
    """

    def __init__(self, cache: ActsCache, device: torch.device, seed: int) -> None:
        self._cache, self._device = cache, device
        self._order = Order(cache.n_shards, seed)

    def next(self) -> Chunk:
        """Return the acts of the next shard."""
        [shard] = self._order.take(1).tolist()
        return [acts.to(self._device, non_blocking=True) for acts in self._cache.read(shard)]

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on from here."""
        return self._order.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        self._order.restore(state)

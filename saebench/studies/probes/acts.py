"""Texts to tokens, tokens to acts: read once for each task, and shared by everything that is probed at the site.

Letters: ``N`` texts, ``P`` = N + 1, ``T`` tokens that are kept, ``D`` width of the acts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.errors import InputError
from saebench.lm.port import Port
from saebench.provenance import versions
from saebench.stream import default_batch_size
from saebench.studies.probes.cache import ActsCache

Pooling = Literal["last", "mean", "max"]
HELD = 1 << 30
"""Bytes of acts of single tokens that are kept in memory."""
_MAKING = 1
"""Raised when the same key would mean other acts."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The texts of one task as token ids."""

    ids: list[list[int]]
    """With BOS in front, where the tokenizer has one."""
    has_bos: bool
    n_cut: int
    """Texts that were cut at the left."""
    tokens_cut: int

    def sha256(self) -> str:
        """Return the SHA-256 of the token ids."""
        digest = hashlib.sha256()
        for ids in self.ids:
            digest.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class TextActs:
    """Acts of some texts: the last token of each, or all tokens but BOS."""

    acts: Float[Tensor, "T D"]
    """On the CPU, in the model's dtype."""
    offsets: Int[np.ndarray, " P"]
    """Text i is ``acts[offsets[i]:offsets[i + 1]]``."""

    def pooled(self, pooling: Pooling) -> Float[Tensor, "N D"]:
        """Return one act a text, float32: its only one, the mean, or the maximum of each channel."""
        acts = self.acts.float()
        if pooling == "last":
            return acts
        lengths = torch.from_numpy(np.diff(self.offsets))
        return torch.segment_reduce(acts, pooling, lengths=lengths, axis=0)


def encode(texts: Sequence[str], port: Port, *, context_length: int | None = None) -> Encoded:
    """Return texts as token ids, with BOS in front; what does not fit is cut off at the left, BOS kept.

    Args:
        texts: None of them empty.
        port: Its model has the tokenizer.
        context_length: Positions at most, BOS included; the model's own if ``None`` or larger.

    Raises:
        InputError: A text has no token.
    """
    model = port.model
    tokenizer = model.tokenizer
    bos = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    room = min(context_length or model.n_ctx, model.n_ctx) - len(bos)
    plain = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    for text, ids in zip(texts, plain, strict=True):
        if not ids:
            raise InputError(f"the tokenizer makes no token of {text!r}; leave the text out")
    return Encoded(
        ids=[bos + ids[-room:] for ids in plain],
        has_bos=bool(bos),
        n_cut=sum(len(ids) > room for ids in plain),
        tokens_cut=sum(max(0, len(ids) - room) for ids in plain),
    )


class Reader:
    """Reads the acts of one task after the other, from the cache where they are there.

    Args:
        port: The site; acts are read on the clean forward.
        pooling: With ``last`` only the last token of a text is kept.
        batch_size: Texts at a time; chosen from their length if ``None``.
        cache: Where acts are kept; a model whose content is not known by a hash or a commit is never cached.
    """

    def __init__(self, port: Port, pooling: Pooling, *, batch_size: int | None = None, cache: ActsCache | None = None) -> None:
        self.port, self._batch_size = port, batch_size
        self.pooling: Pooling = pooling
        model = port.model
        revision = f"{model.id}@{model.revision}" if model.revision else None
        identity = model.sha256 or revision
        self._cache = cache if identity else None
        self._identity = {
            "making": _MAKING, "model": identity, "dtype": str(model.dtype), "device": model.device.type,
            "site": port.read.name, "versions": {name: versions().get(name) for name in ("torch", "transformers")},
            "tokens": "last" if pooling == "last" else "all",
        }  # fmt: skip
        self._held: dict[str, TextActs] = {}
        self.n_read = 0
        """Texts that went through the model."""

    def __call__(self, encoded: Encoded) -> TextActs:
        """Return the acts of the texts."""
        key = hashlib.sha256(json.dumps(self._identity | {"ids": encoded.sha256()}, sort_keys=True).encode()).hexdigest()
        if key in self._held:
            return self._held[key]
        found = self._from_cache(key, encoded)
        if found is None:
            found = self._read(encoded)
            if self._cache is not None:
                self._cache.write(key, {"acts": found.acts, "offsets": torch.from_numpy(found.offsets)})
        if sum(one.acts.nbytes for one in self._held.values()) + found.acts.nbytes <= HELD:
            self._held[key] = found
        return found

    def _from_cache(self, key: str, encoded: Encoded) -> TextActs | None:
        tensors = None if self._cache is None else self._cache.read(key)
        if tensors is None or set(tensors) != {"acts", "offsets"} or len(tensors["offsets"]) != len(encoded.ids) + 1:
            return None
        return TextActs(acts=tensors["acts"], offsets=tensors["offsets"].numpy())

    @torch.inference_mode()
    def _read(self, encoded: Encoded) -> TextActs:
        """Run the model, texts of like length together. What stands to the right of a text has no effect on it."""
        first = int(encoded.has_bos)
        lengths = np.array([len(ids) for ids in encoded.ids])
        kept = np.ones_like(lengths) if self.pooling == "last" else lengths - first
        offsets = np.concatenate([[0], np.cumsum(kept)])
        out: Tensor | None = None
        device = self.port.model.device
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = int(lengths[order[start]])
            rows = order[start : start + (self._batch_size or default_batch_size(longest, device))]
            tokens = torch.zeros(len(rows), longest, dtype=torch.long)
            for i, row in enumerate(rows):
                tokens[i, : lengths[row]] = torch.tensor(encoded.ids[row])
            acts = self.port.clean(tokens.to(device), final=False).acts
            if out is None:
                out = torch.empty(int(offsets[-1]), acts.shape[2], dtype=acts.dtype)
            if self.pooling == "last":
                at = torch.arange(len(rows), device=device), torch.from_numpy(lengths[rows] - 1).to(device)
                out[torch.from_numpy(offsets[rows])] = acts[at].cpu()
            else:
                for i, row in enumerate(rows):
                    out[offsets[row] : offsets[row + 1]] = acts[i, first : lengths[row]].cpu()
            start += len(rows)
        assert out is not None  # no task is empty
        self.n_read += len(order)
        return TextActs(acts=out, offsets=offsets)

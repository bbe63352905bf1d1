"""What the reference model reads: its tokenizer, and contexts of storyworld without end, made as they are needed.

A context is <|endoftext|> and then the next ``L − 1`` tokens of the stream of documents, each of which ends in
<|endoftext|>: what ``build_corpus`` makes of the same documents.

Letters: ``B``, ``N`` contexts, ``L`` positions.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

from saebench.data.storyworld import Part, write
from saebench.errors import InputError

END = "<|endoftext|>"
END_ID = 0
_AT_ONCE = 64
"""Documents made at once."""
_AHEAD = 4
"""Such portions a worker may be ahead."""
_BYTES = 256
_EVERY = 3
"""One document in so many is a chronicle while chronicles are asked for."""


def train_tokenizer(*, vocab_size: int, n_documents: int, seed: int) -> Tokenizer:
    """Return a byte-level BPE of the first documents of storyworld's training part, the same every time.

    Raises:
        InputError: The vocabulary does not hold every byte and <|endoftext|>, or there is too little text for it.
    """
    if not _BYTES < vocab_size <= 1 << 16:
        raise InputError(f"a byte-level vocabulary has more than {_BYTES} and at most 65536 tokens, got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    # the stubs have read-only properties where the library has settable ones
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[END], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator((write(seed, "train", i).text for i in range(n_documents)), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise InputError(
            f"{n_documents} documents are too few for a vocabulary of {vocab_size}, they give "
            f"{tokenizer.get_vocab_size()}; raise --tokenizer-documents"
        )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int) -> None:
    """Write the tokenizer as a folder that ``AutoTokenizer.from_pretrained`` takes."""
    from transformers import PreTrainedTokenizerFast

    wrapped: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=context_length
    )
    wrapped.save_pretrained(str(folder))
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    about["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that transformers 4 knows as well
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


class Portion(NamedTuple):
    """The tokens of some documents."""

    ids: NDArray[np.uint16]
    """Of all of them, each with <|endoftext|> behind it."""
    lengths: list[int]
    """Tokens of each, <|endoftext|> included."""
    nats: list[float]
    """−ln p of each."""


def _portion(tokenizer: Tokenizer, seed: int, part: Part, first: int, chronicles: int = 0) -> Portion:
    """Read documents; of those before ``chronicles`` every third one is a chronicle."""
    registers = ("chronicle" if i < chronicles and i % _EVERY == 0 else "" for i in range(first, first + _AT_ONCE))
    documents = [write(seed, part, i, register) for i, register in enumerate(registers, first)]
    read = tokenizer.encode_batch_fast([document.text for document in documents], add_special_tokens=False)
    ids = [[*encoding.ids, END_ID] for encoding in read]
    flat = np.array([i for own in ids for i in own], dtype=np.uint16)
    return Portion(flat, [len(own) for own in ids], [document.nats for document in documents])


_workers_tokenizer: Tokenizer | None = None


def _begin_worker(tokenizer: str) -> None:
    global _workers_tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _workers_tokenizer = Tokenizer.from_str(tokenizer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _in_worker(seed: int, part: Part, first: int, chronicles: int) -> Portion:
    assert _workers_tokenizer is not None
    return _portion(_workers_tokenizer, seed, part, first, chronicles)


class TextStream:
    """Contexts of one part, in order, for ever; the same for any number of workers.

    Args:
        tokenizer: What cuts the text into tokens.
        seed: The generator's seed.
        part: Which part of storyworld.
        context_length: ``L``.
        workers: Processes that write and tokenise ahead; 0: this one does when the text is needed.
        chronicles: Of so many documents at the beginning every third one is a chronicle, whatever it would have been.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, seed: int, part: Part, context_length: int, workers: int = 0, chronicles: int = 0
    ) -> None:
        self._tokenizer, self._seed, self._length, self._workers = tokenizer, seed, context_length, workers
        self._chronicles = chronicles
        self._part: Part = part
        self._pool: ProcessPoolExecutor | None = None
        self._coming: deque[Future[Portion]] = deque()
        self._next = 0
        self._rest = np.zeros(0, dtype=np.uint16)

    def batch(self, n: int, length: int | None = None) -> Int[Tensor, "B L1"]:
        """Return the next ``n`` contexts, each with the token behind it (``L1`` = L + 1), so every position has a target.

        Args:
            n: ``B``.
            length: ``L``, if it is not ``context_length``.
        """
        length = length or self._length
        body = length - 1
        parts, have = [self._rest], len(self._rest)
        while have < n * body + 1:
            parts.append(self._read().ids)
            have += len(parts[-1])
        stream = np.concatenate(parts)
        self._rest = stream[n * body :]
        windows = np.lib.stride_tricks.sliding_window_view(stream[: n * body + 1], body + 1)[::body]
        contexts = np.full((n, length + 1), END_ID, dtype=np.int64)
        contexts[:, 1:] = windows
        return torch.from_numpy(contexts)

    def state(self) -> dict[str, Any]:
        """Return where the stream stands."""
        return {"next": self._next, "rest": torch.from_numpy(self._rest.astype(np.int64))}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        self._next, self._rest = state["next"], state["rest"].numpy().astype(np.uint16)
        self._coming.clear()

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._coming.clear()

    def _read(self) -> Portion:
        first = self._next
        self._next += _AT_ONCE
        if not self._workers:
            return _portion(self._tokenizer, self._seed, self._part, first, self._chronicles)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._workers, get_context("spawn"), initializer=_begin_worker, initargs=(self._tokenizer.to_str(),)
            )
        # a terminal sends Ctrl-C to every process, but only the first one decides: the others begin with it blocked
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            while len(self._coming) < _AHEAD * self._workers:
                at = first + len(self._coming) * _AT_ONCE
                self._coming.append(self._pool.submit(_in_worker, self._seed, self._part, at, self._chronicles))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._coming.popleft().result()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Contexts that are never trained on, and what is certainly possible on them."""

    tokens: Int[Tensor, "N L"]
    bound: float
    """Nats per token that a reader needs who knows the generator: −ln p of the documents over their tokens.

    Of the document that is cut at the end, the part of its nats that its tokens are of it. A document's own nats are spread
    over all its tokens, so the bound is one for whole documents; where a context cuts one, its reader does worse.
    """


def held_out(tokenizer: Tokenizer, *, seed: int, part: Part, context_length: int, n_contexts: int) -> HeldOut:
    """Return the first contexts of a part, and their bound."""
    need = n_contexts * (context_length - 1)
    have, nats, first = 0, 0.0, 0
    while have < need:
        portion = _portion(tokenizer, seed, part, first)
        first += _AT_ONCE
        for length, own in zip(portion.lengths, portion.nats, strict=True):
            nats += own * min(1.0, max(0, need - have) / length)
            have += length
    stream = TextStream(tokenizer, seed=seed, part=part, context_length=context_length)
    return HeldOut(tokens=stream.batch(n_contexts)[:, :-1].contiguous(), bound=nats / need)

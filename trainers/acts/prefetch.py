"""Prefetching: the model's forward runs in a thread beside the training step; on CUDA on a stream of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

from .source import Chunk, Source

_AHEAD = 2


class Prefetch:
    """A source that works ahead. What it gives, and in which order, is the same as without it.

    Args:
        source: The source that does the work.
        device: Where its acts lie.
    """

    def __init__(self, source: Source, device: torch.device) -> None:
        self._source, self._device = source, device
        self._state = source.state()
        self._ready: queue.Queue[tuple[Chunk, dict[str, Any], Any] | BaseException] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def next(self) -> Chunk:
        """Return the next acts; an error of the thread is raised here."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._thread = None
            raise found
        chunk, self._state, done = found
        if done is not None:
            torch.cuda.current_stream().wait_event(done)
            for acts in chunk:
                acts.record_stream(torch.cuda.current_stream())
        return chunk

    def state(self) -> dict[str, Any]:
        """Return the place behind the last chunk that was handed out, not behind those made ahead."""
        return self._state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken; what was made ahead is thrown away."""
        self.close()
        self._source.restore(state)
        self._state = state

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep the thread off the model meanwhile."""
        with self._turn:
            yield

    def close(self) -> None:
        """End the thread."""
        if self._thread is None:
            return
        self._stop.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.05)
        self._thread = None
        self._ready = queue.Queue(_AHEAD)
        self._stop.clear()

    def _work(self) -> None:
        cuda = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if cuda else None
        try:
            while not self._stop.is_set():
                with self._turn, torch.cuda.stream(stream):
                    chunk = self._source.next()
                    state = self._source.state()
                    done = stream.record_event() if stream is not None else None
                self._put((chunk, state, done))
        except BaseException as error:  # handed over to the thread that trains
            self._put(error)

    def _put(self, item: Any) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.05)
                return

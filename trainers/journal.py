"""What one run tells: the watch over its losses, ``metrics.csv``, TensorBoard and, where asked for, Weights & Biases."""

from __future__ import annotations

import csv
import io
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.store import write_atomic

from .config import TrainConfig

_BEFORE_SPIKES = 100
"""Losses seen before one can count as a spike."""
_WINDOW = 200


class Broken(Exception):
    """A loss that is not finite, or far above those before it; the message names it and its step."""


class Watch:
    """Looks at the loss of every step, but waits for the device only when asked.

    Args:
        spike: A loss above this many times the median of the last ones is a spike; 0: none is.
    """

    def __init__(self, spike: float) -> None:
        self._spike = spike
        self._pending: list[tuple[int, Tensor]] = []
        self.past: list[float] = []

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step."""
        self._pending.append((step, loss))

    def check(self) -> None:
        """Look at the losses taken since the last time; raises :class:`Broken` at the first bad one."""
        if not self._pending:
            return
        values = torch.stack([loss for _, loss in self._pending]).tolist()
        pending, self._pending = self._pending, []
        for (step, _), value in zip(pending, values, strict=True):
            if not math.isfinite(value):
                raise Broken(f"the loss is {value} at step {step}")
            usual = statistics.median(self.past) if len(self.past) >= _BEFORE_SPIKES else math.inf
            if self._spike and value > self._spike * usual > 0:
                raise Broken(f"the loss is {value:.4g} at step {step}, {value / usual:.1f} times the median of the steps before")
            self.past = [*self.past[-_WINDOW + 1 :], value]


class Journal:
    """The rows of one run and the places they are written to.

    Args:
        config: The run.
        quiet: Keep rows but write nothing; for processes that are not the first.

    Raises:
        InputError: Weights & Biases is asked for and not installed.
    """

    def __init__(self, config: TrainConfig, *, quiet: bool = False) -> None:
        self._config, self._quiet = config, quiet
        self.rows: list[dict[str, float]] = []
        self._board: Any = None
        self._wandb: Any = None
        if quiet:
            return
        if config.wandb is not None:
            try:
                import wandb
            except ImportError:
                raise InputError("wandb is asked for and not installed; pip install wandb, or leave it out") from None
            self._wandb = wandb.init(
                project=config.wandb, name=config.out.name, dir=str(config.out), config=config.model_dump(mode="json"),
                id=_run_id(config.out), resume="allow",
            )  # fmt: skip

    def add(self, row: dict[str, float]) -> None:
        """Add a row and write the log."""
        self.rows.append(row)
        self._tell(row)
        self.write()

    def extend(self, more: dict[str, float]) -> None:
        """Add columns to the last row."""
        self.rows[-1] |= more
        self._tell(more | {"step": self.rows[-1]["step"]})
        self.write()

    def write(self) -> None:
        """Write ``metrics.csv`` anew."""
        if self._quiet:
            return
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self._config.out / "metrics.csv", text.getvalue().encode())

    def _tell(self, row: dict[str, float]) -> None:
        if self._quiet:
            return
        step = int(row["step"])
        if self._config.tensorboard:
            if self._board is None:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self._config.out / "tensorboard"), purge_step=step)
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({k: v for k, v in row.items() if k != "step"}, step=step)

    def close(self) -> None:
        """Flush and close."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._wandb is not None:
            self._wandb.finish()
            self._wandb = None


def _run_id(out: Path) -> str:
    import hashlib

    return hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]

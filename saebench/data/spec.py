"""Which text or tokens a run reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Which text or tokens, and how much of it."""

    source: str
    """Hub id; or a ``.txt``, ``.jsonl``, ``.jsonl.gz``, ``.npy`` file; or a folder that ``save_to_disk`` wrote."""
    config: str | None = None
    split: str = "train"
    text_column: str = "text"
    context_length: int | None = None
    """Tokens per context, BOS included; the model's maximum, at most 1,024, if ``None`` (pre-tokenised: the data's own)."""
    n_contexts: int | None = None
    separator: Literal["auto", "eos", "bos", "none"] = "auto"
    """Token between two documents of one context; ``auto`` takes EOS where it doubles as BOS, else none."""
    revision: str | None = None

"""Which text or tokens a run reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """Which text or tokens, and how much of it."""

    source: str
    """Hub id; or a ``.txt``, ``.jsonl``, ``.jsonl.gz``, ``.npy``, ``.parquet`` file; or a folder of Parquet files or
    one that ``save_to_disk`` wrote. Rows with a column ``input_ids`` are taken as tokens, whatever else they hold.
    ``storyworld`` is the generator in :mod:`saebench.data.storyworld`; ``storyworld:train`` names the part as well."""
    config: str | None = None
    split: str | None = None
    """``train`` if ``None``; of ``storyworld``, which has ``train`` and ``eval``, ``eval``."""
    text_column: str = "text"
    context_length: int | None = None
    """Tokens per context, BOS included. ``None``: the model's maximum, at most 1,024; for tokens, the data's own."""
    n_contexts: int | None = None
    separator: Literal["auto", "eos", "bos", "none"] = "auto"
    """Token between two documents. ``auto``: EOS where it doubles as BOS or there is no BOS, else none."""
    revision: str | None = None

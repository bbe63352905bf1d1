"""From settings to trained SAEs: what ``saebench train`` calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.errors import InputError
from saebench.lm.model import load_model, parse_device, parse_dtype
from saebench.lm.port import Port
from saebench.progress import Progress, SilentProgress
from saebench.sae import SAE
from saebench.store import check_writable

from .acts.cache import ActsCache, CachedSource
from .acts.prefetch import Prefetch
from .acts.source import LiveSource, SiteReader, Source
from .checkpoint import checkpoint_file
from .config import TrainConfig
from .loop import Loop
from .ranks import Ranks
from .settings import runs_of

_SAMPLE = 32_768
"""Acts from which data-dependent starting values are taken (Gao et al. 2024, code)."""


def train(recipe: str | None, values: dict[str, Any], progress: Progress | SilentProgress | None = None) -> list[SAE]:
    """Train an SAE or a sweep of them, or go on with a run that was stopped, and return them; native folders are written.

    Args:
        recipe: Name of the recipe; ``None`` for a sweep.
        values: Settings of the run (:class:`saebench.trainers.config.TrainConfig`) and of the recipe, by name; for a sweep see
            :func:`saebench.trainers.settings.runs_of`.
        progress: Told what happens; silent if ``None``.

    Raises:
        InputError: An unknown recipe or setting, an impossible value, or a folder that holds another run.
        IncompleteError: A loss is not finite or a spike; what could be finished is.
    """
    runs = runs_of(recipe, values)
    folder = Path(values["out"])
    config = runs[0].config
    device = parse_device(config.device)
    ranks = Ranks.from_environment(config.split, device)
    for run in runs:
        if (run.config.out / "sae.safetensors").exists() and not checkpoint_file(folder, ranks).exists():
            raise InputError(f"{run.config.out} holds a finished SAE already; choose another --out")
        check_writable(run.config.out)
    if ranks.split_data:
        own = ranks.slice_of(config.batch_size, "batch_size")
        if (own.stop - own.start) % config.accumulate:
            raise InputError(
                f"batch_size={config.batch_size} over {ranks.world} processes does not divide into "
                f"accumulate={config.accumulate} parts each; choose a multiple of both"
            )
    device = _of_rank(device, ranks)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # Triton and NCCL go by the current device, not by that of the tensors
    model = load_model(config.model, device=device, dtype=config.dtype)
    if config.context_length > model.n_ctx:
        raise InputError(f"context_length={config.context_length}, but {config.model} takes {model.n_ctx} tokens at most")
    sites = list(dict.fromkeys(run.config.site for run in runs))
    ports = {site: Port(model, site) for site in sites}
    reader = SiteReader([ports[site] for site in sites])
    corpus = build_corpus(
        CorpusSpec(source=config.corpus, context_length=config.context_length), model.tokenizer, seed=config.seed,
        max_context=model.n_ctx, vocab_size=model.d_vocab, limit=_contexts(config), data_dir=config.data_dir,
    )  # fmt: skip
    corpora = split(corpus, config.eval_contexts)
    told = (progress if ranks.first else None) or SilentProgress()
    cache = None
    if config.cache is not None:
        dtype = parse_dtype(config.cache_dtype)
        assert dtype is not None
        cache = ActsCache(config.cache, [ports[site] for site in sites], corpora[0], dtype)
    source = _source(config, reader, cache, corpora[0], ranks)
    loop = Loop(
        runs, [ports[run.config.site] for run in runs], source, sites=sites, sample=_sample(reader, corpora[0], config.seed),
        corpora=corpora, folder=folder, ranks=ranks,
    )  # fmt: skip
    if cache is not None:  # only now that everything else is known to be in order
        if ranks.first:
            cache.fill(told)
        ranks.wait()
        cache.look_again()
    return loop.run(told)


def _of_rank(device: torch.device, ranks: Ranks) -> torch.device:
    """Return the device of this process: one each, where there are several."""
    if device.type == "cuda" and ranks.world > 1 and device.index is None:
        return torch.device("cuda", ranks.rank % torch.cuda.device_count())
    return device


def _source(config: TrainConfig, reader: SiteReader, cache: ActsCache | None, corpus: Corpus, ranks: Ranks) -> Source:
    device = reader.model.device
    source: Source
    if cache is not None:
        source = CachedSource(cache, device, config.seed + 1)
    else:
        source = LiveSource(reader, corpus, config.seed + 1, ranks)
    ahead = device.type == "cuda" if config.prefetch is None else config.prefetch
    return Prefetch(source, device) if ahead and ranks.world == 1 else source


def _sample(reader: SiteReader, corpus: Corpus, seed: int) -> list[torch.Tensor]:
    """Return the acts that starting values are taken from; the training order is left untouched."""
    source = LiveSource(reader, corpus, seed)
    parts = [source.next()]
    read = len(parts[0][0])
    while read < min(_SAMPLE, int(corpus.scored.sum())):
        parts.append(source.next())
        read += len(parts[-1][0])
    return [torch.cat([part[i] for part in parts])[:_SAMPLE] for i in range(len(parts[0]))]


def _contexts(config: TrainConfig) -> int:
    """Return how many contexts the run can use at most: its tokens once, and those held out."""
    return config.tokens // max(1, config.context_length - 1) + 1 + config.eval_contexts


def split(corpus: Corpus, held_out: int) -> tuple[Corpus, Corpus]:
    """Return (contexts to train on, the last ``held_out`` ones); raises ``InputError`` if nothing is left to train on."""
    n = len(corpus.tokens) - held_out
    if n < 1:
        raise InputError(f"{corpus.name} gives {len(corpus.tokens)} contexts, {held_out} of them held out; give more text")
    return _part(corpus, slice(0, n)), _part(corpus, slice(n, None))


def _part(corpus: Corpus, rows: slice) -> Corpus:
    parts = {name: torch.clone(getattr(corpus, name)[rows]) for name in ("tokens", "valid", "scored")}
    return replace(corpus, **parts)

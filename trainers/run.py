"""From settings to a trained SAE: what ``saebench train`` calls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from saebench.data import Corpus, CorpusSpec, build_corpus
from saebench.errors import InputError
from saebench.lm.model import load_model
from saebench.lm.port import Port
from saebench.progress import Progress, SilentProgress
from saebench.registry import RECIPES
from saebench.sae import SAE
from saebench.store import check_writable

from .config import TrainConfig, split_settings, validated
from .loop import Trainer


def train(recipe: str, values: dict[str, Any], progress: Progress | SilentProgress | None = None) -> SAE:
    """Train an SAE, or go on with a run that was stopped, and return it; its native folder is ``values["out"]``.

    Args:
        recipe: Name of the recipe.
        values: Settings of the run (:class:`saebench.trainers.config.TrainConfig`) and of the recipe, by name.
        progress: Told what happens; silent if ``None``.

    Raises:
        InputError: An unknown recipe or setting, an impossible value, or a folder that holds another run.
        IncompleteError: The loss is no longer finite.
    """
    kind = RECIPES.get(recipe)
    run, own = split_settings(values, kind.Settings)
    config: TrainConfig = validated(TrainConfig, run | {"recipe": recipe})
    settings = validated(kind.Settings, own)
    if (config.out / "sae.safetensors").exists():
        raise InputError(f"{config.out} holds a finished SAE already; choose another --out")
    check_writable(config.out)
    model = load_model(config.model, device=config.device, dtype=config.dtype)
    port = Port(model, config.site)
    corpus = build_corpus(
        CorpusSpec(source=config.corpus, context_length=config.context_length), model.tokenizer, seed=config.seed,
        max_context=model.n_ctx, vocab_size=model.d_vocab, limit=_contexts(config), data_dir=config.data_dir,
    )  # fmt: skip
    training, held_out = split(corpus, config.eval_contexts)
    return Trainer(config, kind, settings, port, training, held_out).run(progress)


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


def as_values(assignments: tuple[str, ...], file: Path | None) -> dict[str, Any]:
    """Return settings from a YAML file and ``key=value`` words; the words win.

    Raises:
        InputError: The file cannot be read, or a word has no ``=``.
    """
    import yaml

    values: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file} cannot be read: {' '.join(str(error).split())}") from None
        if not isinstance(loaded, dict):
            raise InputError(f"{file} must hold key: value pairs")
        values |= loaded
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"--set {word!r} should be key=value")
        values[key] = yaml.safe_load(value)
    return values

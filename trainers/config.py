"""What a training run is told: the same for every recipe; a recipe adds settings of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from saebench.errors import InputError, did_you_mean


class RecipeSettings(BaseModel):
    """Settings every recipe has; its own class adds more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_sae: int
    """Number of latents."""
    lr: float
    """Adam's learning rate."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    lr_decay_share: float = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to 0."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    grad_clip: float | None = None
    """Largest norm of the whole gradient."""
    ema: float = 0.0
    """Decay of a running mean of the weights, which is then what is saved; 0 saves the last weights."""


class TrainConfig(BaseModel):
    """Data, length and bookkeeping of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: str
    model: str
    site: str
    corpus: str
    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    dtype: str | None = None
    """Of the language model; float32 if ``None``."""
    tokens: int = 2_000_000
    """Acts to train on; the text is gone through again, in another order, where it is shorter."""
    batch_size: int = 4096
    """Acts a step."""
    context_length: int = 128
    seed: int = 0
    buffer_tokens: int = 65_536
    """Acts held for shuffling; refilled when half are used."""
    log_every: int = 50
    """Steps between rows of ``metrics.csv``."""
    eval_every: int = 0
    """Steps between evaluations on held-out contexts; 0: only at the end."""
    eval_contexts: int = 32
    """Contexts held out of the training text."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: only when interrupted."""

    @field_validator("tokens", "batch_size", "buffer_tokens", "log_every", "eval_contexts")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be 1 or more")
        return value

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, self.tokens // self.batch_size)


def split_settings(values: dict[str, Any], settings: type[RecipeSettings]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``values`` as (those of the run, those of the recipe).

    Raises:
        InputError: A key belongs to neither; the message suggests near ones.
    """
    run, own = TrainConfig.model_fields, settings.model_fields
    for key in values:
        if key not in run and key not in own:
            raise InputError(f"unknown setting {key!r}.{did_you_mean(key, [*run, *own])}")
    return {k: v for k, v in values.items() if k in run}, {k: v for k, v in values.items() if k in own}


def validated(model: type[BaseModel], values: dict[str, Any]) -> Any:
    """Return ``model`` made of ``values``; what does not fit raises ``InputError`` with one line."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InputError(f"setting {name}: {first['msg'].removeprefix('Value error, ')}") from None

"""What a training run is told: the same for every recipe; a recipe adds settings of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator


class RecipeSettings(BaseModel):
    """Settings every recipe has; its own class adds more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_sae: int
    """Number of latents."""
    lr: float
    """Adam's learning rate."""
    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0; a tenth of the run at most."""
    lr_decay_share: float = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to 0."""
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_eps: float = 1e-8
    grad_clip: float | None = None
    """Largest norm of the whole gradient."""
    ema: float = 0.0
    """Decay of a running mean of the weights, which is then what is saved; 0 saves the last weights."""
    dead_after_tokens: int | None = None
    """Acts without firing after which a latent is dead; if ``None`` the source's number, in short runs a sixth of the run."""
    norm: Literal["none", "layer_norm", "root_width", "unit"] | None = None
    """How acts are normalised (:func:`saebench.trainers.norm.fit`); the recipe's own way if ``None``."""
    orthogonality: float = 0.0
    """Coefficient of the mean |cos| between different decoder rows (L. Smith, comments, 2024), over ``orthogonality_rows`` of
    them drawn anew at each step."""
    orthogonality_rows: int = 1024


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
    residual: Literal["raw", "centred"] = "raw"
    """Whether the SAE reads the residual stream without its mean over D (``center_writing_weights``)."""
    buffer_tokens: int = 65_536
    """Acts held for shuffling; refilled when half are used."""
    cache: Path | None = None
    """Folder where acts are kept, made once; live from the model if ``None``."""
    cache_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    prefetch: bool | None = None
    """Whether the model runs beside the training step; on CUDA only if ``None``."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products of the training step (autocast); weights and losses stay float32."""
    compile: bool = False
    """Whether the losses go through ``torch.compile``."""
    accumulate: int = 1
    """Parts a batch is cut into, whose gradients are added up."""
    split: Literal["data", "latents"] = "data"
    """What the processes of ``torchrun`` divide among them."""
    spike: float = 10.0
    """A loss above this many times the median of the last 200 steps stops the run; 0 never does."""
    log_every: int = 50
    """Steps between rows of ``metrics.csv``."""
    eval_every: int = 0
    """Steps between evaluations on held-out contexts; 0: only at the end."""
    eval_contexts: int = 32
    """Contexts held out of the training text."""
    checkpoint_every: int = 500
    """Steps between checkpoints; 0: only when interrupted."""
    tensorboard: bool = True
    """Whether the log is written for TensorBoard too."""
    wandb: str | None = None
    """Project of Weights & Biases to log to, if that package is installed."""
    export: tuple[Literal["saelens", "dictionary_learning", "sparsify"], ...] = ()
    """Other libraries' formats to write the SAE in as well."""

    @field_validator("tokens", "batch_size", "buffer_tokens", "log_every", "eval_contexts", "accumulate")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("must be 1 or more")
        return value

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} does not divide into accumulate={self.accumulate} parts")
        return self

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, self.tokens // self.batch_size)

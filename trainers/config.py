"""What a training run is told: the same for every recipe; a recipe adds settings of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
"""A whole number, 1 or more."""
Natural = Annotated[int, Field(ge=0)]
"""A whole number, 0 or more."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A number above 0."""
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A number, 0 or more: a coefficient, which 0 switches off."""
Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""
Decay = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 to below 1, of a running mean."""


class RecipeSettings(BaseModel):
    """Settings every recipe has; its own class adds more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    d_sae: Natural
    """Number of latents."""
    lr: Positive
    """Adam's learning rate."""
    lr_warmup_steps: Natural = 0
    """Steps over which the learning rate rises linearly from 0; a tenth of the run at most."""
    lr_decay_share: Share = 0.0
    """Share of the run, at its end, over which the learning rate falls linearly to 0."""
    adam_beta1: Decay = 0.9
    adam_beta2: Decay = 0.999
    adam_eps: Positive = 1e-8
    grad_clip: Positive | None = None
    """Largest norm of the whole gradient."""
    ema: Decay = 0.0
    """Decay of a running mean of the weights, which is then what is saved; 0 saves the last weights."""
    dead_after_tokens: Count | None = None
    """Acts without firing after which a latent is dead; if ``None`` the source's number, in short runs a sixth of the run."""
    norm: Literal["none", "layer_norm", "root_width", "unit"] | None = None
    """How acts are normalised (:func:`saebench.trainers.norm.fit`); the recipe's own way if ``None``."""
    orthogonality: Weight = 0.0
    """Coefficient of the mean |cos| between different decoder rows (L. Smith, comments, 2024), over ``orthogonality_rows`` of
    them drawn anew at each step."""
    orthogonality_rows: Count = 1024


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
    tokens: Count = 2_000_000
    """Acts to train on; the text is gone through again, in another order, where it is shorter."""
    batch_size: Count = 4096
    """Acts a step."""
    context_length: Annotated[int, Field(ge=4)] = 128
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 0
    residual: Literal["raw", "centred"] = "raw"
    """Whether the SAE reads the residual stream without its mean over D (``center_writing_weights``)."""
    buffer_tokens: Count = 65_536
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
    accumulate: Count = 1
    """Parts a batch is cut into, whose gradients are added up."""
    split: Literal["data", "latents"] = "data"
    """What the processes of ``torchrun`` divide among them."""
    spike: Weight = 10.0
    """A loss above this many times the median of the last 200 steps stops the run; 0 never does."""
    log_every: Count = 50
    """Steps between rows of ``metrics.csv``."""
    eval_every: Natural = 0
    """Steps between evaluations on held-out contexts; 0: only at the end."""
    eval_contexts: Count = 32
    """Contexts held out of the training text."""
    checkpoint_every: Natural = 500
    """Steps between checkpoints; 0: only when interrupted."""
    tensorboard: bool = True
    """Whether the log is written for TensorBoard too."""
    wandb: str | None = None
    """Project of Weights & Biases to log to, if that package is installed."""
    export: tuple[Literal["saelens", "dictionary_learning", "sparsify"], ...] = ()
    """Other libraries' formats to write the SAE in as well."""

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size={self.batch_size} does not divide into accumulate={self.accumulate} parts")
        return self

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(1, self.tokens // self.batch_size)

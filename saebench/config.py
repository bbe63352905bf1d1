"""The configuration of one run: frozen, keyword-only, unknown keys refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from saebench.errors import InputError, did_you_mean


class RunConfig(BaseModel):
    """Everything ``saebench run`` can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    saes: tuple[str, ...] = ()
    """Folders or files, one an SAE; ``reference:NAME`` ships with saebench, ``hub:…`` and ``saelens:…`` are fetched."""
    model: str | None = None
    """Hub id, folder, or ``reference``, the model that ships with saebench; where ``None`` each SAE's own files must say it."""
    site: str | None = None
    """TransformerLens hook name; where ``None`` each SAE's own files must say it."""
    suite: str | None = None
    """Named set of tasks; ``full`` if neither suite nor tasks are given."""
    tasks: tuple[str, ...] = ()
    """Names, or paths of YAML files."""
    seeds: tuple[int, ...] = (0,)
    """Evaluation seeds: they choose the tokens."""
    out: Path = Path("results")
    corpus: str | None = None
    """Hub id or path that takes the place of the task's own corpus."""
    device: str = "auto"
    dtype: str | None = None
    """Of the language model; float32 if ``None``."""
    data_dir: Path | None = None
    """Folder with a local mirror of hub data sets."""
    limit: int | None = None
    """Number of contexts, in place of the task's own; fewer where the corpus holds no more."""
    context_length: int | None = None
    batch_size: int | None = None
    """Contexts that go through the model at once; moves no score."""
    splice_bos: bool = False
    """Replace the BOS position too."""
    residual: Literal["raw", "centred"] | None = None
    """Residual stream the SAE expects, where its files are wrong or silent."""
    format: str | None = None
    """File format of the SAEs, where the files alone do not tell."""
    select: str | None = None
    """Shell pattern: which SAEs of the folders in ``saes`` are meant."""
    given: dict[str, str] = {}
    """What the files of the SAEs cannot tell: see :data:`saebench.sae.source.GIVEN`."""
    trained_context: int | None = None
    """Context length the SAEs were trained at, where their files do not say."""
    all_latents: bool = False
    """Every latent where a study would take a sample of them."""
    force: bool = False
    """Run again what is finished already."""
    dry_run: bool = False

    @field_validator("limit", "context_length", "batch_size", "trained_context")
    @classmethod
    def _positive(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("must be 1 or more")
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 0 or len(set(value)) != len(value):
            raise ValueError("must be different numbers, 0 or more")
        return value


def make_config(**options: object) -> RunConfig:
    """Return the config; a bad key or value raises ``InputError`` with one line that names it."""
    unknown = [key for key in options if key not in RunConfig.model_fields]
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}.{did_you_mean(unknown[0], RunConfig.model_fields)}")
    try:
        return RunConfig.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-") if first["loc"] else "options"
        raise InputError(f"--{name}: {first['msg'].removeprefix('Value error, ')}") from None

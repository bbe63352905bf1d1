"""What a task file may say of the study ``n2g``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from saebench.studies.base import StudySettings
from saebench.tasklist import TaskCorpus


class PatternSettings(StudySettings):
    """How patterns are built."""

    without_sample: ClassVar[Mapping[str, Any]] = {"latents": "all"}

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    latents: Annotated[int, Field(ge=1)] | Literal["all"] | tuple[int, ...] = 300
    """How many of the latents that fire, one from each of as many strata of density; `all` of the SAE; or a list of indices. The
    run's `--all` takes the place of what is said here."""
    n_build: int = Field(default=16, ge=1)
    """Activations that the patterns of a latent are built from, at most."""
    pad_token: int | str | None = None
    """Token that stands for one that is taken away, by id or text; null: the first of ` _`, `_`, ` |`, `|`, ` ~`, `~` that the
    vocabulary has, else the unknown token."""
    bootstrap: int = Field(default=200, ge=2)
    """Draws of latents behind the standard errors of means over latents."""

    @field_validator("latents", mode="before")
    @classmethod
    def _which(cls, value: Any) -> Any:
        """Say in one line what a union of three kinds would say in three."""
        listed = isinstance(value, (list, tuple))
        some: list[Any] = list(value) if listed else [value]
        whole = all(isinstance(one, int) and not isinstance(one, bool) for one in some)
        if value != "all" and not (whole and (listed or some[0] > 0)):
            raise ValueError("say how many latents (1 or more), all, or a list of their indices")
        return value


class N2GSettings(PatternSettings):
    """Settings of the study."""

    n_recall: int = Field(default=16, ge=1)
    """Other activations that recall is measured on, at most."""

"""The record: one strict-JSON file per SAE × task × seed, with every score and everything needed to trust it.

A value that could not be computed is ``None`` with a ``status`` and a ``reason``; NaN, infinities and sentinels never
enter a record (validation refuses them). Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from saebench.errors import RecordError

SCHEMA_VERSION = 1
"""Raised when the meaning or shape of a record changes; older records stay readable."""


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite; use null with a status and a reason")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Score(_Part):
    """One number of a record."""

    name: str
    value: Finite | None
    stderr: Finite | None = None
    """Standard error, clustered by context; ``None`` where it has none (a count, a geometry of the weights)."""
    n: int | None = None
    """How many things the value is over; ``unit_n`` says which."""
    unit_n: str = "tokens"
    unit: str = ""
    better: Literal["higher", "lower", "none"] = "none"
    status: Literal["ok", "undefined", "skipped", "failed"] = "ok"
    reason: str | None = None

    @model_validator(mode="after")
    def _missing_has_a_reason(self) -> Score:
        if (self.value is None) != (self.status != "ok"):
            raise ValueError(f"score {self.name!r}: a missing value needs a status, a present one has status 'ok'")
        if self.value is None and not self.reason:
            raise ValueError(f"score {self.name!r}: a missing value needs a reason")
        return self


class Series(_Part):
    """A curve or a histogram: ``value[i]`` belongs to ``x[i]``; ``None`` where nothing was measured."""

    name: str
    x_name: str
    x: list[Finite]
    value: list[Finite | None]
    stderr: list[Finite | None] | None = None
    n: list[int] | None = None
    unit: str = ""

    @model_validator(mode="after")
    def _one_length(self) -> Series:
        for part in (self.value, self.stderr, self.n):
            if part is not None and len(part) != len(self.x):
                raise ValueError(f"series {self.name!r}: {len(part)} entries for {len(self.x)} x values")
        return self


class SaeInfo(_Part):
    """What was scored."""

    name: str
    path: str
    sha256: str
    """Hash of the SAE's content: its tensors (name, dtype, shape, bytes) and the settings that change its arithmetic."""
    format: str
    architecture: str
    d_in: int
    d_out: int
    d_sae: int
    k: int | None = None
    site: str
    site_out: str
    normalisation: str
    residual: Literal["raw", "centred"]
    context_length: int | None = None
    """Context length the SAE was trained at, where known."""
    dtype: str
    warnings: list[str] = Field(default_factory=list)


class ModelInfo(_Part):
    """The language model."""

    id: str
    name: str
    revision: str | None = None
    sha256: str | None = None
    """Hash of config and weights for a local folder; ``None`` for a hub id, whose revision pins it."""
    family: str
    dtype: str


class TaskInfo(_Part):
    """The task and the version of its meaning."""

    name: str
    version: int


class DataInfo(_Part):
    """The tokens used, or the examples of a study."""

    corpus: str
    revision: str | None = None
    sha256: str
    """Hash of the token ids and their mask, or of a study's examples."""
    n_contexts: int
    """Contexts, or examples."""
    context_length: int
    """Tokens of a context, or of the longest example."""
    n_tokens_scored: int
    rule: str
    """How documents became contexts, in words."""


class Table(_Part):
    """A Parquet file that lies beside the record."""

    file: str
    sha256: str
    rows: int
    columns: list[str]


class TextFile(_Part):
    """A text for people that lies beside the record."""

    file: str
    sha256: str


class Record(_Part):
    """One SAE × task × seed. See the module's text for the rules."""

    schema_version: int = SCHEMA_VERSION
    sae: SaeInfo
    model: ModelInfo
    task: TaskInfo
    seed: int
    scores: list[Score]
    series: list[Series] = Field(default_factory=list)
    raw: dict[str, Finite | None] = Field(default_factory=dict)
    """The pooled sums behind every ratio."""
    data: DataInfo
    settings: dict[str, Any] = Field(default_factory=dict)
    """Options that change a number: splice_bos, context_length, limit, …"""
    environment: dict[str, Any] = Field(default_factory=dict)
    """Versions, commit, device, dtype."""
    timing: dict[str, Finite | None] = Field(default_factory=dict)
    tables: dict[str, Table] = Field(default_factory=dict)
    texts: dict[str, TextFile] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Record:
        for rows in (self.scores, self.series):
            names = [row.name for row in rows]
            if len(set(names)) != len(names):
                raise ValueError(f"names occur twice: {sorted({n for n in names if names.count(n) > 1})}")
        return self

    def score(self, name: str) -> Score:
        """Return the score called ``name``; raises ``KeyError`` if the record lacks it."""
        for row in self.scores:
            if row.name == name:
                return row
        raise KeyError(name)

    def to_json(self) -> str:
        """Return the record as strict JSON (no NaN or Infinity), keys in a fixed order, ending in a newline."""
        return json.dumps(self.model_dump(mode="json"), allow_nan=False, indent=1, ensure_ascii=False) + "\n"


def parse_record(text: str, *, origin: str) -> Record:
    """Return the record in ``text``.

    Args:
        text: The file's content.
        origin: The file's name, for the message.

    Raises:
        RecordError: Not JSON, not this schema, or a schema newer than this package.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise RecordError(f"{origin} is not a valid record ({error}); delete it and run again, or restore it") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise RecordError(f"{origin} is not a record: it has no schema_version; delete it or move it elsewhere")
    if version > SCHEMA_VERSION:
        raise RecordError(f"{origin} has schema {version}, this saebench reads up to {SCHEMA_VERSION}; upgrade saebench")
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(
            f"{origin} is damaged ({where or 'record'}: {first['msg']}); delete it and run again, or restore it"
        ) from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed in strict JSON")

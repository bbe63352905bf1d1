"""What a study is: a measurement that brings its own texts and runs the model on them as it needs.

A streaming metric is fed by the one pass over a corpus. A study (cloze tasks, the truth about a made-up world, probes) cannot
be: it asks questions. It gets a site and all the SAEs that are to be scored there, so that what does not depend on the SAE is
done once, and returns one result an SAE.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from saebench.lm.port import Port
from saebench.metrics.base import MetricResult, ScoreSpec
from saebench.record import DataInfo, Record
from saebench.sae import SAE


class StudySettings(BaseModel):
    """The keys that a task file may put under ``settings``.

    Subclasses add theirs, each with a docstring, which ``saebench show study`` prints, and where one is sensible a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


SettingsOf = TypeVar("SettingsOf", bound=StudySettings)
Column = Sequence[Any] | NDArray[Any]


def _ignore(_n: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class StudySetting:
    """What a study may know before it runs."""

    port: Port
    """Model, and the site that is read and written; ``port.model`` is the language model."""
    seed: int
    """Chooses the examples."""
    limit: int | None = None
    """Number of examples (contexts, passages) at most; ``None``: as many as the study's settings say."""
    batch_size: int | None = None
    """Examples that go through the model at once; moves no score."""
    splice_bos: bool = False
    """Whether position 0 is replaced as well."""
    data_dir: Path | None = None
    """Folder with a local mirror of hub data sets."""
    advance: Callable[[int], None] = _ignore
    """To be told how much of :meth:`Study.total` has been done since it was last told."""


@dataclass(frozen=True, kw_only=True)
class StudyResult(MetricResult):
    """What a study has found about one SAE: what a metric gives, and where it comes from."""

    data: DataInfo
    """The texts: name, revision, SHA-256 of the examples, their number (``n_contexts``), tokens of the longest
    (``context_length``), tokens scored."""
    tables: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)
    """Tables to lie beside the record as ``seed<k>.<name>.parquet``: columns of one length, by name; ``latents`` is taken."""
    notes: tuple[str, ...] = ()
    """Remarks for the user while it runs, the same for every SAE: examples that were cut, or left out."""
    missing: tuple[str, ...] = ()
    """What was asked for and could not be had, a line each, the same for every SAE; the run counts as incomplete (exit 3)."""


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What a record lacks of what was asked for."""

    missing: tuple[str, ...] = ()
    """What still cannot be had, a line each, as :attr:`StudyResult.missing`; the run counts as incomplete."""
    now: str | None = None
    """What of it can be had now: the record does not count as finished."""


class Study(ABC, Generic[SettingsOf]):
    """One study on one site.

    A subclass is registered with ``@STUDIES.register(name)``, as a module or package of ``saebench.studies`` or under the
    entry-point group ``saebench.studies``. Its docstring's first line is what ``saebench list studies`` shows.

    Args:
        setting: Where and on how much.
        settings: What the task file says, checked.
    """

    name: ClassVar[str]
    """The name that it is registered under."""
    version: ClassVar[int] = 1
    """Raised when the meaning of a score changes; records made by another version do not count as finished."""
    specs: ClassVar[tuple[ScoreSpec, ...]] = ()
    """The definition of every score that a record can hold."""
    Settings: ClassVar[type[StudySettings]] = StudySettings
    """The class that checks the task file's ``settings``."""

    def __init__(self, setting: StudySetting, settings: SettingsOf) -> None:
        """Keep the arguments; anything slow belongs into :meth:`run`."""
        self.setting = setting
        self.settings = settings

    @classmethod
    def spec(cls, name: str) -> ScoreSpec:
        """Return the definition of the score called ``name``."""
        return next(s for s in cls.specs if s.name == name)

    @classmethod
    def lacks(cls, record: Record, path: Path, settings: Any, *, data_dir: Path | None, known: dict[Any, Any]) -> Lack:
        """Return what a record made by the same settings lacks, and whether that can be had now; by default nothing.

        Args:
            record: Whole, with its tables.
            path: Its file.
            settings: What the task file says, checked.
            data_dir: Folder with a local mirror of hub data sets.
            known: For what was found out for one record and holds for others; the same dictionary for all of a plan.
        """
        return Lack()

    @abstractmethod
    def total(self) -> int:
        """Return how many steps :meth:`run` will tell ``setting.advance``, for the progress bar (an estimate will do)."""

    @abstractmethod
    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE, in the order given; none of them depends on the others.

        Args:
            saes: SAEs of the site, on the model's device, of the right widths.

        Raises:
            InputError: The texts are not there, or do not suit the model.
        """

"""What a study is: a measurement that brings its own texts and runs the model on them as it needs.

A streaming metric is fed by the one pass over a corpus. A study (cloze tasks, the truth about a made-up world, probes) cannot
be: it asks questions. It gets a site and all the SAEs that are to be scored there, so that what does not depend on the SAE is
done once, and returns one result an SAE. A study that compares SAEs of several sites gets all those of a model at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from saebench.data import Corpus
from saebench.lm.model import LanguageModel
from saebench.lm.port import Port
from saebench.metrics.base import MetricResult, ScoreSpec
from saebench.record import DataInfo, Record
from saebench.sae import SAE


class StudySettings(BaseModel):
    """The keys that a task file may put under ``settings``.

    Subclasses add theirs, each with a docstring, which ``saebench show study`` prints, and where one is sensible a default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    without_sample: ClassVar[Mapping[str, Any]] = {}
    """Of a study that takes a sample of the latents: what its settings say instead under ``--all``."""


SettingsOf = TypeVar("SettingsOf", bound=StudySettings)
Column = Sequence[Any] | NDArray[Any]


def _ignore(_n: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class AnySetting:
    """What any study may know before it runs."""

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
    corpus: Corpus | None = None
    """The text, for a study whose settings have a ``corpus`` (a :class:`saebench.tasklist.TaskCorpus`): that one, or what
    ``--corpus`` puts in its place, at most ``limit`` contexts of it."""
    advance: Callable[[int], None] = _ignore
    """To be told how much of ``total`` has been done since it was last told."""

    @property
    def text(self) -> Corpus:
        """The text of a study whose settings have a ``corpus``; the runner has read it."""
        assert self.corpus is not None
        return self.corpus


@dataclass(frozen=True, kw_only=True)
class StudySetting(AnySetting):
    """What a study on one site may know before it runs."""

    port: Port
    """Model, and the site that is read and written; ``port.model`` is the language model."""


@dataclass(frozen=True, kw_only=True)
class ModelSetting(AnySetting):
    """What a study on a whole model may know before it runs."""

    model: LanguageModel


@dataclass(frozen=True, kw_only=True)
class StudyResult(MetricResult):
    """What a study has found about one SAE: what a metric gives, and where it comes from."""

    data: DataInfo
    """The texts: name, revision, SHA-256 of the examples, their number (``n_contexts``), tokens of the longest
    (``context_length``), tokens scored."""
    tables: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)
    """Tables to lie beside the record as ``seed<k>.<name>.parquet``: columns of one length, by name; ``latents`` is taken."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts for people, to lie beside the record as ``seed<k>.<name>.txt``."""
    notes: tuple[str, ...] = ()
    """Remarks for the user while it runs, the same for every SAE: examples that were cut, or left out."""
    missing: tuple[str, ...] = ()
    """What was asked for and could not be had, a line each, the same for every SAE; the run counts as incomplete (exit 3)."""


def text_info(corpus: Corpus, *, n_scored: int | None = None, rule: str = "") -> DataInfo:
    """Return what a record says of a text.

    Args:
        corpus: The text.
        n_scored: Tokens that were scored; all that may be if ``None``.
        rule: What was done with its contexts, if more than scoring them.
    """
    return DataInfo(
        corpus=corpus.name,
        revision=corpus.revision,
        sha256=corpus.sha256,
        n_contexts=len(corpus.tokens),
        context_length=corpus.context_length,
        n_tokens_scored=int(corpus.scored.sum()) if n_scored is None else n_scored,
        rule=f"{corpus.rule}; {rule}" if rule else corpus.rule,
    )


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What a record lacks of what was asked for."""

    missing: tuple[str, ...] = ()
    """What still cannot be had, a line each, as :attr:`StudyResult.missing`; the run counts as incomplete."""
    now: str | None = None
    """What of it can be had now: the record does not count as finished."""


@dataclass(frozen=True, kw_only=True)
class AtSite:
    """The SAEs of one site."""

    port: Port
    saes: tuple[SAE, ...]


class AnyStudy(ABC, Generic[SettingsOf]):
    """What all studies have: a name, a version, the definitions of their scores, settings. See its two subclasses.

    A study is registered with ``@STUDIES.register(name)``, as a module or package of ``saebench.studies`` or under the
    entry-point group ``saebench.studies``. Its docstring's first line is what ``saebench list studies`` shows.
    """

    name: ClassVar[str]
    """The name that it is registered under."""
    version: ClassVar[int] = 1
    """Raised when the meaning of a score changes; records made by another version do not count as finished."""
    specs: ClassVar[tuple[ScoreSpec, ...]] = ()
    """The definition of every score that a record can hold."""
    Settings: ClassVar[type[StudySettings]] = StudySettings
    """The class that checks the task file's ``settings``."""

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
        """Return how many steps ``run`` will tell ``setting.advance``, for the progress bar (an estimate will do)."""


class Study(AnyStudy[SettingsOf]):
    """One study on one site.

    Args:
        setting: Where and on how much.
        settings: What the task file says, checked.
    """

    def __init__(self, setting: StudySetting, settings: SettingsOf) -> None:
        """Keep the arguments; anything slow belongs into :meth:`run`."""
        self.setting = setting
        self.settings = settings

    @abstractmethod
    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE, in the order given; none of them depends on the others.

        Args:
            saes: SAEs of the site, on the model's device, of the right widths.

        Raises:
            InputError: The texts are not there, or do not suit the model.
        """


class ModelStudy(AnyStudy[SettingsOf]):
    """One study on all SAEs of a model, whatever their sites: what it says of one depends on the others.

    The record of each names all of them (``settings["saes_together"]``), and counts as finished only for the same ones. All of
    them are held at once: on the model's device if they fit into half of what it has free, else in main memory.

    Args:
        setting: On which model and how much.
        settings: What the task file says, checked.
    """

    n_saes_min: ClassVar[int] = 2
    """SAEs of one model that it takes at least."""

    def __init__(self, setting: ModelSetting, settings: SettingsOf) -> None:
        """Keep the arguments; anything slow belongs into :meth:`run`."""
        self.setting = setting
        self.settings = settings

    @abstractmethod
    def run(self, sites: Sequence[AtSite]) -> list[StudyResult]:
        """Return one result an SAE, site by site, in the order given; no result depends on that order.

        Args:
            sites: All SAEs, of the right widths; they need not be on the model's device.

        Raises:
            InputError: The texts are not there, or do not suit the model.
        """

"""What third parties call: every check on one SAE, or on a format of one's own and files of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from saebench.check.acts import CONTEXTS, Acts, given_acts, model_acts, read_acts
from saebench.check.base import Report, run_checks
from saebench.check.case import Case, Oracle
from saebench.errors import InputError
from saebench.lm.model import LanguageModel
from saebench.sae.find import Found, locate, open_path
from saebench.sae.load import damage, read_entry
from saebench.sae.sae import SAE
from saebench.sae.source import Given, Source


@dataclass(frozen=True, kw_only=True)
class _Trial(Found):
    """Files of a format that need not be registered."""

    trial: Any

    @property
    def member(self) -> Any:
        """Return the format."""
        return self.trial


def check_sae(
    sae: str | Path | SAE,
    *,
    format: str | None = None,
    given: Mapping[str, str] | None = None,
    site: str | None = None,
    residual: Literal["raw", "centred"] | None = None,
    acts: Tensor | str | Path | None = None,
    target: Tensor | None = None,
    model: str | LanguageModel | None = None,
    corpus: str | None = None,
    contexts: int = CONTEXTS,
    data_dir: Path | None = None,
    device: str = "auto",
    oracle: Oracle | None = None,
) -> Report:
    """Check one SAE.

    Args:
        sae: Path, as :func:`saebench.sae.load_sae` takes it, or an SAE in memory.
        format: Its format; found from the files if ``None``.
        given: What its files do not say.
        site: Takes the place of the site its files name.
        residual: Takes the place of the residual stream they name.
        acts: Acts at the site it reads, ``[tokens, d_in]``, without BOS; or a file of them.
        target: Acts at the site it writes ``[tokens, d_out]``; needed for transcoders only.
        model: Language model that makes acts: hub id, folder, ``reference``, or one that is loaded. Without ``acts`` and
            ``model`` the checks that need real acts are skipped.
        corpus: Text for the model.
        contexts: How many contexts of it.
        data_dir: Folder with a local mirror of hub data sets.
        device: Where the model runs.
        oracle: Another implementation, acts ``[n, d_in]`` to (dense latents ``[n, d_sae]``, recon ``[n, d_out]``).

    Raises:
        InputError: There is no SAE, or the acts, the model or an option is wrong. What is wrong *with* the SAE is in the report.
    """
    if isinstance(sae, SAE):
        case = Case(sae.config, sae=sae, oracle=oracle)
    else:
        found = locate(sae, format, Given(given))
        case = _case(found, str(sae), site, residual, oracle)
    return _report(case, acts, target, model, corpus, contexts, data_dir, device)


def check_format(
    member: Any,
    path: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    acts: Tensor | str | Path | None = None,
    target: Tensor | None = None,
    model: str | LanguageModel | None = None,
    corpus: str | None = None,
    contexts: int = CONTEXTS,
    data_dir: Path | None = None,
    device: str = "auto",
    oracle: Oracle | None = None,
) -> Report:
    """Check a format, registered or not, on files of it: for the test suite of who wrote it.

    Args:
        member: The class of the format.
        path: An SAE of it: folder, file or ``FILE#PART``.
        given: As for :func:`check_sae`, like all that follow.
        acts: As there.
        target: As there.
        model: As there.
        corpus: As there.
        contexts: As there.
        data_dir: As there.
        device: As there.
        oracle: As there; give the format's own code, where it can be had.

    Raises:
        InputError: ``read`` refuses the files, or the acts, the model or an option is wrong.
    """
    name = getattr(member, "__name__", type(member).__name__)
    source = open_path(path, Given(given))
    found = _Trial(source=source, format=name, trial=member)
    parts = getattr(member, "parts", None)
    if parts is not None and source.part is None:
        with damage(found):
            names = parts(source)
        if len(names) > 1:
            raise InputError(f"{path} holds {len(names)} SAEs; name one: {path}#{names[0]}")
        if names:
            one = Source(source.path, given=source.given, part=names[0], root=source.folder)
            found = _Trial(source=one, format=name, trial=member)
    case = _case(found, str(path), None, None, oracle)
    return _report(case, acts, target, model, corpus, contexts, data_dir, device)


def _case(found: Found, path: str, site: str | None, residual: str | None, oracle: Oracle | None) -> Case:
    config, entry = read_entry(found, path, {"site": site, "residual": residual})
    return Case(config, found=found, entry=entry, oracle=oracle)


def _report(
    case: Case,
    acts: Tensor | str | Path | None,
    target: Tensor | None,
    model: str | LanguageModel | None,
    corpus: str | None,
    contexts: int,
    data_dir: Path | None,
    device: str,
) -> Report:
    if acts is not None and model is not None:
        raise InputError("give acts or a model that makes them, not both")
    if model is None and corpus is not None:
        raise InputError("a corpus needs a model to read it; give --model")
    if case.sae is not None:
        case.take(_acts(case.sae, acts, target, model, corpus, contexts, data_dir, device))
    sha256 = None if case.weights is None or case.sae is None else case.sae.sha256
    return Report(
        path=case.config.path or case.config.name,
        format=case.config.format,
        sha256=sha256,
        acts=None if case.acts is None else case.acts.origin,
        results=run_checks(case),
    )


def _acts(
    sae: SAE,
    acts: Tensor | str | Path | None,
    target: Tensor | None,
    model: str | LanguageModel | None,
    corpus: str | None,
    contexts: int,
    data_dir: Path | None,
    device: str,
) -> Acts | None:
    if isinstance(acts, Tensor):
        return given_acts(acts, sae.config, target=target)
    if acts is not None:
        return read_acts(acts, sae.config)
    if model is not None:
        return model_acts(sae, model, corpus=corpus, contexts=contexts, data_dir=data_dir, device=device)
    return None

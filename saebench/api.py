"""The Python interface: the same code the command line calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Bool, Int
from torch import Tensor

from saebench.config import RunConfig, make_config
from saebench.data import Corpus, build_corpus
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.record import Record, Score
from saebench.run import corpus_spec, run
from saebench.sae import SAE, Site, load_sae
from saebench.store import iter_records, read_record
from saebench.stream import centring, check_widths
from saebench.tasklist import load_task

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Session", "evaluate", "load_model", "load_sae", "load_session", "read_results"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Model, SAE and tokens: what an analysis starts from (Bloom 2024 calls for these three in one step)."""

    model: LanguageModel
    sae: SAE
    """Takes the model's own acts and gives recons among them, as ``run`` scores them: where the SAE knows the centred
    stream, it takes the mean over dimensions off itself and puts it back."""
    port: Port
    """The SAE's site on the model: ``port.clean(tokens)`` reads acts, ``port.splice(…)`` puts a replacement in."""
    corpus: Corpus
    splice_bos: bool = False

    def batches(self, batch_size: int = 8) -> Iterator[Int[Tensor, "B L"]]:
        """Yield token ids on the model's device; the last batch may be smaller."""
        for start in range(0, len(self.corpus.tokens), batch_size):
            yield self.corpus.tokens[start : start + batch_size].to(self.model.device)

    def replaced(self, batch_size: int = 8) -> Iterator[Bool[Tensor, "B L"]]:
        """Yield, for each batch, the positions where ``run`` puts the recon: no padding, and no BOS unless ``splice_bos``."""
        where = self.corpus.valid.clone()
        where[:, 0] &= self.splice_bos
        for start in range(0, len(where), batch_size):
            yield where[start : start + batch_size].to(self.model.device)


def load_session(
    sae_path: str | Path,
    *,
    model: str | None = None,
    site: str | None = None,
    corpus: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
    limit: int | None = None,
    context_length: int | None = None,
    data_dir: Path | None = None,
    format: str | None = None,
    residual: Literal["raw", "centred"] | None = None,
    trained_context: int | None = None,
    given: Mapping[str, str] | None = None,
    splice_bos: bool = False,
) -> Session:
    """Load an SAE, the model it belongs to and tokens to look at it with.

    Args:
        sae_path: The SAE's folder or file.
        model: Hub id or folder; where ``None`` the SAE's own files must say it.
        site: Hook name; likewise.
        corpus: Hub id or path; the core task's own if ``None``.
        device: ``auto``, ``cpu``, ``cuda``.
        dtype: Of the model; float32 if ``None``.
        seed: Chooses the tokens.
        limit: Number of contexts; the core task's own if ``None``.
        context_length: Tokens per context.
        data_dir: Folder with a local mirror of hub data sets.
        format: File format of the SAE, if it is not recognised.
        residual: Residual stream that the SAE expects, where its files are wrong or silent.
        trained_context: Context length it was trained at, where its files do not say.
        given: What else its files do not say, e.g. ``{"k": "50"}``: see ``saebench.sae.source.GIVEN``.
        splice_bos: Whether position 0 is replaced as well.

    Raises:
        InputError: A file or name is wrong, or the SAE does not fit the model.
    """
    config = make_config(
        saes=(str(sae_path),), model=model, site=site, corpus=corpus, device=device, dtype=dtype, seeds=(seed,),
        limit=limit, context_length=context_length, data_dir=data_dir, format=format, residual=residual,
        trained_context=trained_context, given=dict(given or {}), splice_bos=splice_bos,
    )  # fmt: skip
    sae = load_sae(
        sae_path, format=format, site=site, model_id=model, residual=residual, context_length=trained_context, given=given
    )
    return session_of(sae, config)


def session_of(sae: SAE, config: RunConfig, lm: LanguageModel | None = None, *, task: str = "core") -> Session:
    """Return the session of an SAE that is loaded.

    Args:
        sae: The SAE.
        config: Model, corpus, device and the like; its first seed chooses the tokens.
        lm: The model, where it is loaded too.
        task: Whose text is read, unless the config names another one.

    Raises:
        InputError: As :func:`load_session`.
    """
    name = config.model or sae.config.model_id
    if not name or not sae.config.site:
        raise InputError(f"{config.saes[0]} does not say its model and site; give model=… and site=…")
    for site in (sae.config.site, sae.config.site_out or sae.config.site):
        Site.parse(site)  # before a model is loaded for nothing
    lm = lm or load_model(name, device=config.device, dtype=config.dtype)
    port = Port(lm, sae.config.site, sae.config.site_out)
    check_widths(port, [sae.config])
    tokens = build_corpus(
        corpus_spec(config, load_task(task)), lm.tokenizer, seed=config.seeds[0], max_context=lm.n_ctx, limit=config.limit,
        data_dir=config.data_dir, vocab_size=lm.d_vocab,
    )  # fmt: skip
    sae = sae.to(device=lm.device).that_centres(centring(port, sae.config)[0])
    return Session(model=lm, sae=sae, port=port, corpus=tokens, splice_bos=config.splice_bos)


def evaluate(saes: Sequence[str | Path], tasks: Sequence[str] = ("core",), **options: Any) -> list[Record]:
    """Score SAEs and return their records, in the order SAE × task × seed of the plan.

    Args:
        saes: Folders or files.
        tasks: Task names.
        **options: Any field of :class:`saebench.config.RunConfig`: ``model``, ``corpus``, ``out``, ``limit`` …

    Raises:
        InputError: A file, name or option is wrong.
        IncompleteError: Something failed; the records that were finished are saved in ``out``.
    """
    report = run(make_config(saes=tuple(str(s) for s in saes), tasks=tuple(tasks), **options))
    if report.failures:
        raise IncompleteError("; ".join(report.failures))
    return [read_record(Path(row["record"])) for row in report.plan]


def read_results(folder: str | Path) -> pd.DataFrame:
    """Return every record under ``folder`` as a table, one row per SAE × task × seed.

    Columns: sae, format, architecture, d_sae, k, model, site, task, version, seed, then for every score its value and
    ``<name>_stderr``; a missing value is NaN.

    Raises:
        InputError: There is no such folder.
        RecordError: A record is damaged.
    """
    import pandas as pd

    rows = []
    for _, record in iter_records(Path(folder)):
        if isinstance(record, Exception):
            raise record
        rows.append(
            {
                "sae": record.sae.name,
                "format": record.sae.format,
                "architecture": record.sae.architecture,
                "d_sae": record.sae.d_sae,
                "k": record.sae.k,
                "model": record.model.name,
                "site": record.sae.site,
                "task": record.task.name,
                "version": record.task.version,
                "seed": record.seed,
            }
            | _columns(record.scores)
        )
    return pd.DataFrame(rows)


def _columns(scores: Sequence[Score]) -> dict[str, float | None]:
    return {s.name: s.value for s in scores} | {f"{s.name}_stderr": s.stderr for s in scores if s.stderr is not None}

"""The study ``lm_eval``: any task of lm-eval, clean and spliced."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from saebench.record import DataInfo
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.studies.base import Study, StudyResult, StudySettings
from saebench.studies.lm_eval.scores import CONTEXT_SPECS, SPECS, scores, scores_by_context, table
from saebench.studies.lm_eval.tasks import load_tasks


class LmEvalSettings(StudySettings):
    """What a task file may say under ``settings``; ``--task lm-eval:NAME`` says ``task: NAME``."""

    task: str = Field(min_length=1)
    """A task, group or tag of lm-eval, or the path of a YAML file that defines one."""
    task_sha256: str | None = None
    """SHA-256 of that file, set for `lm-eval:FILE`: a record made with another content does not count."""
    include_path: str | None = None
    """Folder with lm-eval tasks of one's own."""
    n: int | None = Field(default=None, ge=1)
    """Documents of each task at most."""
    num_fewshot: int | None = Field(default=None, ge=0)
    """Examples in front of each question, in place of the task's own number; a task that says 0 keeps it, as in lm-eval."""
    prepend_bos: bool | None = None
    """Whether texts begin with BOS; where nothing is said they do if the tokenizer has one. lm-eval itself gives GPT-2 none."""
    max_gen_toks: int = Field(default=256, ge=1)
    """Tokens to write at most, where the task does not say."""
    allow_code: bool = False
    """Whether tasks may run code that the model has written."""


@STUDIES.register("lm_eval")
class LmEval(Study[LmEvalSettings]):
    """Any lm-eval task: its metrics for the clean model and with recons in place of acts, and the difference, paired by document.

    Requests, filters, metrics and aggregation are lm-eval's (0.4.13); the model's answers are those of its ``HFLM`` with a
    forward hook that puts recons in the place of acts. The requests are built once. Each is answered for the clean model and for
    all SAEs of the site together: one prefix, one clean suffix, one suffix an SAE, and one forward for all candidates that share
    a context. Text is written greedily, by each pass for itself, with no cache of keys and values.

    Of a metric that is a mean over documents the standard errors take documents as independent, and that of the difference is
    of the differences by document; of any other (perplexity, f1, …) they come from 200 bootstrap draws of documents, the same
    for both passes. A group's scores are over the documents of all its tasks together; the table beside the record has one row a
    document.

    Texts begin with BOS where the tokenizer has one, unless ``prepend_bos`` says otherwise: published numbers of lm-eval for
    GPT-2 are without. Position 0 is left clean unless ``--splice-bos``. Contexts that are too long are cut at the left.

    Each of these scores stands there twice more, ``…_within_context`` and ``…_beyond_context``: for the documents whose contexts,
    BOS included, are no longer than the context the SAE was trained at, and for the others.
    """

    name = "lm_eval"
    version = 2
    specs = (*SPECS, *CONTEXT_SPECS)
    Settings: ClassVar[type[StudySettings]] = LmEvalSettings
    _tasks: dict[str, Any] | None = None

    def total(self) -> int:
        """Return the number of requests with contexts of their own, about: one a document."""
        return sum(min(len(task.eval_docs), self._limit() or len(task.eval_docs)) for task in self._loaded().values())

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Raises:
            InputError: lm-eval has no such task, its data cannot be had, it runs code, or it samples what it writes.
        """
        import lm_eval

        from saebench.lm.lm_eval import SplicedLM
        from saebench.studies.lm_eval.documents import ask, build
        from saebench.studies.lm_eval.passes import Passes

        s, setting = self.settings, self.setting
        model = setting.port.model
        passes = Passes(setting.port, saes, splice_bos=setting.splice_bos, batch_size=setting.batch_size, advance=setting.advance)
        lm = SplicedLM(passes, model.tokenizer, max_length=model.n_ctx, prepend_bos=s.prepend_bos, max_gen_toks=s.max_gen_toks)
        found = []
        for name, task in self._loaded().items():
            build(task, self._limit())
            found.append(ask(name, task, lm))
        data = DataInfo(
            corpus=f"lm-eval:{s.task}",
            sha256=hashlib.sha256(b"".join(one.digest for one in found)).hexdigest(),
            n_contexts=sum(len(one.documents) for one in found),
            context_length=lm.longest,
            n_tokens_scored=lm.n_scored,
            rule=f"one document a context, as lm-eval {lm_eval.__version__} asks; cut at the left to {model.n_ctx} positions",
        )
        notes = (f"{lm.n_cut} requests are longer than the model's {model.n_ctx} positions; cut at the left",) if lm.n_cut else ()
        return [
            StudyResult(
                scores=[
                    *(whole := scores(found, which, seed=setting.seed)),
                    *scores_by_context(found, which, whole, seed=setting.seed, trained=sae.config.context_length),
                ],
                raw={"requests_cut": float(lm.n_cut), "tasks": float(len(found))},
                data=data,
                tables={"documents": table(found, which)},
                notes=notes,
            )
            for which, sae in enumerate(saes, 1)
        ]

    def _limit(self) -> int | None:
        numbers = [n for n in (self.settings.n, self.setting.limit) if n is not None]
        return min(numbers, default=None)

    def _loaded(self) -> dict[str, Any]:
        if self._tasks is None:
            s = self.settings
            self._tasks = load_tasks(s.task, include_path=s.include_path, num_fewshot=s.num_fewshot, allow_code=s.allow_code)
        return self._tasks

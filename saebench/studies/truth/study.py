"""The study itself: read once, choose and score for every SAE and every baseline, put into rows.

Letters: ``Q`` questions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field

from saebench.data.storyworld.variables import VARIABLES
from saebench.metrics.base import ScoreSpec
from saebench.record import DataInfo, Score, Series
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stats import Estimate
from saebench.stream import centring
from saebench.studies.base import Study, StudyResult, StudySettings
from saebench.studies.truth.columns import Directions, Latents, Source, mean_and_components, random_dictionary
from saebench.studies.truth.counting import Codes
from saebench.studies.truth.questions import Questions, make_questions
from saebench.studies.truth.search import Choice, Findings, choose, score
from saebench.studies.truth.text import SOURCE, Half, read_halves

BASELINES = {
    "neurons": "the channels of the acts in place of latents, each on both sides of its mean",
    "pca": "the principal components of the selection half in place of latents, each on both sides of the mean",
    "random": "a TopK dictionary of random directions with the SAE's d_sae and L0 in place of the SAE",
}
_MEANS = {
    "f1_adjusted": ("F1 above chance, max(0, (F1 − chance) / (1 − chance)) with chance = 2p / (1 + p)", ""),
    "f1": ("F1 = 2 TP / (2 TP + FP + FN)", ""),
    "auc": ("area under the ROC curve of the latent's value, ties counted half", ""),
    "mi": ("mutual information of yes or no and the label", "bits"),
    "mi_share": ("mutual information of yes or no and the label, as a share of the label's entropy", ""),
}


def _specs() -> tuple[ScoreSpec, ...]:
    out = []
    for source, instead in {"": "", **BASELINES}.items():
        tail, note = (f"_{source}", f" With {instead}.") if source else ("", "")
        for name, (definition, unit) in _MEANS.items():
            out.append(
                ScoreSpec(
                    name=f"truth_{name}{tail}",
                    definition=f"Mean over variables of the mean over their kinds, of the best latent's {definition}.{note}",
                    better="none" if source else "higher",
                    unit=unit,
                    unit_n="variables",
                )
            )
        out.append(
            ScoreSpec(
                name=f"truth_recovered{tail}",
                definition=f"Share of variables whose mean F1 above chance reaches recovered_at (0.5).{note}",
                better="none" if source else "higher",
                unit_n="variables",
            )
        )
    chance = "Mean over variables of the mean over their kinds of 2p / (1 + p), the F1 of always saying yes."
    return (*out, ScoreSpec(name="truth_f1_chance", definition=chance, unit_n="variables"))


class TruthSettings(StudySettings):
    """Settings of the study."""

    n_contexts: int = Field(default=200, ge=2)
    """Contexts of both halves together."""
    context_length: int | None = Field(default=None, ge=4)
    """Tokens of a context; the model's maximum, at most 1,024, if ``None``."""
    min_tokens: int = Field(default=20, ge=1)
    """A kind is asked for if it holds at this many tokens of each half, and is absent from as many."""
    min_contexts: int = Field(default=5, ge=1)
    """… that stand in this many contexts of each half."""
    per_halving: int = Field(default=2, ge=1)
    """Thresholds tried for each halving of a latent's active values."""
    recovered_at: float = Field(default=0.5, gt=0, le=1)
    """Mean F1 above chance at which a variable counts as recovered."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What one dictionary is worth."""

    size: int
    choice: Choice
    findings: Findings
    finite: bool


@STUDIES.register("truth")
class Truth(Study[TruthSettings]):
    """How many variables of the storyworld that wrote the text are each told by one latent.

    Text of the generator's evaluation part is read in two halves that share no document. A question is one kind of one
    variable against everything else: does *past* of *tense* hold at the token just read? ("Does not apply" is no kind.) On the
    selection half the latent and the threshold with the largest F1 = 2 TP / (2 TP + FP + FN) are chosen, among all latents, and
    thresholds from firing at all upwards through quantiles of the latent's active values. On the scoring half they are given

    - F1, and F1 above chance = max(0, (F1 − c) / (1 − c)), where c = 2p / (1 + p) is the F1 of always saying yes, which no
      answer without knowledge exceeds, and p the share of tokens where yes is right;
    - AUC = P(f₊ > f₋) + ½ P(f₊ = f₋) of the latent's value f;
    - mutual information of yes or no and the label in bits, and as a share of the label's entropy.

    Where a kind holds at more than half of the tokens of the selection half, its absence is what must be found, by firing or by
    silence: F1 looks at the answer yes alone, and is of use for the rarer answer only.

    A variable's score is the mean over its questions, the study's the mean over variables, so that a variable with 40 kinds
    counts as much as one with two. Standard errors are those of a mean over variables (deviation / √n): they say how much
    another choice of variables would move the number, not another text, and take the variables for independent. They are not:
    season and weather, a noun's class and its animacy, tense and the verb's form go together in this world, and one latent may
    be the answer to several.

    **The number to order SAEs by is** ``truth_f1_adjusted``: it takes every question, moves with every one of them, gives 0 to
    noise and to a latent that always fires however frequent the kind, and 1 only to exact answers. ``truth_recovered`` is
    easier to say aloud but knows one variable in 60 or so and a threshold; plain F1 flatters frequent kinds; AUC takes no
    account of the threshold and is high for rare kinds even with many false alarms; the share of mutual information is free of
    chance too, and harder to read.

    Neurons and principal components are scored in the same way on the same acts; each is two columns, relu(x − μ) and
    relu(μ − x), with μ the mean of the selection half. The random dictionary has the SAE's d_sae, and TopK with k the SAE's L0 on
    the selection half, rounded; its directions are normal and of length 1.

    Args:
        setting: Where and on how much; ``limit`` counts the contexts of both halves.
        settings: What the task file says, checked.
    """

    name = "truth"
    version = 1
    specs = _specs()
    Settings = TruthSettings

    @property
    def n_contexts(self) -> int:
        """Contexts of both halves together."""
        return self.setting.limit if self.setting.limit is not None else self.settings.n_contexts

    def total(self) -> int:
        """Return the number of contexts: reading them is most of the work."""
        return self.n_contexts

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.

        Raises:
            InputError: A tokenizer that gives no offsets, or too little text for any question.
        """
        port, settings = self.setting.port, self.settings
        halves = read_halves(
            port,
            seed=self.setting.seed,
            n_contexts=self.n_contexts,
            context_length=settings.context_length,
            batch_size=self.setting.batch_size,
            advance=self.setting.advance,
        )
        first, second = (half.labelled for half in halves)
        search = _Search(
            halves, make_questions(first, second, min_tokens=settings.min_tokens, min_contexts=settings.min_contexts), settings
        )
        mean, components = mean_and_components(halves[0].acts, port.model.device)
        shared = {"neurons": search.found(Directions(mean)), "pca": search.found(Directions(mean, components))}
        at_random: dict[tuple[int, int], _Found] = {}
        results = []
        for sae in saes:
            latents = Latents(sae.that_centres(centring(port, sae.config)[0]))
            own = search.found(latents)
            d_sae, l0 = sae.config.d_sae, latents.l0 or 0.0
            k = min(max(round(l0), 1), d_sae)
            if (d_sae, k) not in at_random:
                dictionary = random_dictionary(mean, d_sae, k, seed=self.setting.seed)
                at_random[d_sae, k] = search.found(Latents(dictionary))
            found = {"sae": own, **shared, "random": at_random[d_sae, k]}
            raw = {"truth_l0": l0, "truth_random_k": float(k), "truth_random_d_sae": float(d_sae)}
            results.append(self._result(search, found, raw))
        return results

    def _result(self, search: _Search, found: dict[str, _Found], raw: Mapping[str, float | None]) -> StudyResult:
        questions = search.questions
        scores: list[Score] = []
        series: list[Series] = []
        kinds: dict[str, list[Any]] = {}
        variables: dict[str, list[Any]] = {}
        for source, one in found.items():
            tail = "" if source == "sae" else f"_{source}"
            means = {name: _by_variable(questions, getattr(one.findings, name)) for name in (*_MEANS, "f1_chance")}
            means["recovered"] = (means["f1_adjusted"] >= self.settings.recovered_at).astype(float)
            for name in (*_MEANS, "recovered"):
                values = means[name] if one.finite else np.full_like(means[name], np.nan)
                scores.append(self.spec(f"truth_{name}{tail}").score(_mean(values)))
            if not tail:
                scores.append(self.spec("truth_f1_chance").score(_mean(means["f1_chance"])))
            if not one.finite:
                continue
            series.append(_series(questions, f"truth_f1_adjusted_by_variable{tail}", means["f1_adjusted"]))
            _extend(kinds, source, _kind_rows(search, one))
            rows = {"variable": list(questions.spans), "n_kinds": _sizes(questions)}
            _extend(variables, source, rows | {name: values.tolist() for name, values in means.items()})
        return StudyResult(
            scores=scores,
            series=series,
            raw={**raw, "truth_questions": float(len(questions)), "truth_variables": float(len(questions.spans))},
            data=_data(search.halves),
            tables={"kinds": kinds, "variables": variables},
        )


class _Search:
    """The two halves and the questions, put to one dictionary after another."""

    def __init__(self, halves: tuple[Half, Half], questions: Questions, settings: TruthSettings) -> None:
        self.halves, self.questions, self.settings = halves, questions, settings
        self.codes: list[Codes] = [questions.codes(half.labelled) for half in halves]
        kinds = questions.kind_counts(self.codes[0])
        self.n_selection = np.where(questions.by_absence, len(halves[0].labelled) - kinds, kinds)

    def found(self, source: Source) -> _Found:
        """Choose on the selection half and score on the other."""
        (selection, scoring), (first, second) = self.halves, self.codes
        choice = choose(
            source.blocks(selection.acts),
            first,
            self.questions,
            n_tokens=len(selection.labelled),
            min_tokens=self.settings.min_tokens,
            per_halving=self.settings.per_halving,
        )
        columns = source.picked(scoring.acts, np.unique(choice.column[choice.column >= 0]))
        findings = score(columns, choice, second, self.questions, n_tokens=len(scoring.labelled))
        return _Found(size=source.size, choice=choice, findings=findings, finite=source.finite)


def _by_variable(questions: Questions, values: Float[np.ndarray, " Q"]) -> np.ndarray:
    return np.array([values[span].mean() for span in questions.spans.values()])


def _mean(values: np.ndarray) -> Estimate:
    n = len(values)
    stderr = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
    return Estimate(value=float(values.mean()), stderr=stderr, n=n)


def _series(questions: Questions, name: str, means: np.ndarray) -> Series:
    known = dict(zip(questions.spans, means.tolist(), strict=True))
    sizes = dict(zip(questions.spans, _sizes(questions), strict=True))
    return Series(
        name=name,
        x_name="variable",
        x=[float(i) for i in range(len(VARIABLES))],
        value=[known.get(variable) for variable in VARIABLES],
        n=[sizes.get(variable, 0) for variable in VARIABLES],
    )


def _sizes(questions: Questions) -> list[int]:
    return [span.stop - span.start for span in questions.spans.values()]


def _extend(table: dict[str, list[Any]], source: str, rows: dict[str, list[Any]]) -> None:
    n = len(next(iter(rows.values())))
    for name, values in {"source": [source] * n, **rows}.items():
        table.setdefault(name, []).extend(values)


def _kind_rows(search: _Search, one: _Found) -> dict[str, list[Any]]:
    items, choice, found = search.questions.items, one.choice, one.findings
    columns = [None if id < 0 else id for id in choice.column.tolist()]
    return {
        "variable": [q.variable for q in items],
        "kind": [q.kind for q in items],
        "asked": ["absence" if q.by_absence else "presence" for q in items],
        "n_selection": search.n_selection.tolist(),
        "n": found.n_positive.tolist(),
        "latent": [None if id is None else id % one.size for id in columns],
        "sign": [None if id is None else 1 - 2 * (id // one.size) for id in columns],
        "answers_by": ["silence" if silent else "firing" for silent in choice.silence.tolist()],
        "threshold": choice.threshold.tolist(),
        "f1_selection": choice.f1.tolist(),
        "f1": found.f1.tolist(),
        "f1_chance": found.f1_chance.tolist(),
        "f1_adjusted": found.f1_adjusted.tolist(),
        "auc": found.auc.tolist(),
        "mi": found.mi.tolist(),
        "mi_share": found.mi_share.tolist(),
    }


def _data(halves: tuple[Half, Half]) -> DataInfo:
    first = halves[0].corpus
    digest = hashlib.sha256("".join(half.corpus.sha256 for half in halves).encode()).hexdigest()
    return DataInfo(
        corpus=SOURCE,
        revision=None,
        sha256=digest,
        n_contexts=sum(len(half.corpus.tokens) for half in halves),
        context_length=first.context_length,
        n_tokens_scored=sum(len(half.labelled) for half in halves),
        rule=f"{first.rule}; two halves, generated with seeds 2s and 2s + 1",
    )

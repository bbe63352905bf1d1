"""From the model's answers to scores: who is right, what the splice changes, and whether chance could have changed as much."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from saebench.metrics.base import ScoreSpec, finite_or_none
from saebench.record import Score
from saebench.stats import Estimate, ratio
from saebench.studies.cloze.examples import Example
from saebench.studies.cloze.passes import Answers

Right = Literal["last_word", "candidates", "first_token"]
Bools = NDArray[np.bool_]

_LAMBADA = "Paperno et al. 2016; Radford et al. 2019, §3.3"
_CBT = "Hill et al. 2016; Radford et al. 2019, §3.2"
_ANDERS = "Anders & Bloom 2024"


def _spec(name: str, definition: str, better: Literal["higher", "lower", "none"] = "none", **more: str) -> ScoreSpec:
    return ScoreSpec(name=name, definition=definition, better=better, **{"unit_n": "examples"} | more)


SPECS = (
    _spec("acc_clean", "share of examples that the clean model has right", source=f"{_LAMBADA}; {_CBT}"),
    _spec("acc_spliced", "share of examples that the model has right with recons in place of acts", "higher", source=_ANDERS),
    _spec("acc_delta", "acc_spliced − acc_clean, standard error from the differences by example", "higher"),
    _spec(
        "mcnemar_p",
        "probability that n_clean_only and n_spliced_only differ by as much or more if each example that changes were as likely "
        "to change either way (exact, two-sided; 1 where none changes)",
        source="McNemar 1947; binomial form",
    ),
    _spec(
        "delta_lnp_mean",
        "mean of ln p_spliced − ln p_clean of the right answer; among candidates, of it and the rest of its sentence",
        "higher", unit="nats", source=_ANDERS,
    ),
    _spec("delta_lnp_median", "median of the same difference", "higher", unit="nats", source=_ANDERS),
    _spec("ce_clean", "CE of the prompt's tokens from the second behind BOS on, clean", unit="nats", unit_n="tokens"),
    _spec("ce_spliced", "the same with recons in place of acts", "lower", unit="nats", unit_n="tokens", source=_ANDERS),
    _spec("ce_prompt_clean", "mean over examples of the CE of each prompt, clean", unit="nats", source=_ANDERS),
    _spec("ce_prompt_spliced", "the same with recons in place of acts", "lower", unit="nats", source=_ANDERS),
    _spec("n_both", "examples that are right clean and spliced", source=_ANDERS),
    _spec("n_clean_only", "examples that are right clean and wrong spliced", source=_ANDERS),
    _spec("n_spliced_only", "examples that are wrong clean and right spliced", source=_ANDERS),
    _spec("n_neither", "examples that are wrong clean and spliced", source=_ANDERS),
    _spec("acc_word_clean", "candidates only: share where the right word alone, without the rest, has the highest ln p; clean"),
    _spec("acc_word_spliced", "the same with recons in place of acts", "higher"),
    _spec("acc_word_delta", "acc_word_spliced − acc_word_clean, standard error from the differences by example", "higher"),
    _spec("acc_chance", "candidates only: mean of 1 / number of candidates"),
    _spec("acc_last_sentence", "acc_clean where the model sees the sentence of the gap alone"),
    _spec(
        "acc_5gram",
        "the same question put to a 5-gram model of words with stupid backoff, trained on text of the same kind",
        source="Brants et al. 2007, §4",
    ),
)  # fmt: skip
_PARTS = {
    "within_context": "over the prompts, BOS included, that are no longer than the context the SAE was trained at",
    "beyond_context": "over the longer prompts",
}
CONTEXT_SPECS = tuple(
    dataclasses.replace(spec, name=f"{spec.name}_{part}", definition=f"{spec.name} {which}")
    for part, which in _PARTS.items()
    for spec in SPECS
)
"""Every score once more for the prompts inside the SAE's training context, and for those beyond it."""
_BY_NAME = {spec.name: spec for spec in (*SPECS, *CONTEXT_SPECS)}


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """What others than the spliced model have right, ``[N]`` each; ``None`` where nobody was asked."""

    last_sentence: Bools
    ngram: Bools | None
    chance: NDArray[np.float64]
    """1 / number of candidates."""


def right(answers: Answers, examples: list[Example], how: Right, *, word_only: bool = False) -> Bools:
    """Return which examples are right.

    Args:
        answers: Of one pass.
        examples: The examples.
        how: ``last_word``: every token of the answer is the most likely one of the whole vocabulary, given those before it;
            ``first_token``: its first token is.
            ``candidates``: the answer's ln p is higher than that of every other candidate (a tie is wrong).
        word_only: For candidates, whether the rest of the sentence is left out.
    """
    index = np.array([example.answer for example in examples])
    if how != "candidates":
        return answers.best[np.arange(len(index)), index]
    return first_alone(answers.lnp_word if word_only else answers.lnp, index)


def first_alone(lnp: NDArray[np.float64], index: NDArray[np.int64]) -> Bools:
    """Return where ``lnp[n, index[n]]`` is above everything else in its row ``[N C]``."""
    rows = np.arange(len(index))
    others = lnp.copy()
    others[rows, index] = -np.inf
    return lnp[rows, index] > others.max(1)


def scores(clean: Answers, spliced: Answers, examples: list[Example], how: Right, baselines: Baselines) -> list[Score]:
    """Return every score of one SAE.

    Args:
        clean: The clean answers.
        spliced: Those with its recons.
        examples: The examples.
        how: What counts as right.
        baselines: What others have right.
    """
    n = len(examples)
    found: dict[str, Estimate] = {}
    is_clean, is_spliced = right(clean, examples, how), right(spliced, examples, how)
    found["acc_clean"], found["acc_spliced"], found["acc_delta"] = _accuracies(is_clean, is_spliced)
    counts = _counts(is_clean, is_spliced)
    found["mcnemar_p"] = Estimate(value=mcnemar(counts["n_clean_only"], counts["n_spliced_only"]), n=n)
    delta = of_answer(spliced.lnp, examples) - of_answer(clean.lnp, examples)
    found["delta_lnp_mean"] = ratio(delta, np.ones(n), n=n)
    found["delta_lnp_median"] = Estimate(value=float(np.median(delta)), n=n)
    for name, answers in (("ce_clean", clean), ("ce_spliced", spliced)):
        tokens = answers.ce_n.astype(np.float64)
        found[name] = ratio(answers.ce_sum, tokens, n=int(tokens.sum()), reason="no prompt has a token to predict")
        some = answers.ce_n > 0
        found[name.replace("ce_", "ce_prompt_")] = ratio(
            answers.ce_sum[some] / tokens[some], np.ones(some.sum()), n=int(some.sum()), reason="no prompt has a token to predict"
        )
    found |= {name: Estimate(value=float(value), n=n) for name, value in counts.items()}
    if how == "candidates":
        words = (right(answers, examples, how, word_only=True) for answers in (clean, spliced))
        found["acc_word_clean"], found["acc_word_spliced"], found["acc_word_delta"] = _accuracies(*words)
        found["acc_chance"] = Estimate(value=float(baselines.chance.mean()), n=n)
    found["acc_last_sentence"] = _share(baselines.last_sentence)
    found["acc_5gram"] = (
        Estimate(value=None, n=n, reason="there is no training text of this kind, or ngram_words is 0")
        if baselines.ngram is None
        else _share(baselines.ngram)
    )
    return [_BY_NAME[spec.name].score(found[spec.name]) for spec in SPECS if spec.name in found]


def scores_by_context(
    clean: Answers,
    spliced: Answers,
    examples: list[Example],
    how: Right,
    baselines: Baselines,
    *,
    n_tokens: NDArray[np.int64],
    trained: int | None,
) -> list[Score]:
    """Return every score over the prompts within the SAE's training context, and over those beyond it.

    Args:
        clean: The clean answers.
        spliced: Those with its recons.
        examples: The examples.
        how: What counts as right.
        baselines: What others have right.
        n_tokens: Length of each prompt ``[N]``, BOS included.
        trained: Context length that the SAE was trained at; ``None`` where it is not known.
    """
    within = n_tokens <= (trained or 0)
    names = [score.name for score in scores(clean, spliced, examples, how, baselines)]
    out = []
    for part, which in (("within_context", within), ("beyond_context", ~within)):
        if trained is None:
            reason = "the SAE's files do not say at which context length it was trained (--trained-context)"
        else:
            reason = f"every prompt is {'longer' if part == 'within_context' else 'no longer'} than its {trained} tokens"
        if trained is None or not which.any():
            out += [_BY_NAME[f"{name}_{part}"].score(Estimate(value=None, reason=reason)) for name in names]
            continue
        some = [example for example, taken in zip(examples, which, strict=True) if taken]
        others = Baselines(
            last_sentence=baselines.last_sentence[which],
            ngram=None if baselines.ngram is None else baselines.ngram[which],
            chance=baselines.chance[which],
        )
        found = scores(_some(clean, which), _some(spliced, which), some, how, others)
        out += [score.model_copy(update={"name": f"{score.name}_{part}"}) for score in found]
    return out


def _some(answers: Answers, which: Bools) -> Answers:
    found: dict[str, Any] = {field.name: getattr(answers, field.name) for field in dataclasses.fields(answers)}
    some: dict[str, Any] = {name: None if values is None else values[which] for name, values in found.items()}
    return Answers(**some)


def raw(clean: Answers, spliced: Answers, examples: list[Example]) -> dict[str, float | None]:
    """Return the sums behind the ratios."""
    delta = of_answer(spliced.lnp, examples) - of_answer(clean.lnp, examples)
    sums = {
        "ce_clean_sum": clean.ce_sum.sum(),
        "ce_spliced_sum": spliced.ce_sum.sum(),
        "prompt_tokens": clean.ce_n.sum(),
        "delta_lnp_sum": delta.sum(),
    }
    return {name: finite_or_none(float(value)) for name, value in sums.items()}


def rows(
    clean: Answers, spliced: Answers, examples: list[Example], how: Right, baselines: Baselines
) -> dict[str, list[Any] | NDArray[Any]]:
    """Return one row an example, as columns. What is not finite becomes null."""

    def per_token(answers: Answers) -> list[float | None]:
        pairs = zip(answers.ce_sum, answers.ce_n, strict=True)
        return [finite_or_none(float(total / n)) if n else None for total, n in pairs]

    def numbers(values: NDArray[np.float64]) -> list[float | None]:
        return [finite_or_none(float(value)) for value in values]

    table: dict[str, list[Any] | NDArray[Any]] = {
        "example": np.arange(len(examples)),
        "kind": [example.kind for example in examples],
        "answer": [example.candidates[example.answer] for example in examples],
        "right_clean": right(clean, examples, how),
        "right_spliced": right(spliced, examples, how),
        "lnp_clean": numbers(of_answer(clean.lnp, examples)),
        "lnp_spliced": numbers(of_answer(spliced.lnp, examples)),
        "ce_clean": per_token(clean),
        "ce_spliced": per_token(spliced),
        "right_last_sentence": baselines.last_sentence,
    }
    if spliced.mse is not None:
        table["mse"] = numbers(spliced.mse)
    if baselines.ngram is not None:
        table["right_5gram"] = baselines.ngram
    if how == "candidates":
        table |= {"right_word_clean": right(clean, examples, how, word_only=True)}
        table |= {"right_word_spliced": right(spliced, examples, how, word_only=True)}
        for name, answers in (("choice_clean", clean), ("choice_spliced", spliced)):
            best = np.nan_to_num(answers.lnp, nan=-np.inf).argmax(1)
            table[name] = [example.candidates[i] for example, i in zip(examples, best, strict=True)]
    return table


def mcnemar(clean_only: int, spliced_only: int) -> float:
    """Return the exact two-sided p of McNemar's test: Binomial(clean_only + spliced_only, 1/2); 1 where nothing changed."""
    from scipy.stats import binomtest

    changed = clean_only + spliced_only
    return float(binomtest(min(clean_only, spliced_only), changed, 0.5).pvalue) if changed else 1.0


def _counts(clean: Bools, spliced: Bools) -> dict[str, int]:
    return {
        "n_both": int((clean & spliced).sum()),
        "n_clean_only": int((clean & ~spliced).sum()),
        "n_spliced_only": int((~clean & spliced).sum()),
        "n_neither": int((~clean & ~spliced).sum()),
    }


def _share(values: Bools) -> Estimate:
    """Return the mean of independent examples with its standard error, √(p (1 − p) / (n − 1))."""
    return ratio(values.astype(np.float64), np.ones(len(values)), n=len(values))


def _accuracies(clean: Bools, spliced: Bools) -> tuple[Estimate, Estimate, Estimate]:
    delta = spliced.astype(np.float64) - clean.astype(np.float64)
    return _share(clean), _share(spliced), ratio(delta, np.ones(len(delta)), n=len(delta))


def of_answer(lnp: NDArray[np.float64], examples: list[Example]) -> NDArray[np.float64]:
    """Return ln p of the right answer ``[N]`` out of that of every candidate ``[N C]``."""
    return lnp[np.arange(len(examples)), [example.answer for example in examples]]

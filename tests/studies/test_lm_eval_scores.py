"""Scores of an lm-eval task by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saebench.studies.lm_eval.found import Found
from saebench.studies.lm_eval.scores import score_name, scores, scores_by_context, table


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def perplexity(values: list[float]) -> float:
    return float(np.exp(-np.mean(values)))


CLEAN, SPLICED = [1, 1, 0, 0, 1], [1, 0, 0, 1, 0]
LNP = np.array([[-1.0, -2.0, -3.0, -4.0, -5.0], [-1.5, -2.0, -4.0, -4.5, -9.0]])
TASK = Found(
    name="t",
    documents=[0, 1, 2, 3, 4],
    n_tokens=[3, 9, 8, 20, 8],
    metrics={("acc", "none"): [CLEAN, SPLICED], ("perplexity", "none"): LNP.tolist()},
    aggregations={"acc": mean, "perplexity": perplexity},
    higher_is_better={"acc": True, "perplexity": False},
    lnp=LNP,
)


def test_every_score_by_hand():
    found = {s.name: s for s in scores([TASK], 1, seed=0)}
    assert (found["acc_clean"].value, found["acc_spliced"].value) == (0.6, 0.4)
    differences = np.array(SPLICED) - np.array(CLEAN)
    assert found["acc_delta"].value == pytest.approx(-0.2)
    assert found["acc_delta"].stderr == pytest.approx(differences.std(ddof=1) / np.sqrt(5))
    assert [found[f"n_{k}"].value for k in ("both", "clean_only", "spliced_only", "neither")] == [1, 2, 1, 1]
    assert found["mcnemar_p"].value == 1
    assert found["delta_lnp_mean"].value == pytest.approx(-1.2) and found["delta_lnp_median"].value == pytest.approx(-0.5)
    assert found["perplexity_clean"].value == pytest.approx(np.exp(3.0))
    assert found["perplexity_delta"].value == pytest.approx(np.exp(4.2) - np.exp(3.0))
    assert found["perplexity_spliced"].better == "lower" and found["acc_spliced"].better == "higher"
    assert {s.n for s in found.values()} == {5}


def test_the_difference_of_what_is_no_mean_is_drawn_in_pairs():
    g = np.random.default_rng(1)
    lnp = g.normal(-2, 0.5, 400)
    pair = np.array([lnp, lnp - 0.1])  # the same change everywhere
    one = Found(
        name="t",
        documents=list(range(400)),
        metrics={("perplexity", "none"): pair.tolist()},
        aggregations={"perplexity": perplexity},
    )
    found = {s.name: s for s in scores([one], 1, seed=0)}
    # by the delta method the s.e. of exp(−mean) is exp(−mean) · sd / √n; the difference has (e^0.1 − 1) of it
    error = np.exp(-lnp.mean()) * lnp.std(ddof=1) / 20
    assert found["perplexity_clean"].stderr == pytest.approx(error, rel=0.2)
    assert found["perplexity_delta"].stderr == pytest.approx(error * (np.exp(0.1) - 1), rel=0.2)
    again = {s.name: s for s in scores([one], 1, seed=0)}
    assert again["perplexity_delta"].stderr == found["perplexity_delta"].stderr


def test_tasks_of_a_group_count_by_document():
    other = Found(
        name="u", documents=[0, 1], n_tokens=[4, 4], metrics={("acc", "none"): [[1, 1], [1, 1]]}, aggregations={"acc": mean},
        higher_is_better={"acc": True},
    )  # fmt: skip
    found = {s.name: s for s in scores([TASK, other], 1, seed=0)}
    assert found["acc_clean"].value == pytest.approx(5 / 7) and found["acc_clean"].n == 7
    assert found["delta_lnp_mean"].n == 5, "only the first task has a right answer with a likelihood"
    rows = table([TASK, other], 1)
    assert rows["task"] == ["t"] * 5 + ["u"] * 2 and rows["document"] == [0, 1, 2, 3, 4, 0, 1]
    assert rows["n_tokens"] == [3, 9, 8, 20, 8, 4, 4]
    assert rows["acc_spliced"] == [*map(float, SPLICED), 1.0, 1.0] and rows["lnp_spliced"][5:] == [None, None]
    assert rows["perplexity_clean"][5:] == [None, None]


def test_every_score_is_split_at_the_training_context():
    other = Found(
        name="u",
        documents=[0, 1],
        n_tokens=[40, 8],
        metrics={("f1", "none"): [[1.0, 0.0], [0.5, 0.25]]},
        aggregations={"f1": mean},
    )
    other.metrics["odd", "none"] = [[1.0], [2.0]]  # which not every document has
    assert set(other.some(np.array([True, False])).metrics) == {("f1", "none")}
    whole = scores([TASK, other], 1, seed=0)
    found = {s.name: s for s in scores_by_context([TASK, other], 1, whole, seed=0, trained=8)}
    assert list(found) == [f"{score.name}_{part}_context" for part in ("within", "beyond") for score in whole]
    assert (found["acc_clean_within_context"].value, found["acc_clean_within_context"].n) == (pytest.approx(2 / 3), 3)
    assert (found["acc_spliced_beyond_context"].value, found["acc_spliced_beyond_context"].better) == (0.5, "higher")
    assert found["delta_lnp_mean_within_context"].value == pytest.approx((-0.5 - 1.0 - 4.0) / 3)
    assert found["delta_lnp_median_beyond_context"].value == pytest.approx(-0.25)
    assert found["perplexity_clean_beyond_context"].value == pytest.approx(np.exp(3.0))
    assert (found["f1_delta_within_context"].value, found["f1_delta_beyond_context"].value) == (0.25, -0.5)
    found = {s.name: s for s in scores_by_context([TASK, other], 1, whole, seed=0, trained=20)}
    assert found["f1_clean_beyond_context"].value == 1.0 and found["acc_clean_beyond_context"].value is None
    assert "no document with a context of more than 20 tokens" in (found["acc_clean_beyond_context"].reason or "")
    for score in scores_by_context([TASK], 1, whole, seed=0, trained=None):
        assert score.value is None and "--trained-context" in (score.reason or "")


def test_what_has_no_likelihood_says_so():
    one = Found(name="t", documents=[0, 1], metrics={("f1", "none"): [[0.5, 0.2], [0.1, 0.3]]}, aggregations={"f1": mean})
    found = {s.name: s for s in scores([one], 1, seed=0)}
    assert found["delta_lnp_mean"].value is None and "no likelihood" in (found["delta_lnp_mean"].reason or "")
    assert "n_both" not in found and found["f1_delta"].better == "none"


def test_documents_without_a_right_answer_are_left_out_of_its_likelihood():
    lnp = LNP.copy()
    lnp[:, 4] = np.nan
    some = {s.name: s for s in scores([replace(TASK, lnp=lnp)], 1, seed=0)}
    assert (some["delta_lnp_mean"].value, some["delta_lnp_mean"].n) == (pytest.approx(-0.5), 4)
    assert some["acc_clean"].n == 5 and table([replace(TASK, lnp=lnp)], 1)["lnp_spliced"][4] is None
    parts = scores_by_context([replace(TASK, lnp=np.full_like(LNP, np.nan))], 1, list(some.values()), seed=0, trained=8)
    assert all(score.value is None for score in parts if score.name.startswith("delta_lnp"))
    lnp[1, 0] = np.nan  # a spliced model that overflows is no document without an answer
    broken = {s.name: s for s in scores([replace(TASK, lnp=lnp)], 1, seed=0)}
    assert broken["delta_lnp_mean"].value is None and broken["delta_lnp_median"].value is None


def test_names_of_filters():
    assert score_name(("acc", "none")) == "acc"
    assert score_name(("exact_match", "strict-match")) == "exact_match_strict_match"

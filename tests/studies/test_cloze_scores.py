"""Scores of a cloze task by hand, and the 5-gram model against counting by brute force."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from saebench.errors import InputError
from saebench.studies.cloze.examples import Example, with_blank
from saebench.studies.cloze.ngram import BACKOFF, NGram, training_words, words_of
from saebench.studies.cloze.passes import Answers
from saebench.studies.cloze.scores import SPECS, Baselines, mcnemar, right, scores
from saebench.studies.cloze.sources.storyworld import storyworld_cbt, storyworld_lambada


def answers(lnp: list[list[float]], word: list[list[float]] | None = None, ce: float = 2.0) -> Answers:
    table = np.array(lnp)
    n = len(table)
    return Answers(
        lnp=table,
        lnp_word=table if word is None else np.array(word),
        best=table > -1,
        ce_sum=np.full(n, 3 * ce),
        ce_n=np.full(n, 3),
    )


EXAMPLES = [Example(prompt="a", candidates=("x", "y"), answer=i % 2) for i in range(4)]
BASELINES = Baselines(last_sentence=np.array([True, False, False, False]), ngram=None, chance=np.full(4, 0.5))


def test_every_score_by_hand():
    clean = answers([[-1.0, -2.0], [-3.0, -1.0], [-1.0, -2.0], [-1.0, -1.0]])  # right, right, right, a tie
    spliced = answers([[-2.0, -1.0], [-3.0, -1.0], [-5.0, -2.0], [-3.0, -2.0]], ce=2.5)  # wrong, right, wrong, right
    found = {s.name: s for s in scores(clean, spliced, EXAMPLES, "candidates", BASELINES)}
    assert (found["acc_clean"].value, found["acc_spliced"].value, found["acc_delta"].value) == (0.75, 0.5, -0.25)
    assert found["acc_clean"].stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    differences = np.array([-1, 0, -1, 1])
    assert found["acc_delta"].stderr == pytest.approx(differences.std(ddof=1) / 2)
    assert [found[f"n_{k}"].value for k in ("both", "clean_only", "spliced_only", "neither")] == [1, 2, 1, 0]
    assert found["mcnemar_p"].value == 1.0
    change = np.array([-1.0, 0.0, -4.0, -1.0])
    assert (found["delta_lnp_mean"].value, found["delta_lnp_median"].value) == (change.mean(), -1.0)
    assert found["delta_lnp_mean"].stderr == pytest.approx(change.std(ddof=1) / 2)
    assert (found["ce_clean"].value, found["ce_spliced"].value, found["ce_clean"].n) == (2.0, 2.5, 12)
    assert found["acc_last_sentence"].value == 0.25 and found["acc_chance"].value == 0.5
    assert found["acc_5gram"].status == "undefined" and found["acc_word_clean"].value == 0.75
    assert {s.unit_n for s in found.values()} == {"examples", "tokens"}
    assert set(found) == {spec.name for spec in SPECS}


def test_a_last_word_has_no_candidates_to_choose_from():
    one = [Example(prompt="a", candidates=("x",), answer=0)] * 2
    clean = answers([[-0.5], [-2.0]])
    found = {
        s.name: s.value for s in scores(clean, clean, one, "last_word", Baselines(**vars(BASELINES) | {"chance": np.ones(2)}))
    }
    assert found["acc_clean"] == 0.5 and "acc_word_clean" not in found and "acc_chance" not in found


def test_what_is_not_a_number_is_never_right():
    found = right(answers([[float("nan"), -1.0], [-1.0, float("nan")]]), EXAMPLES[:2], "candidates")
    assert found.tolist() == [False, False]


@pytest.mark.parametrize(("clean_only", "spliced_only"), list(product(range(0, 12, 3), range(0, 9, 2))))
def test_mcnemar_is_the_exact_binomial(clean_only: int, spliced_only: int):
    n, least = clean_only + spliced_only, min(clean_only, spliced_only)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar(clean_only, spliced_only) == pytest.approx(min(1.0, 2 * tail))


def brute(words: list[str], context: tuple[str, ...], word: str) -> float:
    """Stupid backoff, straight from its definition."""
    context = context[-4:]
    if not context:
        return words.count(word) / (len(words) - words.count(""))
    k = len(context)
    followers = [words[i] for i in range(k, len(words)) if tuple(words[i - k : i]) == context and words[i]]
    return followers.count(word) / len(followers) if word in followers else BACKOFF * brute(words, context[1:], word)


def test_the_ngram_model_is_counting():
    g = np.random.default_rng(0)
    words = [str(w) for w in g.choice(list("abcd"), 400)]
    words[100] = words[250] = ""  # ends of documents
    contexts = [tuple(str(w) for w in g.choice(list("abcd"), n)) for n in (0, 1, 2, 3, 4, 6) for _ in range(5)]
    model = NGram(words, contexts)
    for context in contexts:
        for word in "abcd":
            assert model.score(context, word) == pytest.approx(brute(words, context, word))
        assert model.best(context) == max("abcd", key=lambda w: (model.score(context, w), -ord(w)))
    assert model.score(contexts[-1], "never") == 0 and model.lnp(contexts[-1], ("never",)) == -math.inf
    known = NGram(words, [("a", "b"), ("a", "b", "c")])
    assert known.lnp(("a", "b"), ("c", "d")) == pytest.approx(
        math.log(brute(words, ("a", "b"), "c")) + math.log(brute(words, ("a", "b", "c"), "d"))
    )
    assert NGram([], [("a",)]).best(("a",)) is None


def test_words_and_how_many_of_them_are_read():
    assert words_of('"It\'s 12," he said.') == ('"', "It", "'", "s", "12", ",", '"', "he", "said", ".")
    texts = ["a b c", "d e", "f"]
    assert training_words(lambda: iter(texts), 4) == ["a", "b", "c", "", "d", "e", ""]


@pytest.mark.parametrize(
    ("query", "prompt", "rest", "lead"),
    [
        ("Now it was with XXXXX.", "One. Two. Now it was with", ".", " "),
        ("XXXXX had it.", "One. Two.", " had it.", " "),
        ('"XXXXX has it," she said.', 'One. Two. "', ' has it," she said.', ""),
    ],
)
def test_a_blank_becomes_a_gap(query: str, prompt: str, rest: str, lead: str):
    example = with_blank("One. Two.", query, ["Ann", "Bo"], "Bo")
    assert (example.prompt, example.rest, example.lead, example.answer) == (prompt, rest, lead, 1)
    assert example.filled("Bo") == f"One. Two. {query.replace('XXXXX', 'Bo')}"


def test_bad_blanks_are_refused():
    for query in ("no blank", "XXXXX and XXXXX"):
        with pytest.raises(InputError, match="must have one blank"):
            with_blank("One.", query, ["a", "b"], "a")
    with pytest.raises(InputError, match="the answer 'c' is not among the candidates a, b"):
        with_blank("One.", "XXXXX.", ["a", "b"], "c")


def test_generated_examples_are_whole_and_seeded():
    for source, width in ((storyworld_lambada, 1), (storyworld_cbt, 10)):
        texts = source(3, 6)
        assert [len(example.candidates) for example in texts.examples] == [width] * 6
        assert texts.sha256() == source(3, 6).sha256() != source(4, 6).sha256()
        assert all(example.candidates[example.answer] in example.prompt for example in texts.examples)
        assert texts.training is not None and next(texts.training())
    from saebench.data.storyworld import lambada

    assert [e.filled(e.candidates[0]) for e in storyworld_lambada(3, 2).examples] == [item.text for item in lambada(3, 2)]

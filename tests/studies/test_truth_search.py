"""What is chosen and what it is worth: planted answers, noise, and the definitions followed by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from saebench.data.storyworld import VARIABLES
from saebench.errors import InputError
from saebench.studies.truth import columns as columns_module
from saebench.studies.truth.columns import Columns, Directions, Latents, mean_and_components, random_dictionary
from saebench.studies.truth.counting import Counter
from saebench.studies.truth.questions import Labelled, make_questions
from saebench.studies.truth.search import Choice, Findings, levels, n_thresholds
from tests.studies.truth_cases import WIDTH, N, copying_sae, draw, on, one_hot, study

HALVES = draw(0), draw(1)


def noise(seed: int, n: int = N, d: int = 60) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g).relu() * (torch.rand(n, d, generator=g) < 0.2)


def normal(seed: int) -> Tensor:
    return torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(seed))


def same(a: Findings | Choice, b: Findings | Choice, rtol: float = 0.0) -> None:
    for field in dataclasses.fields(a):
        assert_allclose(getattr(a, field.name), getattr(b, field.name), rtol=rtol, err_msg=field.name)


def test_questions_are_the_kinds_that_both_halves_hold():
    questions = make_questions(*HALVES, min_tokens=10, min_contexts=3)
    asked = [(q.variable, q.kind, q.by_absence) for q in questions.items]
    assert asked[:3] == [("tense", "future", False), ("tense", "past", False), ("tense", "present", False)]
    assert ("negation", "affirmative", True) in asked and ("negation", "negated", False) in asked
    assert not any(kind == "none" for _, kind, _ in asked) and len(asked) == 3 + 2 + 2 + 12 + 4 + 1
    for variable, span in questions.spans.items():
        assert {q.variable for q in questions.items[span]} == {variable}
    codes = questions.codes(HALVES[0])
    assert_array_equal(codes["tense"], np.array([0, 2, 3, 1])[HALVES[0].labels["tense"]])
    assert_array_equal(questions.kind_counts(codes)[:3], np.bincount(HALVES[0].labels["tense"])[[3, 1, 2]])


def test_rare_and_local_kinds_are_not_asked_for():
    first, second = draw(0), draw(1)
    label = np.zeros(N, dtype=np.int16)
    label[:30] = 1  # 30 tokens, all of one context
    label[100:109], label[1100:1109] = 2, 2  # 18 tokens of two contexts
    label[::80] = 3  # 50 tokens of 50 contexts
    halves = (Labelled({"tense": label}, first.context), Labelled({"tense": label}, second.context))
    kinds = [q.kind for q in make_questions(*halves, min_tokens=20, min_contexts=3).items]
    assert kinds == ["future"]
    kinds = [q.kind for q in make_questions(*halves, min_tokens=18, min_contexts=2).items]
    assert kinds == ["future", "present"]
    other = (halves[0], Labelled({"tense": np.zeros(N, dtype=np.int16)}, second.context))
    with pytest.raises(InputError, match=r"4000 and 4000 tokens of text are too few for any question.*--limit"):
        make_questions(*other, min_tokens=18, min_contexts=2)


def test_thresholds_halve_the_entries():
    values = np.array([9, 8, 7, 6, 5, 4, 3, 2, 5, 5, 5, 1], dtype=np.float32)
    columns = Columns(ids=np.array([0, 1]), offsets=np.array([0, 8, 12]), tokens=np.arange(12), values=values)
    assert levels(columns, 1, 9).tolist() == [3, 2, 1, 1, 0, 0, 0, 0, 2, 2, 2, 0]
    assert levels(columns, 2, 9).tolist() == [6, 4, 2, 2, 1, 0, 0, 0, 4, 4, 4, 0]
    assert levels(columns, 1, 2).max() == 1
    assert n_thresholds(1000, 1000, 2) == 4 and n_thresholds(1024, 1, 1) == 13


def test_a_dictionary_of_the_labels_themselves_scores_1_on_everything():
    _, choice, found = study(lambda half, _: one_hot(half))
    for values in (choice.f1, found.f1, found.f1_adjusted, found.auc, found.mi_share):
        assert_allclose(values, 1.0, rtol=1e-12)
    assert (choice.threshold == 0).all()


def test_the_column_of_the_label_is_found_and_absence_is_its_silence():
    questions, choice, _ = study(
        lambda half, _: one_hot(half), halves=(draw(0, names=("negation",)), draw(1, names=("negation",)))
    )
    assert [q.kind for q in questions.items] == ["affirmative", "negated"]
    assert choice.column.tolist() == [1, 2] and choice.silence.tolist() == [True, False]
    # without a column for "affirmative", one for what it is not answers by firing
    both = study(lambda half, _: 1 - one_hot(half)[:, 1:2], halves=(draw(0, names=("negation",)), draw(1, names=("negation",))))
    assert both[1].silence[0] == np.False_ and both[2].f1[0] == both[2].auc[0] == 1


def test_noise_is_near_chance():
    _, choice, found = study(lambda half, i: noise(10 + i))
    assert_allclose(found.auc, 0.5, atol=0.15)
    assert abs(found.auc.mean() - 0.5) < 0.02
    assert found.mi_share.mean() < 0.005 and found.f1_adjusted.mean() < 0.01
    assert (found.f1 <= found.f1_chance + 0.05).all()
    assert choice.f1.mean() > found.f1.mean()  # the choice flatters itself, which is why there is a second half


def test_what_is_right_on_the_selection_half_only_does_not_score():
    _, choice, found = study(lambda half, i: one_hot(half) if i == 0 else one_hot(draw(99)))
    assert_allclose(choice.f1, 1.0)
    assert found.f1_adjusted.max() < 0.15 and found.f1_adjusted.mean() < 0.02  # of the rarest kind there are 28 tokens
    assert abs(found.auc.mean() - 0.5) < 0.02 and found.mi_share.mean() < 0.005


def test_more_noise_scores_lower():
    scores = []
    for amount in (0.0, 0.3, 0.6, 1.2, 3.0):
        _, _, found = study(
            lambda half, i, a=amount: (
                one_hot(half) + a * torch.randn(N, WIDTH, generator=torch.Generator().manual_seed(i))
            ).relu()
        )
        scores.append([found.f1_adjusted.mean(), found.auc.mean(), found.mi_share.mean()])
    assert np.diff(np.array(scores), axis=0).max() < 0, scores


def test_the_order_of_the_columns_changes_nothing():
    order = torch.randperm(WIDTH + 60, generator=torch.Generator().manual_seed(0))

    def acts(half: Labelled, i: int) -> Tensor:
        blurred = one_hot(half) * (torch.rand(N, WIDTH, generator=torch.Generator().manual_seed(i)) < 0.5)
        return torch.cat([blurred, noise(i)], 1)

    _, choice, found = study(acts)
    _, other, moved = study(lambda half, i: acts(half, i)[:, order])
    same(found, moved)
    assert_array_equal(order[other.column].numpy(), choice.column)
    assert_array_equal(choice.threshold, other.threshold)


def best_by_hand(values: Tensor, yes: np.ndarray, per_halving: int, either: bool) -> float:
    """Return the best F1 over every column and threshold, with a loop for each."""
    best = 0.0
    for column in values.T.numpy():
        active = np.sort(column[column > 0])[::-1]
        for b in itertools.count():
            top = int(np.floor(len(active) * 2 ** (-b / per_halving) + 1e-9))
            if top < 1:
                break
            said = column >= active[top - 1]
            for answer in (said, ~said) if either else (said,):
                best = max(best, 2 * (answer & yes).sum() / (answer.sum() + yes.sum()))
    return best


@pytest.mark.parametrize("per_halving", [1, 2])
def test_every_column_and_threshold_is_tried(per_halving):
    halves = draw(4, 600), draw(5, 600)
    acts = [
        torch.cat([noise(i, 600, 20).mul(4).round(), one_hot(half)[:, ::3] * noise(50 + i, 600, 10)], 1)
        for i, half in enumerate(halves)
    ]
    questions, choice, found = study(lambda _, i: acts[i], halves=halves, min_tokens=2, per_halving=per_halving)
    labels = [half.labels for half in halves]
    for q, question in enumerate(questions.items):
        yes = [(own[question.variable] == question.label) ^ question.by_absence for own in labels]
        assert choice.f1[q] == pytest.approx(best_by_hand(acts[0], yes[0], per_halving, question.by_absence))
        column = acts[1][:, choice.column[q]].numpy()
        said = ((column > 0) & (column >= choice.threshold[q])) ^ choice.silence[q]
        assert found.f1[q] == pytest.approx(2 * (said & yes[1]).sum() / (said.sum() + yes[1].sum()))
        assert found.n_positive[q] == yes[1].sum()


@pytest.mark.parametrize("n_entries", [50, 5000])  # few: a variable at a time; many: several at once
def test_counts_by_kind(n_entries):
    rng = np.random.default_rng(0)
    widths = {"a": 3, "b": 13, "c": 2, "d": 5, "e": 300}
    codes = {name: rng.integers(0, width, 200) for name, width in widths.items()}
    column, level, tokens = rng.integers(0, 2, n_entries), rng.integers(0, 4, n_entries), rng.integers(0, 200, n_entries)
    seen = dict(Counter(codes, widths).reached(column * 4 + level, tokens, 2, 4))
    assert sorted(seen) == sorted(widths)
    for name, counts in seen.items():
        expected = np.zeros((2, 4, widths[name]), dtype=int)
        for c, top, token in zip(column, level, tokens, strict=True):
            expected[c, : top + 1, codes[name][token]] += 1
        assert_array_equal(counts, expected)


def test_thresholds_cost_little_against_all_that_there_are():
    halves = draw(4, 600, ("tense",)), draw(5, 600, ("tense",))
    acts = [one_hot(half) + torch.randn(600, 4, generator=torch.Generator().manual_seed(i)) for i, half in enumerate(halves)]
    _, coarse, _ = study(lambda _, i: acts[i].relu(), halves=halves)
    _, fine, _ = study(lambda _, i: acts[i].relu(), halves=halves, per_halving=200)
    assert (coarse.f1 <= fine.f1).all() and (coarse.f1 > fine.f1 - 0.03).all()


@pytest.mark.parametrize("kind", ["latents", "channels", "components"])
@pytest.mark.parametrize("most", [1, 5000, 40_000])
def test_memory_limit_changes_nothing(kind, most):
    acts = tuple(torch.cat([one_hot(half), noise(i)], 1) + 0.1 * noise(7 + i, d=WIDTH + 60) for i, half in enumerate(HALVES))
    mean, components = mean_and_components(acts[0])

    def source(**options: int):
        if kind == "latents":
            return Latents(copying_sae(WIDTH + 60), **options)
        return Directions(mean, components if kind == "components" else None, **options)

    whole, parts = source(), source(max_entries=most)
    blocks = list(parts.blocks(acts[0]))
    assert len(blocks) > 1 and all(len(b.values) <= max(most, 2 * N) for b in blocks)
    _, choice, found = on(whole, HALVES, acts)
    _, other, again = on(parts, HALVES, acts)
    rtol = 1e-5 if kind == "components" else 0.0  # of products of another shape the last bit may differ
    same(choice, other, rtol)
    same(found, again, rtol)


def test_pieces_of_the_text_change_nothing(monkeypatch):
    acts = tuple(torch.cat([one_hot(half), noise(i)], 1) for i, half in enumerate(HALVES))
    whole = [on(source, HALVES, acts)[2] for source in (Latents(copying_sae(WIDTH + 60)), Directions(acts[0].mean(0)))]
    monkeypatch.setattr(columns_module, "_PIECE", 317)
    for source, found in zip((Latents(copying_sae(WIDTH + 60)), Directions(acts[0].mean(0))), whole, strict=True):
        same(found, on(source, HALVES, acts)[2])


def test_a_channel_answers_on_both_sides():
    acts = tuple(5 - 3 * one_hot(half) for half in HALVES)  # low where the label holds
    mean = acts[0].mean(0)
    _, choice, found = on(Directions(mean), HALVES, acts)
    assert_allclose(found.f1, 1.0)
    assert_allclose(found.auc, 1.0)
    questions = make_questions(*HALVES, min_tokens=10, min_contexts=3)
    starts = np.cumsum([0, *(len(VARIABLES[name].values) for name in HALVES[0].labels)])
    wanted = [starts[list(HALVES[0].labels).index(q.variable)] + q.label for q in questions.items]
    sought = ~questions.by_absence
    assert_array_equal(choice.column[sought], np.array(wanted)[sought] + WIDTH)


def test_signed_latents_are_two_columns():
    acts = tuple(one_hot(half)[:, 1:2] - one_hot(half)[:, 2:3] for half in HALVES)  # past above 0, present below
    _, choice, found = on(Latents(copying_sae(1, activation="abstopk", k=1)), HALVES, acts)
    assert choice.column[1:3].tolist() == [0, 1] and found.f1[1:3].tolist() == [1, 1]
    many = Latents(copying_sae(1, activation="abstopk", k=1), max_entries=1)
    assert [b.ids.tolist() for b in many.blocks(acts[0])] == [[0, 1]]


def test_a_dead_dictionary_knows_nothing():
    source = Latents(copying_sae(7))
    questions, choice, found = on(source, HALVES, (torch.zeros(N, 7), torch.zeros(N, 7)))
    assert (choice.column == -1).all() and (found.f1 == 0).all() and (found.mi < 1e-12).all() and (found.auc == 0.5).all()
    assert source.l0 == 0 and source.finite and len(questions) == 24


def test_a_column_that_dies_on_the_scoring_half_scores_nothing():
    _, choice, found = study(lambda half, i: one_hot(half) * (1 - i))
    assert (choice.column >= 0).all() and (found.auc == 0.5).all() and (found.mi < 1e-12).all()
    assert (found.f1_adjusted < 1e-12).all()


def test_numbers_that_are_not_finite_are_noticed():
    acts = one_hot(HALVES[0])
    acts[5, 3] = torch.inf
    for source in (Latents(copying_sae(WIDTH)), Directions(torch.zeros(WIDTH))):
        assert sum(len(b) for b in source.blocks(acts)) > WIDTH - 3 and not source.finite


def test_components_are_those_of_the_covariance():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.tensor([1.0, 5, 2, 0.1, 3, 4])) + 7
    mean, components = mean_and_components(x)
    assert_allclose(mean, x.mean(0), rtol=1e-5)
    _, _, right = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    assert_allclose((components.T @ right.T).abs(), np.eye(6), atol=1e-4)


def test_random_directions_have_length_1_and_fire_k_at_a_time():
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)) + 3
    sae = random_dictionary(x.mean(0), 64, 5, seed=1)
    assert_allclose(sae.W_enc.norm(dim=0), 1.0, rtol=1e-5)
    source = Latents(sae)
    list(source.blocks(x))
    assert source.l0 is not None and 4.9 < source.l0 <= 5
    again, other = random_dictionary(x.mean(0), 64, 5, seed=1), random_dictionary(x.mean(0), 64, 5, seed=2)
    assert torch.equal(sae.W_enc, again.W_enc) and not torch.equal(sae.W_enc, other.W_enc)

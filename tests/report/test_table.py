from __future__ import annotations

from pathlib import Path

import pytest

from saebench.errors import InputError
from saebench.report.select import load_records, where
from saebench.report.table import make_table
from tests.helpers import make_record, make_score, save


def _labels(table) -> list[str]:
    return [table.label(c) for c in table.columns]


def _names(table) -> list[str]:
    return [row.first.sae.name for row in table.rows]


def test_one_row_per_sae_model_site_and_seed():
    records = [make_record(s, model=m, site=x, seed=k) for s in "ab" for m in "mn" for x in "xy" for k in (0, 1)]
    assert len(make_table(records).rows) == 16


def test_two_tasks_of_one_sae_share_a_row_and_name_their_columns():
    table = make_table([make_record(task="core"), make_record(task="other")])
    assert len(table.rows) == 1
    assert _labels(table) == ["core:l0@1", "other:l0@1", "core:explained_variance@1 ↑", "other:explained_variance@1 ↑"]


def test_two_versions_never_share_a_column():
    table = make_table([make_record("a", version=1), make_record("b", version=2)], scores=["l0"])
    assert _labels(table) == ["l0@1", "l0@2"]
    assert [table.texts(c) for c in table.columns] == [["4.00 ± 0.50", "n/a"], ["n/a", "4.00 ± 0.50"]]
    assert any("no record of core@2 has it" in note for note in table.notes())


def test_the_same_question_answered_twice_gives_two_rows_and_a_warning():
    table = make_table([make_record(data={"n_contexts": 4}), make_record(data={"n_contexts": 8})])
    assert len(table.rows) == 2
    assert any("measured differently (n_contexts: 4, 8)" in note for note in table.notes())


def test_default_columns_are_those_that_exist_and_any_score_can_be_asked_for():
    record = make_record(scores=[make_score("odd", 1.0), make_score("l0", 2.0)])
    assert _labels(make_table([record])) == ["l0@1"]
    assert _labels(make_table([record], scores=["odd"])) == ["odd@1"]
    assert _labels(make_table([record], scores=["all"])) == ["odd@1", "l0@1"]
    assert _labels(make_table([record], scores=["l0@1", "odd"])) == ["l0@1", "odd@1"]


def test_what_a_study_is_about_is_among_the_default_columns():
    names = ("ce_clean", "n_both", "acc_clean", "acc_spliced", "acc_delta", "truth_auc", "truth_f1_adjusted")
    table = make_table([make_record(scores=[make_score(name, 0.5) for name in names])])
    assert [c.score for c in table.columns] == ["ce_clean", "acc_clean", "acc_spliced", "acc_delta", "truth_f1_adjusted"]


def test_a_task_without_a_column_is_named_where_nobody_chose_the_columns():
    records = [make_record(), make_record(task="lm-eval:gen", scores=[make_score("exact_match_clean", 0.5)])]
    (line,) = [note for note in make_table(records).notes() if note.startswith("not shown")]
    assert line.startswith("not shown: lm-eval:gen@1; ") and "--metric all" in line
    assert line in make_table(records, sort="l0").notes()
    for scores in (["l0"], ["all"]):
        assert not any("not shown" in note for note in make_table(records, scores=scores).notes())
    assert not any("not shown" in note for note in make_table(records[1:]).notes())


def test_an_unknown_score_is_an_error_with_a_suggestion():
    with pytest.raises(InputError, match="Did you mean 'explained_variance'"):
        make_table([make_record()], scores=["explained_varience"])
    with pytest.raises(InputError, match="no record has a score 'l0@7'"):
        make_table([make_record()], sort="l0@7")


@pytest.mark.parametrize(("better", "expected"), [("higher", ["b", "c", "a", "d"]), ("lower", ["a", "c", "b", "d"])])
def test_sorting_puts_the_best_first_and_the_missing_last(better: str, expected: list[str]):
    values = {"a": 1.0, "b": 3.0, "c": 2.0, "d": None}
    records = [make_record(name, scores=[make_score("x", v, better=better)]) for name, v in values.items()]
    assert _names(make_table(records, scores=["x"], sort="x")) == expected


def test_the_order_does_not_depend_on_the_order_of_the_files():
    records = [make_record(s, site=f"blocks.{i}.hook") for s in "ab" for i in (10, 2)]
    one, two = make_table(records), make_table(records[::-1])
    assert one == two
    assert [row.first.sae.site for row in one.rows] == ["blocks.2.hook"] * 2 + ["blocks.10.hook"] * 2


def test_decimals_are_those_of_the_standard_error_and_aligned_down_the_column():
    scores = [make_score("x", 0.123456, 0.0123), make_score("x", 12.3, 0.0012)]
    table = make_table([make_record(n, scores=[s]) for n, s in zip("ab", scores, strict=True)], scores=["x"])
    assert table.texts(table.columns[0]) == ["0.1235 ± 0.0123", "12.3000 ± 0.0012"]


def test_a_count_has_no_decimals_and_a_tiny_value_is_not_shown_as_zero():
    table = make_table([make_record(scores=[make_score("c", 1234.0), make_score("t", 3e-9)])], scores=["all"])
    assert [table.texts(c) for c in table.columns] == [["1,234"], ["3.0e-09"]]


def test_missing_values_say_why_once():
    records = [make_record(n, scores=[make_score("x", None, reason="no context")]) for n in "ab"]
    table = make_table([*records, make_record("c", scores=[make_score("x", 1.0)])], scores=["x"])
    (note,) = [n for n in table.notes() if n.startswith("n/a")]
    assert note.startswith("n/a x@1 (a-")
    assert note.endswith(": no context")


def test_n_is_told():
    table = make_table([make_record(scores=[make_score("l0", 1.0, n=12345), make_score("kl", 1.0, n=99)])])
    assert table.notes() == ["n = 12,345 tokens: l0", "n = 99 tokens: kl"]


def _two(first: tuple[float, float | None], second: tuple[float, float | None], **fields) -> set[int]:
    records = [
        make_record(n, scores=[make_score("x", *pair, better=fields.get("better", "higher"))])
        for n, pair in zip("ab", (first, second), strict=True)
    ]
    table = make_table(records, scores=["x"])
    return table.best(table.columns[0])


def test_best_needs_a_lead_beyond_noise():
    assert _two((1.0, 0.1), (0.5, 0.1)) == {0}  # lead 0.5 > 1.96 · 0.141 = 0.277
    assert _two((1.0, 0.1), (0.8, 0.1)) == set()
    assert _two((1.0, 0.1), (0.5, 0.1), better="lower") == {1}
    assert _two((1.0, 0.1), (0.5, 0.1), better="none") == set()
    assert _two((1.0, None), (0.5, 0.1)) == set()
    assert _two((1.0, 0.0), (1.0, 0.0)) == set()


def test_best_compares_only_what_saw_the_same_tokens():
    scores = [make_score("x", 1.0, 0.01, better="higher"), make_score("x", 0.5, 0.01, better="higher")]
    records = [make_record(n, seed=k, scores=[s]) for k, (n, s) in enumerate(zip("ab", scores, strict=True))]
    table = make_table(records, scores=["x"])
    assert table.best(table.columns[0]) == set()


def test_the_footer_says_what_made_the_numbers():
    assert make_table([make_record(), make_record("b")]).footer() == "saebench 1.2.3 (commit abcdef01); core@1; 2 records"


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["sae=a"], ["a"]),
        (["sae=?"], ["a", "b"]),
        (["sae=a", "sae=b"], ["a", "b"]),
        (["sae=a", "architecture=relu"], ["a"]),
        (["architecture=topk"], ["b"]),
        (["model=org/m"], ["a", "b"]),
        (["task=core@1"], ["a", "b"]),
        (["seed=0", "format=native", "site=blocks.0.*"], ["a", "b"]),
    ],
)
def test_where(conditions: list[str], names: list[str]):
    records = [make_record("a"), make_record("b", architecture="topk")]
    assert [r.sae.name for r in where(records, conditions)] == names


@pytest.mark.parametrize(
    ("condition", "message"),
    [("sae", "not key=value"), ("mode=m", "Did you mean 'model'"), ("seed=7", "no record has seed=7; there are: 0")],
)
def test_where_says_what_is_wrong(condition: str, message: str):
    with pytest.raises(InputError, match=message):
        where([make_record()], [condition])


def test_overlapping_folders_count_a_record_once(tmp_path: Path):
    paths = save(tmp_path, make_record("a"), make_record("b"))
    assert len(load_records([tmp_path, tmp_path / "m", paths[0]]).records) == 2

"""Ours beside published numbers: what is put together, how far apart it is, and what is said where nothing fits."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from saebench.cli import main
from saebench.errors import InputError
from saebench.record import Record
from saebench.report.against import against, render
from saebench.report.published import load_published, published_names
from saebench.tasklist import StreamTask, load_task
from tests.helpers import make_record, make_score, save


def ours(layer: int, task: str = "anders_lambada", context: int = 16, **scores: tuple[float | None, float | None]) -> Record:
    found = [make_score(name, value, stderr) for name, (value, stderr) in scores.items()]
    return make_record(
        f"l{layer}",
        model="gpt2",
        task=task,
        site=f"blocks.{layer}.hook_resid_pre",
        scores=found,
        data={"context_length": context},
    )


def test_a_difference_is_in_standard_errors_of_both():
    records = [ours(10, acc_spliced=(0.2, 0.01)), ours(8, acc_spliced=(0.169, 0.0), delta_lnp_median=(-0.5, None))]
    found = against(records, "anders2024")
    assert [(p.score, p.site) for p in found.pairs] == [
        ("acc_spliced", "blocks.8.hook_resid_pre"),
        ("acc_spliced", "blocks.10.hook_resid_pre"),
        ("delta_lnp_median", "blocks.8.hook_resid_pre"),
    ]
    same, other, bare = found.pairs
    assert same.published == 0.169 and same.difference == 0 and same.in_stderrs == 0
    error = math.hypot(0.01, math.sqrt(0.132 * 0.868 / 999))
    assert other.difference == pytest.approx(0.068) and other.in_stderrs == pytest.approx(0.068 / error, rel=1e-3)
    assert bare.difference is not None and bare.in_stderrs is None, "neither side has a standard error"
    assert any("anders_lambada at blocks.0.hook_resid_pre" in note for note in found.notes)
    assert any(note.startswith("published, without a record of ours: anders_cbt_cn") for note in found.notes)


def test_a_score_of_ours_without_a_value_stays_without():
    (pair,) = against([ours(3, acc_clean=(None, None))], "anders2024").pairs
    assert (pair.ours, pair.difference, pair.in_stderrs, pair.published) == (None, None, None, 0.266)


def test_contexts_of_another_length_are_not_compared():
    fits, not_this = (ours(8, "core", length, l0_inside=(60.0, 1.0), l0=(60.0, 1.0)) for length in (1024, 128))
    assert [p.score for p in against([fits, not_this], "anders2024").pairs] == ["l0_inside"]
    assert [p.score for p in against([fits, not_this], "bloom2024").pairs] == ["l0"]
    assert against([fits], "anders2024").pairs[0].published == pytest.approx(67.0, abs=0.1)
    with pytest.raises(InputError, match=r"run anders_lambada, anders_cbt_cn, core \(core at --context-length 1024\)"):
        against([not_this], "anders2024")


def test_records_that_leave_bos_clean_are_named_where_it_was_replaced():
    records = [ours(layer, "core", 1024, l0_inside=(60.0, 1.0)) for layer in (7, 8)]
    records[1].settings["splice_bos"] = True
    told = [note for note in against(records, "anders2024").notes if note.startswith("not alike")]
    assert told == ["not alike: l7 (core) left position 0 clean, the published numbers did not; run with --splice-bos"]
    assert not any("not alike" in note for note in against([records[1]], "anders2024").notes)
    fits = [ours(7, "core", 128, l0=(60.0, 1.0))]
    assert not any("not alike" in note for note in against(fits, "bloom2024").notes)


def test_other_models_are_told():
    with pytest.raises(InputError, match=r"is about openai-community/gpt2; the records are of org/m\. Score"):
        against([make_record(task="anders_lambada")], "anders2024")


def test_every_published_number_has_a_task_a_score_and_a_site_here():
    from saebench.registry import METRICS
    from saebench.studies.cloze import Cloze

    assert published_names() == ["anders2024", "bloom2024"]
    streamed = {spec.name for _, metric in METRICS.items() for spec in metric.specs}
    asked = {spec.name for spec in Cloze.specs}
    for name in published_names():
        about, rows = load_published(name)
        assert about.name == name and "@misc" in about.citation
        assert len({(r.task, r.site, r.score) for r in rows}) == len(rows)
        for row in rows:
            task = load_task(row.task)
            assert row.score in (streamed if isinstance(task, StreamTask) else asked), row
            assert (row.context_length is not None) == isinstance(task, StreamTask)


def test_the_published_classes_add_up():
    found = {(r.task, r.site, r.score): r.value for r in load_published("anders2024")[1]}
    for task in ("anders_lambada", "anders_cbt_cn"):
        for layer in range(12):
            both, clean, spliced, neither, acc_clean, acc_spliced, delta = (
                found[task, f"blocks.{layer}.hook_resid_pre", name]
                for name in ("n_both", "n_clean_only", "n_spliced_only", "n_neither", "acc_clean", "acc_spliced", "acc_delta")
            )
            assert both + clean + spliced + neither == 1000
            assert (both + clean, both + spliced) == (pytest.approx(1000 * acc_clean), pytest.approx(1000 * acc_spliced))
            assert delta == pytest.approx(acc_spliced - acc_clean)


def test_unknown_publications_are_refused():
    with pytest.raises(InputError, match=r"no published numbers 'anders2042'\. Did you mean 'anders2024'"):
        load_published("anders2042")


def test_every_view(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path / "r", ours(8, acc_spliced=(0.2, 0.01)))
    command = ["report", str(tmp_path / "r"), "--against", "anders2024"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "0.2 ± 0.01" in out and "0.169 ± 0.012" in out and "+2.0" in out and "SAE(SAE(x))" in out
    assert main([*command, "--format", "md"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| task | score | site") and "| 0.2 ± 0.01 | 0.169 ± 0.012 | +0.031 | +2.0 |" in lines[2]
    assert main([*command, "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["published"], row["score"]) == ("0.169", "acc_spliced")
    assert main([*command, "--json", "-o", str(tmp_path / "x.json")]) == 0
    body = json.loads((tmp_path / "x.json").read_text())
    assert body["published"]["name"] == "anders2024" and body["scores"][0]["ours"] == 0.2
    assert render(against([ours(8, acc_spliced=(0.2, 0.01))], "anders2024"), "table") == out
    assert main([*command[:-1], "nobody"]) == 2

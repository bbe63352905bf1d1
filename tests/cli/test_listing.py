from __future__ import annotations

import json

import pytest

from saebench.cli import main


def _json(capsys: pytest.CaptureFixture[str], *words: str):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("what", "key", "member"),
    [
        ("metrics", "metric", "reconstruction"),
        ("tasks", "task", "core"),
        ("probes", "probe", "gao61/sciq"),
        ("suites", "suite", "quick"),
        ("formats", "format", "native"),
        ("models", "family", "gpt2"),
    ],
)
def test_list(what: str, key: str, member: str, capsys: pytest.CaptureFixture[str]):
    assert member in [row[key] for row in _json(capsys, "list", what)]
    assert main(["list", what]) == 0
    assert member in capsys.readouterr().out


def test_a_metric_is_found_by_its_name_and_by_its_scores(capsys: pytest.CaptureFixture[str]):
    whole, one = _json(capsys, "show", "metric", "reconstruction"), _json(capsys, "show", "metric", "fvu")
    assert (one["metric"], [s["name"] for s in one["scores"]]) == ("reconstruction", ["fvu"])
    assert len(whole["scores"]) > 1
    assert main(["show", "metric", "fvu"]) == 0
    assert one["scores"][0]["definition"] in capsys.readouterr().out


def test_an_unknown_metric_brings_the_nearest_score(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "metric", "explained_varience"]) == 2
    assert "Did you mean 'explained_variance'" in capsys.readouterr().err


def test_a_task_shows_everything_that_defines_it(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "task", "core"]) == 0
    text = capsys.readouterr().out
    for part in ("core, version 1", "reconstruction", "Skylion007/openwebtext", "@misc"):
        assert part in text


def test_a_probe_task_shows_everything_that_defines_it(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "probe", "gao61/jigsaw"]) == 0
    text = capsys.readouterr().out
    for part in (
        "gao61/jigsaw, version 1",
        "positive: toxic",
        "label: 'toxic == 1'",
        "task 46",
        "Kaggle",
        "sae-probes/95_toxic_is",
    ):
        assert part in text
    assert _json(capsys, "show", "probe", "gao61/sciq")["gao61"]["mark"] == "noted"
    assert main(["show", "probe", "gao61/jigsau"]) == 2
    assert "Did you mean 'gao61/jigsaw'" in capsys.readouterr().err

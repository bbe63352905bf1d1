from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from saebench.cli import main
from tests.cli.processor import processor_seconds
from tests.helpers import make_record, make_score, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "r", make_record("a"), make_record("b"))
    return tmp_path / "r"


def test_each_format_goes_to_standard_output(folder: Path, capsys: pytest.CaptureFixture[str]):
    for view, start in {
        "table": "format native",
        "md": "format native",
        "csv": "sae,sae_sha256",
        "json": "[\n",
    }.items():
        assert main(["report", str(folder), "--format", view]) == 0
        out, err = capsys.readouterr()
        assert out.startswith(start)
        assert err == ""


def test_json_flag_is_json(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(folder), "--json"]) == 0
    assert [r["sae"] for r in json.loads(capsys.readouterr().out)] == ["a", "b"]


def test_filters_and_sort_reach_every_view(folder: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", str(folder), "--json", "--where", "sae=b", "--metric", "l0", "--sort", "l0"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["sae"], list(row["scores"])) == ("b", ["l0"])


@pytest.mark.parametrize("score", ["n2g_f1", "explanation_delta_ce", "ablation_sparsity"])
def test_a_study_of_latents_stands_beside_core_where_no_score_is_asked_for(
    tmp_path: Path, score: str, capsys: pytest.CaptureFixture[str]
):
    study = make_record("a", task="some", scores=[make_score(score, 0.25, 0.01), make_score("n2g_wildcards", 0.5, 0.01)])
    save(tmp_path / "r", make_record("a"), study)
    assert main(["report", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    assert score in out and "n2g_wildcards" not in out and "not shown" not in out


def test_a_damaged_record_is_named_the_rest_is_shown_and_the_code_is_4(folder: Path, capsys: pytest.CaptureFixture[str]):
    (bad,) = save(folder, make_record("c"))
    bad.write_text(bad.read_text()[:100])
    assert main(["report", str(folder), "--json"]) == 4
    out, err = capsys.readouterr()
    assert [r["sae"] for r in json.loads(out)] == ["a", "b"]
    assert str(bad) in err
    assert err.count("\n") == 1


def test_only_damaged_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (bad,) = save(tmp_path, make_record())
    bad.write_text("")
    assert main(["report", str(tmp_path)]) == 4
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", [".", "nowhere"])
def test_nothing_to_report_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    assert main(["report", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1


@pytest.mark.parametrize("view", ["table", "md", "csv", "json"])
def test_output_to_a_file_is_what_would_be_printed(folder: Path, tmp_path: Path, capsys, view: str):
    assert main(["report", str(folder), "--format", view]) == 0
    printed = capsys.readouterr().out
    assert main(["report", str(folder), "--format", view, "-o", str(tmp_path / "new" / "out")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "new" / "out").read_text(encoding="utf-8") == printed


def test_report_is_quick_and_loads_nothing_heavy(folder: Path):
    code = (
        "import sys; from saebench.cli import main; main(['report', sys.argv[1]]);"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'pandas', 'numpy')))"
    )
    assert processor_seconds("-c", code, str(folder)) < 1.0


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path):
    save(tmp_path, *(make_record(f"sae{i}") for i in range(300)))
    report = subprocess.Popen(
        [sys.executable, "-m", "saebench", "report", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert report.stdout is not None and report.stderr is not None
    report.stdout.readline()
    report.stdout.close()
    assert report.wait(timeout=60) == 0
    assert report.stderr.read() == b""
    report.stderr.close()

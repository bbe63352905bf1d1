from __future__ import annotations

import csv
import io
import json

import pytest

from saebench.report import flat, markdown, nested, terminal
from saebench.report.table import make_table
from tests.helpers import make_record, make_score


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def records():
    return [
        make_record(name, architecture=arch, scores=[make_score("l0", l0, 0.5), make_score("kl", kl, 0.01, better="lower")])
        for name, arch, l0, kl in (("a", "relu", 4.0, 0.25), ("b", "topk", 8.0, 0.5))
    ]


def test_plain_text(records):
    assert terminal.render(make_table(records)).splitlines() == [
        "format native, d_sae 8, model m, site blocks.0.hook_resid_pre, seed 0",
        "",
        "sae         architecture         l0@1         kl@1 ↓",
        "----------  ------------  -----------  -------------",
        "a-61000000  relu          4.00 ± 0.50  0.250 ± 0.010",
        "b-62000000  topk          8.00 ± 0.50  0.500 ± 0.010",
        "",
        "n = 100 tokens: l0, kl",
        "saebench 1.2.3 (commit abcdef01); core@1; 2 records",
    ]


def test_a_narrow_terminal_gets_several_tables_of_the_same_rows(records):
    text = terminal.render(make_table(records), width=50)
    assert text.count("a-61000000") == 2
    assert max(len(line) for line in text.split("\n\n", 1)[1].splitlines()[:8]) <= 50


def test_colour_only_on_a_terminal_and_not_with_no_color(records, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    table = make_table(records)
    tty, pipe = Tty(), io.StringIO()
    terminal.show(table, tty)
    terminal.show(table, pipe)
    assert "\x1b[" in tty.getvalue()
    assert pipe.getvalue() == terminal.render(table)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Tty()
    terminal.show(table, plain)
    assert "\x1b" not in plain.getvalue()


@pytest.mark.parametrize("render", [terminal.render, markdown.render])
def test_names_cannot_smuggle_control_characters_or_lines(render):
    text = render(make_table([make_record("evil\x1b[31m\nname")]))
    assert "\x1b" not in text
    assert text.count("name") == 1
    assert "evil" in next(line for line in text.splitlines() if "name" in line)


def test_markdown_is_bold_only_where_the_lead_is_real(records):
    lines = markdown.render(make_table(records)).splitlines()
    assert lines[2:6] == [
        "| sae | architecture | l0@1 | kl@1 ↓ |",
        "| --- | --- | ---: | ---: |",
        "| a-61000000 | relu | 4.00 ± 0.50 | **0.250 ± 0.010** |",
        "| b-62000000 | topk | 8.00 ± 0.50 | 0.500 ± 0.010 |",
    ]
    assert lines[-1] == "_saebench 1.2.3 (commit abcdef01); core@1; 2 records_"


def test_markdown_escapes_what_would_break_the_table():
    text = markdown.render(make_table([make_record("a|b<script>*x*")]))
    row = next(line for line in text.splitlines() if "script" in line)
    assert r"a\|b\<script\>\*x\*" in row


def test_csv_has_one_line_per_score_and_empty_fields_for_missing():
    record = make_record(scores=[make_score("l0", 0.1 + 0.2, 0.5), make_score("kl", None, reason="why, so")])
    rows = list(csv.DictReader(io.StringIO(flat.render([record]))))
    assert [r["score"] for r in rows] == ["l0", "kl"]
    assert float(rows[0]["value"]) == 0.1 + 0.2
    assert (rows[1]["value"], rows[1]["status"], rows[1]["reason"]) == ("", "undefined", "why, so")
    assert [r["score"] for r in csv.DictReader(io.StringIO(flat.render([record], scores=["kl"])))] == ["kl"]


def test_json_has_the_documented_keys():
    record = make_record(scores=[make_score("l0", 0.1 + 0.2, 0.5), make_score("kl", None, reason="why")])
    (row,) = json.loads(nested.render([record]))
    assert {"sae", "format", "architecture", "model", "site", "task", "seed", "scores", "series"} <= set(row)
    assert row["scores"]["l0"] == {"value": 0.1 + 0.2, "stderr": 0.5, "n": 100, "status": "ok", "reason": None}
    assert row["scores"]["kl"]["value"] is None
    assert row["series"]["l0_by_position"] == {
        "x": [0.0, 1.0],
        "value": [None, 4.0],
        "stderr": [None, 0.5],
        "n": [0, 9],
    }


def test_json_of_nothing_is_an_empty_list():
    assert json.loads(nested.render([])) == []

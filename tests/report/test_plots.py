"""``saebench report --plots``: files, what is said, errors; and which SAEs are a family."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from saebench.cli import main
from saebench.report.figures.picture import Picture, label
from saebench.report.figures.sources import Source, families
from saebench.report.plots import source_of
from tests.helpers import make_record, save
from tests.report.figure_cases import (
    cloze_record,
    examples,
    pictures,
    put,
    put_cloze,
    put_propagation,
    site,
)

# files and the command line


def test_the_command_writes_pictures_with_their_numbers(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    where = ["--where", "sae=topk-layer3"]
    assert main(["report", str(results), "--plots", str(tmp_path / "a"), *where]) == 0
    out, err = capsys.readouterr()
    files = sorted((tmp_path / "a").rglob("*.png"))
    assert out == "" and len(files) == 5
    wrote = [line.removeprefix("saebench: wrote ") for line in err.splitlines() if "wrote" in line]
    assert sorted(wrote) == [str(file) for file in files]
    for file in files:
        beside = file.with_suffix(".csv").read_bytes()
        assert source_of(file.read_bytes()) == f"csv {hashlib.sha256(beside).hexdigest()}" and beside.count(b"\n") > 1
    assert main(["report", str(results), "--plots", str(tmp_path / "b"), *where]) == 0
    for file in [*files, *(f.with_suffix(".csv") for f in files)]:
        assert (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes() == file.read_bytes()


def test_the_same_tokens_give_the_same_bytes(results: Path, drawn: Mapping[str, Picture]):
    again = pictures(results)
    for name in (name for name in drawn if "along" in name or "layers" in name):
        assert again[name].png() == drawn[name].png() and again[name].csv() == drawn[name].csv()


def test_nothing_to_draw_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    save(tmp_path / "r", make_record("a"), make_record("b"))
    assert main(["report", str(tmp_path / "r"), "--plots", str(tmp_path / "p")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "nothing to draw: " in err and "cloze" in err and "propagation" in err
    assert not (tmp_path / "p").exists()


def test_what_is_missing_is_said_and_the_rest_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    put(tmp_path / "r", cloze_record("alone", 3, 0), {})
    labels = put_propagation(tmp_path / "r", layers=(5,))
    assert len(labels) == 1
    assert main(["report", str(tmp_path / "r"), "--plots", str(tmp_path / "p")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "wrote" in line] == [f"saebench: wrote {tmp_path}/p/m/gaps@1/by_layer.hook_resid_pre.png"]
    missing = [line.removeprefix("saebench: not drawn: ") for line in said if "not drawn" in line]
    assert missing[0].startswith("scores by latent, gaps@1: no table latent_scores")
    assert missing[-1].startswith("propagation and ΔCE by token: no two records of one run")


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_a_damaged_table_is_named_the_rest_is_drawn_and_the_code_is_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str
):
    put_cloze(tmp_path / "r", latents=False)
    (file,) = (tmp_path / "r").rglob("topk-layer3-*/gaps@1/seed0.examples.parquet")
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert main(["report", str(tmp_path / "r"), "--plots", str(tmp_path / "p"), "--where", "sae=*layer3"]) == 4
    err = capsys.readouterr().err
    assert sum(str(file) in line for line in err.splitlines()) == 1
    text = (tmp_path / "p/m/gaps@1/seed0.delta_lnp.csv").read_text()
    assert "relu-l1-layer3" in text and "topk-layer3" not in text


def test_one_report_at_a_time_and_a_folder_that_can_be_written(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    for more in (["--against", "anders2024"], ["-o", str(tmp_path / "x")]):
        assert main(["report", str(results), "--plots", str(tmp_path / "p"), *more]) == 2
    assert main(["report", str(results), "--plots", str(tmp_path / "file"), "--where", "task=along"]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_names_are_shown_as_they_are_not_as_formulas(tmp_path: Path):
    name = "_$\\frac$ cost\n" + 60 * "x" + "漢"
    put(tmp_path, cloze_record(name, 3, 0), {"examples": examples(0)})
    for picture in pictures(tmp_path).values():
        assert picture.png().startswith(b"\x89PNG")
    shown = label(name)
    assert "\n" not in shown and r"\$" in shown and len(shown) < 50 and not shown.startswith("_")


def test_drawing_needs_neither_torch_nor_pandas_and_a_report_without_pictures_no_matplotlib(results: Path, tmp_path: Path):
    code = (
        "import sys; from saebench.cli import main; assert main(sys.argv[2:]) == 0;"
        "print([m for m in sys.argv[1].split() if m in sys.modules])"
    )
    plots = ["--plots", str(tmp_path), "--where", "sae=topk-layer1"]
    for heavy, more in (("torch transformers pandas", plots), ("matplotlib torch pyarrow", ["-o", str(tmp_path / "table")])):
        words = [sys.executable, "-c", code, heavy, "report", str(results), *more]
        assert subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip() == "[]"


# families


def test_families_are_called_the_same_but_for_the_layer():
    def of(*saes: tuple[str, int], **more: Any) -> list[tuple[str, list[int | None]]]:
        found = [Source(path=Path(name), record=make_record(name, site=site(layer), **more), tables={}) for name, layer in saes]
        return [(line.name, [s.layer for s in line.sources]) for line in families(found)]

    assert of(("relu-l1-layer1", 1), ("relu-l1-layer10", 10)) == [("relu-l1-layer*", [1, 10])]
    assert of(("layer_03/width_16k", 3), ("layer_3/width_16k", 3)) == [("layer_03/width_16k", [3]), ("layer_3/width_16k", [3])]
    assert of(("a_l2", 2), ("a_l5", 5)) == [("a_l*", [2, 5])] and of(("8-res", 8), ("9-res", 9)) == [("*-res", [8, 9])]
    assert of(("some", 2), ("other", 5)) == [("relu, d_sae 8", [2, 5])], "left alone, but alike"
    assert of(("some", 2), ("other", 2), ("third", 5)) == [("other", [2]), ("some", [2]), ("third", [5])]
    twice = [make_record("a", site=site(1), sha256=char * 64) for char in "ab"]
    found = families([Source(path=Path("x"), record=r, tables={}) for r in twice])
    assert [line.name for line in found] == ["a-aaaaaaaa", "a-bbbbbbbb"]

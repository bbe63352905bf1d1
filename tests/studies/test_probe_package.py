"""The texts inside ``sae-probes``: a package of the same shape stands in for it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from saebench.errors import InputError
from saebench.studies.probes.examples import MissingProbe, ProbeExamples, load_examples
from saebench.studies.probes.package import package_rows
from tests.data.words import write_jsonl

CSV = 'prompt,prompt_len,target\n"a, ""quoted"" text\nof two lines",7,bigram\nNA,1,not_bigram\n'


def _install(folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Put a package there whose import would fail."""
    data = folder / "site/sae_probes/data/cleaned_data"
    data.mkdir(parents=True)
    (folder / "site/sae_probes/__init__.py").write_text("raise RuntimeError('it must not be imported')\n")
    for name, text in files.items():
        with pa.output_stream(str(data / f"{name}.csv.zst"), compression="zstd") as out:
            out.write(text.encode())
    monkeypatch.syspath_prepend(str(folder / "site"))


@pytest.fixture(autouse=True)
def not_installed(monkeypatch: pytest.MonkeyPatch):
    """Hide a package that is really there, unless the test puts another in front of it."""
    monkeypatch.delenv("SAEBENCH_DATA", raising=False)
    find = __import__("importlib.util").util.find_spec

    def hidden(name: str, *args):
        found = find(name, *args)
        real = found is not None and found.origin is not None and "site/sae_probes" not in found.origin
        return None if name == "sae_probes" and real else found

    monkeypatch.setattr("saebench.studies.probes.package.importlib.util.find_spec", hidden)


def test_its_files_are_read_without_importing_it(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, **{"65_high-school": CSV})
    rows, origin = package_rows("65_high-school", None, None)
    assert rows == [
        {"prompt": 'a, "quoted" text\nof two lines', "target": "bigram", "positive": False},
        {"prompt": "NA", "target": "not_bigram", "positive": True},
    ]
    assert origin == "package:sae-probes/65_high-school.csv.zst"
    with pytest.raises(InputError, match=r"has no file '65_high-scool'\. Did you mean '65_high-school'"):
        package_rows("65_high-scool", None, None)


def test_the_mirror_goes_first(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch, **{"65_high-school": CSV})
    write_jsonl(tmp_path / "data/sae-probes/phrase/train.jsonl.gz", [{"prompt": f"p{i}", "target": str(i % 2)} for i in range(4)])
    rows, origin = package_rows("65_high-school", "phrase", tmp_path / "data")
    assert origin == "mirror:sae-probes/phrase"
    assert [(row["prompt"], row["positive"]) for row in rows] == [("p0", False), ("p1", True), ("p2", False), ("p3", True)]
    assert package_rows("65_high-school", "other", tmp_path / "data")[1].startswith("package:")


def test_without_either_it_is_said_how_to_get_them(tmp_path):
    (missing,) = load_examples(["sae-probes/65_high-school"], data_dir=tmp_path)
    assert isinstance(missing, MissingProbe)
    assert "pip install 'saebench-harness[probes]'" in missing.reason
    assert str(tmp_path / "sae-probes/65_high-school") in missing.reason


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CSV.replace("not_bigram", "bigram"), r"has 1 targets \(bigram\), expected two"),
        (CSV + "x,1,third\n", "has 3 targets"),
        (CSV.replace("target", "label"), "lacks a column prompt or target"),
        ("", "is damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, monkeypatch, text, message):
    _install(tmp_path, monkeypatch, bad=text)
    with pytest.raises(InputError, match=message):
        package_rows("bad", None, None)


def test_what_is_not_zstandard_is_named(tmp_path, monkeypatch):
    _install(tmp_path, monkeypatch)
    file = tmp_path / "site/sae_probes/data/cleaned_data/bad.csv.zst"
    file.write_bytes(b"prompt,target\n")
    with pytest.raises(InputError, match=r"bad\.csv\.zst is damaged"):
        package_rows("bad", None, None)
    file.unlink()
    with pytest.raises(InputError, match="has no texts in"):
        package_rows("bad", None, None)


def test_the_suite_deals_as_the_package_does_double_texts_and_all(tmp_path, monkeypatch):
    lines = [f"t{i % 900},1,{i % 2}" for i in range(1000)]
    _install(tmp_path, monkeypatch, **{"5_hist_fig_ismale": "\n".join(["prompt,prompt_len,target", *lines, ""])})
    (found,) = load_examples(["sae-probes/5_hist_fig_ismale"], data_dir=tmp_path)
    assert isinstance(found, ProbeExamples)
    assert (int(found.is_train.sum()), int((~found.is_train).sum())) == (900, 99)
    assert {int(text[1:]) % 2 == 1 for text, label in zip(found.texts, found.labels, strict=True) if label} == {True}
    (again,) = load_examples(["sae-probes/5_hist_fig_ismale"], data_dir=tmp_path, seed=1)
    assert isinstance(again, ProbeExamples) and again.sha256() != found.sha256()

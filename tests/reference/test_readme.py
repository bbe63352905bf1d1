"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saebench import reference
from saebench.cli import main
from saebench.registry import FORMATS, METRICS
from saebench.store import find_records, read_record

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, having: str) -> str:
    (found,) = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if having in text]
    return found


def test_the_metric_and_the_task_of_the_readme(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    METRICS.names()  # those that come with the package are loaded before the new one is put beside them
    monkeypatch.setattr(METRICS, "_members", dict(METRICS._members))
    exec(block("python", "METRICS.register"), {"__name__": "theirs"})
    (tmp_path / "mine.yaml").write_text(block("yaml", "name: mine"))
    words = [
        "run",
        "--sae",
        "reference:topk-layer3",
        "--task",
        str(tmp_path / "mine.yaml"),
        "--corpus",
        "storyworld",
        "--limit",
        "4",
    ]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    (path,) = find_records(tmp_path / "out")
    record = read_record(path)
    largest, mean = record.score("largest_latent").value, record.score("l0").value
    assert largest is not None and largest > 0 and mean is not None and record.task.name == "mine"


def test_nothing_is_said_to_be_missing_that_ships():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for text in (README, changes):
        assert ("trained yet" in text) == (not reference.has_model())


@pytest.mark.parametrize(
    ("page", "n"), [("README.md", 10), *((f"docs/{path.name}", 0) for path in sorted((ROOT / "docs").glob("*.md")))]
)
def test_every_option_and_target_exists(page: str, n: int, capsys: pytest.CaptureFixture[str]):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)(?: +#.*)?$", text, re.MULTILINE)
    assert {name for pair in named for name in pair if name} <= targets and "demo" in targets
    plain = re.sub(r"```\w+\n.*?```", "", text, flags=re.DOTALL)
    commands = "\n".join(re.findall(r"```\n(.*?)```", plain, re.DOTALL)).replace("\\\n", "")
    found = re.findall(r"^saebench ([a-z-]+) ([^\n#]*)", commands, re.MULTILINE)
    assert len(found) > n
    for command, options in found:
        assert main([command, "--help"]) == 0
        told = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", options):
            assert option in told, f"saebench {command} {option}"


def test_as_many_formats_are_read_as_it_says():
    read = {name for name, member in FORMATS.items() if hasattr(member, "looked_for")}
    said = re.search(r"in (\d+) formats.*?(\d+) kinds .*? are recognised and refused", README, re.DOTALL)
    assert said is not None
    assert (int(said[1]), int(said[2])) == (len(read), len(FORMATS.names()) - len(read))


PAGES = ("README.md", "CONTRIBUTING.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_module_that_is_named_is_there(page: str):
    """Folders and files of this repository, and dotted names, whose last part may be something in a module or a group."""
    text = re.sub(r"<[a-z]+>", "*", (ROOT / page).read_text(encoding="utf-8"))
    for path in re.findall(r"`((?:saebench|tests|trainers|tasks|benchmarks)/[\w./*-]*)`", text):
        assert list(ROOT.glob(path.rstrip("/").partition("*")[0].rstrip("/") or path)), path
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(link).exists(), link
    for name in re.findall(r"`(saebench(?:\.\w+)+)`", text):
        assert name in GROUPS or named(name), name


GROUPS = {
    group
    for path in (ROOT / "saebench").rglob("*.py")
    for group in re.findall(r'group="(saebench\.\w+)"', path.read_text("utf-8"))
}
"""Of entry points."""


def named(name: str) -> bool:
    """Return whether a dotted name is a module, or something in one."""
    inner = name.replace("saebench.trainers.", "trainers.")
    for path, last in ((inner, None), inner.rsplit(".", 1)):
        file = ROOT / path.replace(".", "/")
        source = next((one for one in (file.with_suffix(".py"), file / "__init__.py") if one.is_file()), None)
        if source is not None:
            return last is None or re.search(rf"\b(def|class) {last}\b|^{last}\b", source.read_text("utf-8"), re.M) is not None
    return False

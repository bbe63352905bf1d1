"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saebench import reference
from saebench.cli import main
from saebench.registry import METRICS
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

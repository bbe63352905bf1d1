from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_installed():
    there = {
        ".".join(("saebench", *p.parent.relative_to(ROOT).parts[0 if room != "saebench" else 1 :]))
        for room in ("saebench", "trainers", "tasks")
        for p in (ROOT / room).rglob("*.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == there


def test_tasks_and_trainers_live_under_one_top_name():
    assert {p.split(".")[0] for p in PROJECT["tool"]["setuptools"]["packages"]} == {"saebench"}
    assert (resources.files("saebench.tasks") / "core.yaml").is_file()


def test_every_dependency_is_pinned():
    pins = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {w.split(">")[0].split("=")[0].strip().lower().replace("_", "-") for w in wanted}
    assert names <= pins

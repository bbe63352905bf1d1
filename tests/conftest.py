"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what damages files at random, unless it is asked for."""
    if "fuzz" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("fuzz"):
            item.add_marker(pytest.mark.skip(reason="takes a minute: make fuzz, or -m fuzz"))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data sets, models and SAEs; tests that need it are skipped where there is none."""
    told = os.environ.get("SAEBENCH_TEST_SHARED")
    folder = Path(told) if told else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared test data at {folder}; set SAEBENCH_TEST_SHARED to the folder that holds models/ and data/")
    return folder

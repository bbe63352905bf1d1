"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for: files damaged at random, and what other tests stand for."""
    reasons = {"fuzz": "takes a minute: make fuzz, or -m fuzz", "slow": "make test-slow, or -m slow"}
    for marker, reason in reasons.items():
        if marker not in config.option.markexpr:
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real data sets, models and SAEs; tests that need it are skipped where there is none."""
    told = os.environ.get("SAEBENCH_TEST_SHARED")
    folder = Path(told) if told else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared test data at {folder}; set SAEBENCH_TEST_SHARED to the folder that holds models/ and data/")
    return folder

"""Shared by the trainers' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainers.world import make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and 60 contexts of 16 tokens."""
    return make_world(tmp_path_factory.mktemp("training"))

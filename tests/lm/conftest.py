"""Tiny models shared by the tests of this folder."""

from __future__ import annotations

import pytest

from saebench.lm.families import FAMILIES
from saebench.lm.model import LanguageModel, load_model
from tests.lm.families import build


@pytest.fixture(scope="session", params=sorted(FAMILIES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """One tiny random model of each family."""
    folder = tmp_path_factory.mktemp("models") / f"tiny-{request.param}"
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")

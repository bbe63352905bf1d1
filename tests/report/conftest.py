"""Records to draw, and what is drawn of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from saebench.report.figures.picture import Picture
from tests.report.figure_cases import pictures, put_cloze, put_propagation


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    put_cloze(folder)
    put_propagation(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(results: Path) -> Mapping[str, Picture]:
    return pictures(results)

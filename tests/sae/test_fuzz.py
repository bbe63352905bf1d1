"""Damage at random, for a minute or as long as SAEBENCH_FUZZ_SECONDS says; ``make fuzz`` runs it, the whole suite does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saebench.registry import FORMATS
from tests.sae.formats.fixtures import FIXTURES


def test_every_format_that_reads_has_a_fixture() -> None:
    """Formats without ``looked_for`` are there to be refused by name."""
    reads = {name for name, member in FORMATS.items() if hasattr(member, "looked_for")}
    assert reads == {name.split(",")[0] for name in FIXTURES}


@pytest.mark.fuzz
def test_damage_is_refused_in_one_line(tmp_path: Path) -> None:
    seconds, seed = os.environ.get("SAEBENCH_FUZZ_SECONDS", "60"), os.environ.get("SAEBENCH_FUZZ_SEED", "1")
    words = ["--seconds", seconds, "--seed", seed, "--log", str(tmp_path / "round")]
    done = subprocess.run([sys.executable, "-m", "tests.sae.fuzz", *words], capture_output=True, text=True)
    last = (tmp_path / "round").read_text() if (tmp_path / "round").exists() else "before the first round"
    assert done.returncode == 0, f"{last}ended with {done.returncode}\n{done.stderr[-4000:]}"
    sys.stdout.write(done.stdout)

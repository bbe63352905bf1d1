"""Hostile and broken files: one line, exit code 2, nothing executed, little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import saebench.sae.inspect
from saebench.cli import main
from saebench.errors import InputError
from saebench.sae import load_sae
from tests.sae.hostile import CANARY, all_cases, lens, plain
from tests.sae.hostile.archives import numpy
from tests.sae.hostile.bounded import GOOD, LOADED

CASES = all_cases()
SECONDS = 10.0
"""Of the processor, for a case that is loaded and looked at: a busy machine makes it no slower."""
CHECKED = 4
"""How many times slower than outside the tests, where no types are checked, and how many loads more."""
MEGABYTES = 100


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_nothing_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, said = CASES[name]
    folder = tmp_path / "case"
    path = write(folder) or folder
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        load_sae(path)
    line = str(caught.value)
    assert line.isprintable() and len(line) <= 4001, line[:500]
    assert all(word in line for word in said), line[:500]
    assert main(["inspect", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("saebench: ") and err.count("\n") == 1 and "Traceback" not in err, err[:500]
    assert time.process_time() - start < CHECKED * SECONDS
    assert not [one for one in (*tmp_path.rglob(CANARY), *tmp_path.rglob("escaped"))]


def test_a_good_sae_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = numpy(Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\x1b[2J")))
    done = subprocess.run([sys.executable, "-m", "saebench", "inspect", str(folder)], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    assert b"\x1b" not in done.stdout and b"\\udcff" in done.stdout


def test_names_of_tensors_cannot_drive_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saebench.sae.inspect, "_HASHED_BYTES", 0)
    names = {"\x1b[2J" * 10_000: torch.ones(3), "a\nb": torch.ones(3)}
    folder = lens(tmp_path / "a", save(plain() | names))
    assert main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "W_enc" in out and "\x1b" not in out and r"tensors.a\nb" in out and len(out) < 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux' /proc")
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Each case in a process of its own, forked from one that has imported everything; peaks beside one that loads nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sae.hostile.bounded", str(tmp_path)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    good = rows.pop(GOOD)
    assert os.WEXITSTATUS(good["status"]) == LOADED and good["megabytes"] > MEGABYTES, "what is measured shows no large load"
    assert rows.keys() == CASES.keys()
    bad = {name: row for name, row in rows.items() if row["status"] or row["megabytes"] > MEGABYTES or row["seconds"] > SECONDS}
    assert not bad, bad

"""Files that are cut, at any place and at any moment that can be seen: one line each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.find import locate
from saebench.sae.reading import containers, torch_files
from saebench.sae.reading.containers import open_npz, open_safetensors, open_torch
from saebench.sae.reading.mapped import Maps
from saebench.sae.source import WEIGHTS
from tests.sae.formats.fixtures import FIXTURES, write_fixture
from tests.sae.hostile import lens, linear, trained
from tests.sae.hostile.archives import numpy

PARTS = 16


@pytest.mark.parametrize("name", FIXTURES)
def test_every_file_cut_at_every_sixteenth(tmp_path: Path, name: str) -> None:
    written = write_fixture(name, tmp_path / "x")
    load_sae(written.path, given=written.given)
    files = [one for one in sorted((tmp_path / "x").rglob("*")) if one.is_file()]
    assert any(file.suffix in WEIGHTS for file in files)
    for file in files:
        whole = file.read_bytes()
        for part in range(PARTS):
            file.write_bytes(whole[: len(whole) * part // PARTS])
            try:
                load_sae(written.path, given=written.given)
                assert file.suffix not in WEIGHTS, f"{file.name} loads with {part} of {PARTS} parts of it"
            except InputError as error:
                assert str(error).isprintable()
        file.write_bytes(whole)


def shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("write", [trained, lens, numpy])
def test_weights_that_shrink_after_their_headers_were_read(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """A map of a file that was cut would end the process: what is read is compared with the file again before it is mapped."""
    folder = write(tmp_path / "a") or tmp_path / "a"
    found = locate(folder)
    entry = found.member.read(found.source)
    shrink(next(one for one in folder.iterdir() if one.suffix in WEIGHTS))
    with pytest.raises(InputError):
        entry.weights()


def test_weights_that_shrink_between_check_and_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last moment that can be seen: header and size were found good, and the map is not made yet."""
    file = lens(tmp_path / "a") / "sae_weights.safetensors"
    check = containers._safetensors

    def checked(opened: Any, path: Path) -> Any:
        found = check(opened, path)
        shrink(path)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(containers, "_safetensors", checked)
        with pytest.raises(InputError, match="changed while it was read"):
            open_safetensors(file, Maps())
    file = trained(tmp_path / "b") / "ae.pt"
    read = torch_files.read_pickle

    def unpickled(stream: Any, make: Any, stand_ins: Any = None) -> Any:
        shrink(file)
        return read(stream, make, stand_ins)

    monkeypatch.setattr(torch_files, "read_pickle", unpickled)
    with pytest.raises(InputError, match="changed while it was read"):
        open_torch(file, Maps())


def test_a_file_replaced_by_another_one_stays_as_it_was_opened(tmp_path: Path) -> None:
    """As saebench's own trainers write: the map keeps the old file, whose numbers stay what they were."""
    folder = trained(tmp_path / "a")
    tensors = open_torch(folder / "ae.pt", Maps())
    torch.save({key: one + 1 for key, one in linear().items()}, tmp_path / "new.pt")
    os.replace(tmp_path / "new.pt", folder / "ae.pt")
    assert all(torch.equal(tensors[key], one) for key, one in linear().items())


def test_what_is_written_to_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    """Nor another tensor that lies in the same bytes: each has a map of its own."""
    rows = linear()["encoder.weight"]
    folder = trained(tmp_path / "a", {"encoder.weight": rows, "decoder.weight": rows.T, "again": rows, "part": rows[3:7, 2:5]})
    before = (folder / "ae.pt").read_bytes()
    for mapped in (True, False):
        tensors = open_torch(folder / "ae.pt", Maps(), mapped=mapped)
        tensors["encoder.weight"].mul_(2)
        tensors["part"].zero_()
        assert torch.equal(tensors["decoder.weight"], rows.T) and torch.equal(tensors["again"], rows)
        assert torch.equal(tensors["encoder.weight"], 2 * rows)
    assert (folder / "ae.pt").read_bytes() == before
    assert numpy(tmp_path / "n") and (open_npz(next((tmp_path / "n").rglob("*.npz")))["W_enc"].shape == (12, 40))

"""What holds for every format: its files are its own, by folder and by file, whatever lies beside them, links or not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saebench.registry import FORMATS
from saebench.sae import SAE, load_sae
from saebench.sae.find import detect, locate, walk
from saebench.sae.load import read_entry
from saebench.sae.source import WEIGHTS, Given, Source
from tests.sae.formats.fixtures import FIXTURES, Written, write_fixture

EVERY = pytest.mark.parametrize("name", FIXTURES)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def place_of(written: Written) -> tuple[Path, str]:
    """Return the folder of an SAE, and what names it there."""
    path, mark, part = written.path.partition("#")
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return folder, mark + part


def claims(path: Path) -> list[str]:
    return [name for name, member in FORMATS.items() if member.detect(Source(path)) is not None]


def content(path: str, given: Given) -> str:
    found = locate(path, None, given)
    config, entry = read_entry(found, path)
    return SAE(config, entry.weights()).sha256


@EVERY
def test_exactly_one_format_claims_it(tmp_path: Path, name: str) -> None:
    folder, _ = place_of(write_fixture(name, tmp_path))
    files = [file for file in folder.rglob("*") if file.name.endswith(WEIGHTS)]
    assert files
    for path in (folder, *files):
        assert claims(path) == [name.split(",")[0]], path


@EVERY
def test_what_lies_beside_it_changes_nothing(tmp_path: Path, name: str) -> None:
    """A page for people, a trainer's states, an evaluation, the weights of something else in a container that is not read."""
    written = write_fixture(name, tmp_path)
    folder, part = place_of(written)
    given = Given(written.given)
    before = content(written.path, given)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / ".gitattributes").write_text("*.pt filter=lfs\n")
    (folder / "eval_results.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4, 3)}}
    torch.save({"state": moments, "param_groups": [{"lr": 1e-3}]}, folder / "optimizer.pt")
    torch.save({"optimizer": {"state": moments}, "n_tokens": 4096}, folder / "trainer_state.pt")
    save_file({"sparsity": torch.zeros(40)}, folder / "sparsity.safetensors")
    assert content(written.path, given) == before
    if not part:  # of a folder with several files of weights, the one that is an SAE is meant
        assert content(str(folder), given) == before
        assert len(list(walk(Source(tmp_path)))) == 1


@EVERY
def test_weights_may_be_asked_for_again(tmp_path: Path, name: str) -> None:
    """Scales are folded in place, into tensors that nobody else has."""
    written = write_fixture(name, tmp_path)
    found = locate(written.path, None, Given(written.given))
    entry = found.member.read(found.source)
    hashes = {SAE(entry.config, entry.weights()).sha256 for _ in range(3)}
    assert hashes == {SAE(entry.config, found.member.read(found.source).weights()).sha256}
    assert hashes == {load_sae(written.path, given=written.given).sha256}, "of the same files, opened anew"


@EVERY
def test_a_hubs_cache_is_read_through_its_links(tmp_path: Path, name: str) -> None:
    """There every file of a snapshot is a link to a blob, and the repository's name stands in a folder above."""
    written = write_fixture(name, tmp_path / "made/owner/repo")
    _, part = place_of(written)
    cache, root = tmp_path / "hub/models--owner--repo", tmp_path / "made/owner/repo"
    snapshot = cache / "snapshots" / COMMIT
    (cache / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(one for one in root.rglob("*") if one.is_file())):
        shutil.copy(file, cache / f"blobs/{number}")
        link = snapshot / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(cache / f"blobs/{number}")
    path = snapshot / Path(written.path.removesuffix(part)).relative_to(root)
    sae, same = load_sae(f"{path}{part}", given=written.given), load_sae(written.path, given=written.given)
    assert sae.sha256 == same.sha256
    assert (sae.config.site, sae.config.model_id) == (same.config.site, same.config.model_id)
    assert detect(Source(path)) == sae.config.format == name.split(",")[0]

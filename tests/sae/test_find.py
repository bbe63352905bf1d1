"""Which files ``--format`` means, and what stands behind ``#``."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saebench.errors import InputError
from saebench.sae import load_sae, save_native
from saebench.sae.find import find_all, locate
from tests.metrics.conftest import random_sae
from tests.sae.formats import test_apollo, test_deepseek_r1, test_sparsify


def undecided(folder: Path) -> Path:
    """Write an SAE whose settings do not say of which format it is: only --format lets it be read."""
    test_deepseek_r1.written(folder, test_deepseek_r1.tensors(), name="x.pt")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """SAEs of two formats, and two that are of no certain one."""
    save_native(random_sae(), tmp_path / "n")
    test_sparsify.folder_of(tmp_path / "s/layers.3", test_sparsify.CFG)
    undecided(tmp_path / "u/1")
    undecided(tmp_path / "u/2")
    return tmp_path


def names(path: Path, format: str | None) -> list[str]:
    return [Path(found.path).relative_to(path).as_posix() for found in find_all(path, format=format)]


def test_a_format_that_is_named_chooses_in_a_folder_of_many(mixed: Path) -> None:
    assert names(mixed, None) == ["n", "s/layers.3"]
    assert names(mixed, "native") == ["n"] and names(mixed, "sparsify") == ["s/layers.3"]
    assert names(mixed, "deepseek_r1") == ["u/1", "u/2"]
    assert locate(mixed, "sparsify").path == str(mixed / "s/layers.3")
    with pytest.raises(InputError, match=r"holds 2 SAEs; .*u/1, u/2"):
        locate(mixed, "deepseek_r1")
    with pytest.raises(InputError, match=r"holds 2 SAEs; .*n, s/layers\.3"):
        locate(mixed)


def test_a_selection_that_fits_nothing_says_what_there_is(mixed: Path) -> None:
    with pytest.raises(InputError, match=r"--select 'x\*' fits none of the 2 SAEs in .*; there are n, s/layers\.3$"):
        find_all(mixed, "x*")
    with pytest.raises(InputError, match=r"--select 'x\*' does not fit .*/n, the only SAE there; leave it off$"):
        find_all(mixed / "n", "x*")
    for n in range(6):
        save_native(random_sae(), mixed / f"more/{n}")
    with pytest.raises(InputError, match=r"8 SAEs in .*; there are more/0, more/1, more/2, more/3, more/4, more/5, …$"):
        find_all(mixed, "x*")


def test_what_may_be_of_a_format_is_read_if_it_is_named(tmp_path: Path) -> None:
    folder = undecided(tmp_path / "a")
    for path in (folder, tmp_path):
        with pytest.raises(InputError, match=f"the files at {path} do not say .* choose one with --format: deepseek_r1$"):
            locate(path)
    (found,) = find_all(folder, format="deepseek_r1")
    assert found.path == locate(folder, "deepseek_r1").path == str(folder)
    assert load_sae(folder, format="deepseek_r1").config.format == "deepseek_r1"


def test_files_of_two_formats_are_listed_as_of_the_one_that_is_named(tmp_path: Path) -> None:
    folder = test_sparsify.folder_of(tmp_path / "a/layers.3", test_sparsify.CFG)
    save_file(load_file(folder / "sae.safetensors"), folder / "sae_weights.safetensors")
    with pytest.raises(InputError, match="sae_lens, sparsify; choose one with --format"):
        locate(folder)
    assert names(tmp_path, "sparsify") == ["a/layers.3"] and names(tmp_path, "native") == ["."]


def test_a_format_that_fits_nothing_there_says_which_file_it_lacks(mixed: Path) -> None:
    for path in (mixed, mixed / "n"):
        (found,) = find_all(path, format="openmoss_v1")
        assert found.path == locate(path, "openmoss_v1").path == str(path)
        with pytest.raises(InputError, match=r"has no hyperparams\.json"):
            load_sae(path, format="openmoss_v1")


def test_a_part_is_one_of_a_file_that_holds_several(tmp_path: Path) -> None:
    folder = save_native(random_sae(), tmp_path / "a")
    for path in (f"{folder}#x", f"{folder}/sae.safetensors#x"):
        for ask in (load_sae, find_all):
            with pytest.raises(InputError, match=r"is one SAE \(format native\), it has no part 'x'; leave it off"):
                ask(path)
    several = test_apollo.write(tmp_path / "b")
    assert load_sae(f"{several}#{test_apollo.FIRST}").config.site == test_apollo.FIRST

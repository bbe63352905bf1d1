"""The format against Acorn's own code, by saebench's checks: what a plug-in's test suite needs at least."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from saebench_acorn.format import Acorn
from saebench_acorn.lab import AcornSAE, K, example
from torch import Tensor

from saebench import check_format, check_sae, load_sae
from saebench.errors import InputError

ABOUT = {"model": "acorn/tiny", "layer": 1, "stream": "before", "context": 64}


@pytest.fixture
def made(tmp_path: Path) -> tuple[AcornSAE, Tensor, Path]:
    """An SAE as Acorn has it, acts for it, and its folder."""
    sae, acts = example()
    return sae, torch.from_numpy(acts), sae.save(tmp_path / "acorn-sae", **ABOUT)


def test_it_passes_every_check(made: tuple[AcornSAE, Tensor, Path]):
    sae, acts, folder = made

    def own_code(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = sae.encode(x.numpy())
        return torch.from_numpy(latents), torch.from_numpy(sae.decode(latents))

    report = check_format(Acorn, folder, acts=acts, oracle=own_code)
    assert report.ok and not report.of("warn"), report
    assert check_sae(folder, acts=acts).format == "acorn", "found by its entry point"


def test_what_it_is_comes_from_the_files(made: tuple[AcornSAE, Tensor, Path]):
    config = load_sae(made[2]).config
    assert (config.site, config.model_id, config.k, config.context_length) == ("blocks.1.hook_resid_pre", "acorn/tiny", K, 64)


def test_k_is_asked_for_where_the_file_is_silent(made: tuple[AcornSAE, Tensor, Path]):
    file = made[2] / "acorn.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "k"}))
    with pytest.raises(InputError, match="--set k=N"):
        load_sae(made[2])
    assert load_sae(made[2], given={"k": "5"}).config.k == 5


@pytest.mark.parametrize(("change", "said"), [({"acorn": 2}, "upgrade"), ({"stream": "befor"}, "Did you mean 'before'")])
def test_refusals_are_one_line_that_names_the_file(made: tuple[AcornSAE, Tensor, Path], change: dict, said: str):
    made[0].save(made[2], **(ABOUT | change))
    with pytest.raises(InputError, match=said) as caught:
        load_sae(made[2])
    assert "acorn.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_array_is_named(made: tuple[AcornSAE, Tensor, Path]):
    np.savez(made[2] / "weights.npz", up=made[0].up, up_bias=made[0].up_bias, down=made[0].down)
    with pytest.raises(InputError, match="'offset'"):
        load_sae(made[2])

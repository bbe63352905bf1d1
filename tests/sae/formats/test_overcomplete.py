"""overcomplete: classes that are told, dictionaries at norm 1 times exp(multiplier), thresholds that are logs, batch norms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

LINEAR, NORM = "encoder.final_block.0", "encoder.final_block.1"


def tensors(**more: Tensor) -> dict[str, Tensor]:
    own = {
        f"{LINEAR}.weight": rand(S, D), f"{LINEAR}.bias": rand(S), "dictionary._weights": rand(S, D, scale=3.0),
        "dictionary.multiplier": torch.tensor(0.4),
    }  # fmt: skip
    return {key: one for key, one in (own | more).items() if one.numel()}


def batch_norm() -> dict[str, Tensor]:
    return {
        f"{NORM}.weight": rand(S, seed=1), f"{NORM}.bias": rand(S, seed=2), f"{NORM}.running_mean": rand(S, seed=3),
        f"{NORM}.running_var": rand(S, seed=4).square() + 0.1, f"{NORM}.num_batches_tracked": torch.tensor(9),
    }  # fmt: skip


def saved(path: Path, **more: Tensor) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors(**more), path)
    else:
        torch.save(tensors(**more), path)
    return path


def decode(f: Tensor) -> Tensor:
    atoms = tensors()["dictionary._weights"]
    return f @ (atoms / (atoms.norm(dim=1, keepdim=True) + 1e-8)) * torch.tensor(0.4).exp()


def pre(x: Tensor) -> Tensor:
    return x @ tensors()[f"{LINEAR}.weight"].T + tensors()[f"{LINEAR}.bias"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_topk(tmp_path: Path, suffix: str) -> None:
    file, x = saved(tmp_path / f"sae{suffix}"), acts()
    sae = load_sae(file, given={"class": "TopKSAE", "k": "5"})
    top = pre(x).relu().topk(5, 1)
    f = torch.zeros(len(x), S).scatter(1, top.indices, top.values)
    agrees(sae, x, f, decode(f))
    c = sae.config
    assert (c.format, c.architecture, c.k, c.d_in, c.d_sae, c.warnings) == ("overcomplete", "topk", 5, D, S, ())
    assert any("norm 1" in line for line in c.assumptions)
    assert inspect_sae(tmp_path, given={"class": "TopKSAE", "k": "5"})["sha256"] == sae.sha256


def test_plain_relu_without_multiplier_or_bias(tmp_path: Path) -> None:
    file = saved(tmp_path / "sae.pt", **{"dictionary.multiplier": torch.zeros(0), f"{LINEAR}.bias": torch.zeros(0)})
    x = acts()
    f = (x @ tensors()[f"{LINEAR}.weight"].T).relu()
    agrees(load_sae(file, given={"class": "SAE"}), x, f, decode(f) / torch.tensor(0.4).exp())


def test_thresholds_are_logs_and_name_the_class(tmp_path: Path) -> None:
    x, logs = acts(), rand(S)
    sae = load_sae(saved(tmp_path / "sae.pt", thresholds=logs))
    f = pre(x).relu()
    f[f < logs.exp()] = 0
    agrees(sae, x, f, decode(f))
    assert sae.config.architecture == "jumprelu"


def test_batch_norm_is_folded_by_its_running_statistics(tmp_path: Path) -> None:
    x, n = acts(), batch_norm()
    sae = load_sae(saved(tmp_path / "sae.pt", **n), given={"class": "TopKSAE", "k": "6"})
    p = torch.nn.functional.batch_norm(
        pre(x), n[f"{NORM}.running_mean"], n[f"{NORM}.running_var"], n[f"{NORM}.weight"], n[f"{NORM}.bias"], eps=1e-5
    )
    top = p.relu().topk(6, 1)
    f = torch.zeros_like(p).scatter(1, top.indices, top.values)
    agrees(sae, x, f, decode(f))
    assert any("batch norm" in line for line in sae.config.assumptions)


def test_halves_are_folded_in_float32(tmp_path: Path) -> None:
    halves = {key: one.half() for key, one in tensors().items()}
    sae = load_sae(saved(tmp_path / "sae.pt", **halves), given={"class": "SAE"})
    assert float((sae.W_dec.norm(dim=1) - torch.tensor(0.4).half().float().exp()).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("more", "given", "said"),
    [
        ({}, {}, "--set class=NAME: SAE, TopKSAE, JumpSAE"),
        ({}, {"class": "TopKSAE"}, "--set k=N"),
        ({}, {"class": "TopkSAE", "k": "4"}, "Did you mean 'TopKSAE'"),
        ({}, {"class": "BatchTopKSAE"}, "threshold is an attribute that state_dict"),
        ({}, {"class": "MpSAE"}, "pursuit"),
        ({}, {"class": "JumpSAE"}, "has no thresholds"),
        ({"Q": rand(4)}, {}, "QSAE"),
        ({"dictionary.Relax": rand(S, D), "dictionary.C": rand(3, D)}, {}, "RATopKSAE"),
        ({"encoder.mlp_blocks.0.0.weight": rand(D, D)}, {"class": "SAE"}, "hidden layers"),
        ({f"{NORM}.weight": rand(S), f"{NORM}.bias": rand(S)}, {"class": "SAE"}, "without running statistics"),
        ({"dictionary._weights": rand(S, D + 1)}, {"class": "SAE"}, "dictionary._weights is"),
        ({f"{LINEAR}.weight": torch.zeros(0)}, {"class": "SAE"}, "lacks the tensor 'encoder.final_block.0.weight'"),
        (batch_norm() | {f"{NORM}.running_var": rand(S + 1).abs()}, {"class": "SAE"}, "running_var has shape"),
        ({f"{LINEAR}.bias": rand(S + 1)}, {"class": "SAE"}, "one number for each of 40 latents"),
    ],
)
def test_what_is_asked_for_and_refused_is_one_line_with_the_file(tmp_path: Path, more: dict, given: dict, said: str) -> None:
    file = saved(tmp_path / "sae.pt", **more)
    with pytest.raises(InputError, match=said) as error:
        load_sae(file, given=given)
    assert "sae.pt" in str(error.value) or "--set" in str(error.value)
    assert "\n" not in str(error.value)

"""BatchTopK SAEs of dictionary_learning's fork: acts normalised by stored statistics, and what its repositories' names say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import load_sae
from saebench.sae.inspect import inspect_sae
from tests.sae.formats.cases import D, S, acts, agrees, rand

SETTINGS = {"activation_dim": D, "dict_size": S, "k": 4}


def statistics(scale: float = 0.3) -> dict[str, Tensor]:
    return {
        "activation_mean": rand(D, seed=5), "activation_std": rand(D, seed=6).abs() + 0.5,
        "activation_global_scale": torch.tensor(scale), "target_rms": torch.tensor(100.0),
    }  # fmt: skip


def tensors(**more: Tensor) -> dict[str, Tensor]:
    own = {
        "encoder.weight": rand(S, D), "encoder.bias": rand(S), "decoder.weight": rand(D, S), "b_dec": rand(D),
        "k": torch.tensor(4, dtype=torch.int32), "threshold": torch.tensor(0.7),
    }  # fmt: skip
    return {key: one for key, one in (own | more).items() if one.numel() or not one.ndim}


def folder(path: Path, trainer: dict | None = None, cfg: dict = SETTINGS, **more: Tensor) -> Path:
    path.mkdir(parents=True)
    save_file(tensors(**more), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(cfg))
    if trainer is not None:
        (path / "trainer_config.json").write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE"} | trainer}))
    return path


def forward(x: Tensor, mean: Tensor | float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    t = tensors()
    post = (((x - mean) * scale - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
    f = post * (post > 0.7)
    return f, (f @ t["decoder.weight"].T + t["b_dec"]) / (scale + 1e-8) + mean


def test_statistics_are_folded_in(tmp_path: Path) -> None:
    x = acts()
    sae = load_sae(folder(tmp_path / "a", **statistics()))
    agrees(sae, x, *forward(x, statistics()["activation_mean"], 0.3))
    c = sae.config
    assert (c.format, c.architecture, c.activation, c.normalisation) == (
        "dictionary_learning_hub",
        "batchtopk",
        "jumprelu",
        "none",
    )
    assert inspect_sae(tmp_path / "a")["sha256"] == sae.sha256


def test_statistics_that_were_never_set_are_nan_and_do_nothing(tmp_path: Path) -> None:
    x, unset = acts(), torch.full((D,), torch.nan)
    unset_too = {"activation_mean": unset, "activation_std": unset.clone(), "activation_global_scale": torch.tensor(1.0)}
    agrees(load_sae(folder(tmp_path / "a", **unset_too)), x, *forward(x))
    agrees(load_sae(folder(tmp_path / "b", {})), x, *forward(x))


def test_the_class_is_asked_for_where_topk_would_have_the_same_tensors(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    with pytest.raises(InputError, match="--set class=BatchTopKSAE"):
        load_sae(path)
    x = acts()
    agrees(load_sae(path, given={"class": "BatchTopKSAE"}), x, *forward(x))
    with pytest.raises(InputError, match="is a AutoEncoderTopK"):
        load_sae(path, given={"class": "AutoEncoderTopK"})


def test_site_and_model_from_the_trainer_or_the_name(tmp_path: Path) -> None:
    name = "SAE-base-gemma-2-2b-L13-k100-x32-lr1e-04-local-shuffling"
    trainer = {"layer": 13, "lm_name": "google/gemma-2-2b-it-google/gemma-2-2b", "wandb_name": name}
    c = load_sae(folder(tmp_path / "a", trainer)).config
    assert (c.site, c.model_id) == ("blocks.13.hook_resid_post", "google/gemma-2-2b")
    assert len(c.assumptions) == 2
    chat = trainer | {"wandb_name": name.replace("base", "chat"), "lm_name": "meta-llama/L-3-Instruct-meta-llama/L-3"}
    assert load_sae(folder(tmp_path / "b", chat)).config.model_id == "meta-llama/L-3-Instruct"
    c = load_sae(folder(tmp_path / f"models--science-of-finetuning--{name}/snapshots/1", **statistics())).config
    assert (c.site, c.model_id) == ("blocks.13.hook_resid_post", None)
    c = load_sae(folder(tmp_path / "c", **statistics())).config
    assert (c.site, c.assumptions) == (None, ())


@pytest.mark.parametrize(
    ("name", "trainer", "more", "said"),
    [
        ("SAE-difference_cb-gemma-2-2b-L13-k100", {}, {}, "difference between two models"),
        ("a", {"wandb_name": "SAEdiff_ftb-qwen-kansas-L14-k100"}, {}, "difference between two models"),
        ("a", {"dict_class": "AutoEncoderTopK"}, {}, "is a AutoEncoderTopK; in this layout only BatchTopKSAE"),
        ("a", {}, {"threshold": torch.tensor(-1.0)}, "never estimated"),
        ("a", {}, {"threshold": rand(S).abs()}, "'threshold' should be"),
        ("a", {}, {"decoder.weight": rand(S, D)}, "decoder.weight is"),
        ("a", {}, {"encoder.bias": torch.zeros(0)}, "lacks the tensor 'encoder.bias'"),
        ("a", {}, statistics() | {"activation_mean": rand(D + 1)}, "statistics of acts"),
        ("a", {"layer": "x"}, {}, "'layer' should be a whole number"),
    ],
)
def test_what_is_refused_is_one_line_with_the_file(tmp_path: Path, name: str, trainer: dict, more: dict, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        load_sae(folder(tmp_path / name, trainer, **more))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)

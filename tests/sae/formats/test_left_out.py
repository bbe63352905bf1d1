"""Tensors that a format does not know may change what an SAE computes: they are warned of or refused, not left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import InputError
from saebench.sae import load_sae
from tests.sae.formats import (
    mats_files,
    moss,
    sae_lens_cases,
    test_bussmann,
    test_circuit_tracer,
    test_deepseek_r1,
    test_dictionary_learning,
    test_dictionary_learning_hub,
    test_gemma_scope,
    test_gemma_scope_2,
    test_goodfire,
    test_mlsae,
    test_neel_nanda,
    test_openai,
    test_overcomplete,
    test_qwen_scope,
    test_sparsify,
)
from tests.sae.formats.cases import D, S, rand

_SCALED = {
    "log_jumprelu_threshold": torch.full((S,), -0.4),
    f"dataset_average_activation_norm.{moss.STREAM}": torch.tensor(5.9),
}
_STATISTICS = {name: rand(S) for name in ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")}
_DL = test_dictionary_learning
WARNED: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "sae_lens": lambda at, more: sae_lens_cases.folder_of(
        at, sae_lens_cases.cfg_of("standard"), sae_lens_cases.standard() | more
    ),
    "gemma_scope": lambda at, more: test_gemma_scope.written(at, test_gemma_scope.params() | more),
    "gemma_scope_2": lambda at, more: test_gemma_scope_2.written(at, test_gemma_scope_2.params() | more, test_gemma_scope_2.SAE),
    "openmoss_v1": lambda at, more: moss.write(at, moss.V1, moss.linear(moss.stored()) | more, "checkpoints/final.pt"),
    "openmoss_v2": lambda at, more: moss.write(
        at, moss.V2, moss.linear(moss.stored()) | _SCALED | more, "sae_weights.safetensors"
    ),
    "openmoss_v3": lambda at, more: moss.write(at, moss.V2, moss.stored() | _SCALED | more, "sae_weights.safetensors"),
    "openai": lambda at, more: test_openai.write(at / "6.pt", test_openai.state() | _STATISTICS | more),
    "goodfire": lambda at, more: test_goodfire.written(at, test_goodfire.tensors() | more),
    "deepseek_r1": lambda at, more: test_deepseek_r1.written(at, test_deepseek_r1.tensors() | more),
    "qwen_scope": lambda at, more: test_qwen_scope.written(
        at / "SAE-Res-Qwen3-8B-Base-W64K-L0_6", test_qwen_scope.tensors(64 * 1024) | more
    ),
    "neel_nanda": lambda at, more: test_neel_nanda.written(at, "25", test_neel_nanda.LATER, test_neel_nanda.tensors() | more),
    "bussmann": lambda at, more: test_bussmann.written(at, "batchtopk", test_bussmann.more("batchtopk") | more),
    "circuit_tracer": lambda at, more: test_circuit_tracer.layer(at, **more),
    "dictionary_learning_hub": lambda at, more: test_dictionary_learning_hub.folder(
        at, **test_dictionary_learning_hub.statistics(), **more
    ),
    "mlsae": lambda at, more: test_mlsae.folder(at, last_nonzero=torch.zeros(S, dtype=torch.long), **more),
}
REFUSED: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "sparsify": lambda at, more: test_sparsify.folder_of(at, test_sparsify.CFG, **more),
    "dictionary_learning": lambda at, more: _DL.folder_of(
        at, _DL.STATES["AutoEncoder"] | more, _DL.TRAINER | {"dict_class": "AutoEncoder"}
    ),
    "mats": lambda at, more: mats_files.write(at / mats_files.NAME, tensors=mats_files.state(**more)),
    "overcomplete": lambda at, more: test_overcomplete.saved(at / "sae.pt", **more, thresholds=rand(S)),
}


@pytest.mark.parametrize("format", WARNED)
def test_an_unknown_tensor_is_warned_of(tmp_path: Path, format: str) -> None:
    whole = load_sae(WARNED[format](tmp_path / "a", {}))
    assert whole.config.format == format
    assert not any("left out" in line for line in whole.config.warnings)
    odd = load_sae(WARNED[format](tmp_path / "b", {"some_scale": rand(S)}))
    assert any("some_scale" in line and "left out" in line for line in odd.config.warnings)
    assert odd.sha256 == whole.sha256


@pytest.mark.parametrize("format", REFUSED)
def test_an_unknown_tensor_is_refused(tmp_path: Path, format: str) -> None:
    assert load_sae(REFUSED[format](tmp_path / "a", {})).config.format == format
    with pytest.raises(InputError, match="some_scale"):
        load_sae(REFUSED[format](tmp_path / "b", {"some_scale": rand(S)}))


def test_statistics_of_acts_in_a_dictionary_are_refused(tmp_path: Path) -> None:
    """A fork of dictionary_learning keeps them in ae.pt too: without them its SAEs are given acts of another scale."""
    buffers = {"activation_mean": rand(D), "activation_std": rand(D).abs(), "activation_global_scale": torch.tensor(0.3)}
    for name in ("BatchTopKSAE", "AutoEncoderTopK"):
        for trainer in (_DL.TRAINER | {"dict_class": name}, None):
            folder = _DL.folder_of(tmp_path / f"{name}{trainer is None}", _DL.STATES[name] | buffers, trainer)
            with pytest.raises(InputError, match="activation_global_scale"):
                load_sae(folder, given=None if trainer else {"class": name})


@pytest.mark.parametrize("version", ["openmoss_v1", "openmoss_v2", "openmoss_v3"])
def test_a_threshold_of_each_latent_is_no_secret_of_version_1(tmp_path: Path, version: str) -> None:
    """Version 1 has one number in its settings; a file with more would be read without them."""
    c = load_sae(WARNED[version](tmp_path / "a", {"log_jumprelu_threshold": rand(S)})).config
    assert any("left out" in line for line in c.warnings) == (version == "openmoss_v1")

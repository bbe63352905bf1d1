"""One small valid SAE of every format that is read, for tests that run over all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.sae import save_native
from tests.metrics.conftest import random_sae
from tests.sae.formats import (
    mats_files,
    moss,
    sae_lens_cases,
    test_apollo,
    test_bussmann,
    test_circuit_tracer,
    test_deepseek_r1,
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
from tests.sae.formats.cases import D, S
from tests.sae.hostile import trained


class Written(NamedTuple):
    """An SAE in files."""

    path: str
    """What is loaded."""
    given: Mapping[str, str] | None = None
    """What has to be told of it."""


def _native(folder: Path) -> Path:
    return save_native(random_sae(D, S, k=3, model_id="some/model", context_length=99), folder / "a")


def _sae_lens(folder: Path) -> Path:
    cfg = sae_lens_cases.cfg_of("topk", k=4, rescale_acts_by_decoder_norm=True)
    return sae_lens_cases.folder_of(folder / "a", cfg, sae_lens_cases.standard())


def _legacy(folder: Path) -> Path:
    """Return an SAE of dictionary_learning in the layout that torch wrote before 1.6."""
    path = trained(folder / "a")
    torch.save(torch.load(path / "ae.pt", weights_only=True), path / "ae.pt", _use_new_zipfile_serialization=False)
    return path


def _openmoss_v3(folder: Path) -> Path:
    tensors = moss.stored() | {
        "activation_function.log_jumprelu_threshold": torch.full((S,), -0.4),
        f"dataset_average_activation_norm.{moss.STREAM}": torch.tensor(5.9),
    }
    return moss.write(folder / "a", moss.V2 | {"expansion_factor": S / D}, tensors, "sae_weights.safetensors")


def _openmoss_v2(folder: Path) -> Path:
    tensors = moss.linear(moss.stored()) | {
        "log_jumprelu_threshold": torch.full((S,), -0.4),
        f"dataset_average_activation_norm.{moss.STREAM}": torch.tensor(5.9),
    }
    return moss.write(folder / "a", moss.V2, tensors, "sae_weights.safetensors")


_GEMMA = "layer_20/width_16k/average_l0_71"
FIXTURES: dict[str, Callable[[Path], Any]] = {
    "native": _native,
    "sae_lens": _sae_lens,
    "sparsify": lambda folder: test_sparsify.folder_of(folder / "layers.3", test_sparsify.CFG),
    "dictionary_learning": lambda folder: trained(folder / "a"),
    "dictionary_learning, legacy torch": _legacy,
    "gemma_scope": lambda folder: test_gemma_scope.written(folder / "gemma-scope-2b-pt-res" / _GEMMA),
    "gemma_scope, compressed": lambda folder: test_gemma_scope.written(
        folder / "gemma-scope-2b-pt-res" / _GEMMA, compressed=True
    ),
    "gemma_scope_2": lambda folder: test_gemma_scope_2.written(
        folder / "gemma-scope-2-4b-it/resid_post_all/layer_17_width_16k_l0_medium",
        test_gemma_scope_2.params(),
        test_gemma_scope_2.SAE,
    ),
    "openmoss_v1": lambda folder: moss.write(
        folder / "Llama3_1-8B-Base-L18R-8x", moss.V1, moss.linear(moss.stored()), "checkpoints/final.safetensors"
    ),
    "openmoss_v2": _openmoss_v2,
    "openmoss_v3": _openmoss_v3,
    "openai": lambda folder: test_openai.write(folder / "resid_post_mlp_v5_32k/autoencoders/6.pt", test_openai.state(tied=True)),
    "mats": lambda folder: mats_files.write(folder / mats_files.NAME),
    "goodfire": lambda folder: test_goodfire.written(folder / "a", test_goodfire.tensors()),
    "deepseek_r1": lambda folder: test_deepseek_r1.written(folder / "a", test_deepseek_r1.tensors()),
    "qwen_scope": lambda folder: (test_qwen_scope.written(folder / "a", test_qwen_scope.tensors()), {"k": "6"}),
    "neel_nanda": lambda folder: test_neel_nanda.written(folder / "a", "25", test_neel_nanda.LATER),
    "bussmann": lambda folder: test_bussmann.written(folder / "a", "jumprelu"),
    "apollo": lambda folder: f"{test_apollo.write(folder / 'a')}#{test_apollo.FIRST}",
    "circuit_tracer": lambda folder: test_circuit_tracer.layer(folder / "a"),
    "dictionary_learning_hub": lambda folder: test_dictionary_learning_hub.folder(
        folder / "a", **test_dictionary_learning_hub.statistics()
    ),
    "mlsae": lambda folder: test_mlsae.folder(folder / "a"),
    "overcomplete": lambda folder: (test_overcomplete.saved(folder / "a/sae.pt"), {"class": "TopKSAE", "k": "5"}),
}
"""By format; a comma and more after it where there is another one of the same format."""


def write_fixture(name: str, folder: Path) -> Written:
    """Write the SAE called ``name`` below an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = FIXTURES[name](folder)
    path, given = made if isinstance(made, tuple) else (made, None)
    return Written(str(path), given)

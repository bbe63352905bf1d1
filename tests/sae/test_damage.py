"""Damaged and odd SAE files: one line that names the file and what is wrong in it, whatever it is, and nothing is executed."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae import load_sae, save_native
from saebench.sae.reading.pickle_imports import foreign_class
from tests.metrics.conftest import random_sae
from tests.sae.test_formats import D, S, dl_folder, sae_lens_folder, sparsify_folder, tensors

MODERN = {"architecture": "topk", "k": 4, "d_in": D, "d_sae": S, "normalize_activations": "none"}
META = {"hook_name": "blocks.1.hook_resid_pre", "context_size": 16}


def refused(folder: Path, *said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sae(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert str(folder) in line
    for text in said:
        assert text in line


@pytest.mark.parametrize(
    ("key", "value"),
    [("k", float("inf")), ("k", float("nan")), ("k", "8"), ("k", True), ("d_in", float("inf")), ("d_sae", 40.5),
     ("normalize_activations", ["none"]), ("architecture", ["topk"])],
)  # fmt: skip
def test_sae_lens_settings(tmp_path: Path, key: str, value: Any) -> None:
    refused(sae_lens_folder(tmp_path / "a", MODERN | {"metadata": META, key: value}, tensors()), key.split("_")[0], "cfg.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("hook_name", 5), ("hook_name_out", 5), ("model_name", 5), ("training_architecture", ["x"]), ("prepend_bos", "maybe"),
     ("context_size", "128"), ("context_size", 128.5), ("context_size", 0), ("context_size", -3)],
)  # fmt: skip
def test_sae_lens_metadata(tmp_path: Path, key: str, value: Any) -> None:
    metadata = META | {key: value}
    refused(sae_lens_folder(tmp_path / "a", MODERN | {"metadata": metadata}, tensors()), key, repr(value), "cfg.json")


def test_sae_lens_legacy_settings(tmp_path: Path) -> None:
    legacy = {"hook_point": "blocks.1.hook_resid_pre"}
    refused(sae_lens_folder(tmp_path / "a", legacy | {"normalize_activations": ["x"]}, tensors()), "normalize_activations")
    refused(sae_lens_folder(tmp_path / "b", legacy | {"activation_fn_kwargs": ["k"]}, tensors()), "activation_fn_kwargs")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scaling_factor": torch.ones(3) * 2}, "[3]"),
        ({"scaling_factor": torch.ones(S, 1) * 2}, "[40, 1]"),
        ({"W_enc": torch.ones(D)}, "W_enc"),
        ({"b_enc": torch.ones(1, S)}, "b_enc"),
        ({"W_dec": torch.ones(S, D, dtype=torch.int32)}, "int32"),
        ({"W_enc": torch.ones(D, S).to(torch.float8_e4m3fn)}, "float8_e4m3fn"),
    ],
)
def test_sae_lens_tensors(tmp_path: Path, changed: dict[str, Tensor], said: str) -> None:
    cfg = {"architecture": "standard", "metadata": META, "normalize_activations": "none"}
    refused(sae_lens_folder(tmp_path / "a", cfg, tensors(**changed)), said, "sae_weights.safetensors")


def dl_tensors(**changed: Tensor) -> dict[str, Tensor]:
    t = tensors()
    own = {"encoder.weight": t["W_enc"].T.contiguous(), "encoder.bias": t["b_enc"], "decoder.weight": t["W_dec"].T.contiguous()}
    return own | {"b_dec": t["b_dec"], "threshold": torch.tensor(0.3)} | {k.replace("_", ".", 1): v for k, v in changed.items()}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"encoder_weight": torch.ones(7)}, "encoder.weight"),
        ({"encoder_weight": torch.ones(7, 3, 2)}, "encoder.weight"),
        ({"decoder_weight": torch.ones(7)}, "decoder.weight"),
        ({"encoder_weight": torch.ones(S, D, dtype=torch.int64)}, "int64"),
        ({"threshold": torch.zeros(7)}, "threshold"),
        ({"threshold": torch.zeros(0)}, "threshold"),
    ],
)
def test_dictionary_learning_tensors(tmp_path: Path, changed: dict[str, Tensor], said: str) -> None:
    refused(dl_folder(tmp_path / "a", "BatchTopKSAE", dl_tensors(**changed)), said, "ae.pt")


def test_dictionary_learning_settings(tmp_path: Path) -> None:
    refused(dl_folder(tmp_path / "a", "AutoEncoderTopK", dl_tensors() | {"k": torch.ones(3)}), "'k'")
    refused(dl_folder(tmp_path / "b", "AutoEncoderTopK", dl_tensors(), k=float("inf")), "'k'")
    refused(dl_folder(tmp_path / "c", "BatchTopKSAE", dl_tensors(), lm_name=5), "lm_name")
    for value in (-5, True, "128"):
        folder = dl_folder(tmp_path / "d", "BatchTopKSAE", dl_tensors())
        config = json.loads((folder / "config.json").read_text()) | {"buffer": {"ctx_len": value}}
        (folder / "config.json").write_text(json.dumps(config))
        refused(folder, "ctx_len")


def test_sparsify_settings_and_tensors(tmp_path: Path) -> None:
    refused(sparsify_folder(tmp_path / "layers.1", {"k": float("nan")}), "'k'")
    refused(sparsify_folder(tmp_path / "layers.2", {}, **{"encoder.weight": torch.ones(S)}), "encoder.weight")
    folder = sparsify_folder(tmp_path / "run/layers.3", {})
    (folder.parent / "config.json").write_text('{"ctx_len": "long"}')
    with pytest.raises(InputError, match="ctx_len"):
        load_sae(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("activation", "softmax"), ("residual", "raww"), ("normalisation", 3), ("d_in", "24"), ("k", float("inf")), ("site", 7),
     ("norm_scale", "x"), ("context_length", 0), ("warnings", "x"), ("assumptions", 4)],
)  # fmt: skip
def test_native_settings(tmp_path: Path, key: str, value: Any) -> None:
    folder = save_native(random_sae(), tmp_path / "a")
    config = json.loads((folder / "config.json").read_text()) | {key: value}
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, key, "config.json")


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), ValueError("x"), IndexError("x"), RuntimeError("x\ny")])
def test_whatever_a_reader_stumbles_over_names_the_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    folder = save_native(random_sae(), tmp_path / "a")

    def read(_source: object) -> None:
        raise error

    monkeypatch.setattr(FORMATS.get("native"), "read", staticmethod(read))
    refused(folder, type(error).__name__, "native")


class Bomb:
    """Unpickled, it would leave a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", *(f"pickle{protocol}" for protocol in range(6))])
def test_a_refused_pickle_names_the_class_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    folder = dl_folder(tmp_path / "a", "AutoEncoder", {})
    content = {"first": "posix", "x": [Bomb(tmp_path / "executed"), Bomb(tmp_path / "executed")]}
    if kind.startswith("pickle"):
        (folder / "ae.pt").write_bytes(pickle.dumps(content, protocol=int(kind[-1])))
    else:
        torch.save(content, folder / "ae.pt", _use_new_zipfile_serialization=kind == "zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(folder, "posix.system", "nothing was executed")
    assert not (tmp_path / "executed").exists()


def test_plain_files_name_nothing_and_damage_gives_no_advice_to_run_it(tmp_path: Path) -> None:
    for zipped in (True, False):
        file = tmp_path / f"{zipped}.pt"
        torch.save(dl_tensors(), file, _use_new_zipfile_serialization=zipped)
        assert foreign_class(file) is None
    for data in (b"", b"PK\x03\x04cut", b"\x80\x02}q", b"not a pickle at all", b"\x80\x04cposix\n"):
        folder = dl_folder(tmp_path / "a", "AutoEncoder", {})
        (folder / "ae.pt").write_bytes(data)
        with pytest.raises(InputError) as caught:
            load_sae(folder)
        assert "weights_only" not in str(caught.value)
        assert "ae.pt" in str(caught.value)

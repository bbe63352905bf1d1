"""Files as mats_sae_training wrote them: classes of a module that is there when they are written and gone when they are read."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tests.sae.formats.cases import OUT, D, S, rand

SETTINGS = {
    "model_name": "gpt2-small", "hook_point": "blocks.8.hook_resid_pre", "hook_point_layer": 8, "hook_point_head_index": None,
    "dataset_path": "Skylion007/openwebtext", "context_size": 128, "d_in": D, "d_sae": S, "expansion_factor": 32, "lr": 4e-4,
    "l1_coefficient": 8e-5, "dtype": torch.float32, "device": torch.device("cpu"), "use_ghost_grads": (False,),
}  # fmt: skip
"""Attributes of the configuration of the published files, with these tests' sizes."""
TRANSCODER = SETTINGS | {
    "hook_point": "blocks.8.ln2.hook_normalized", "is_transcoder": True, "out_hook_point": "blocks.8.hook_mlp_out",
    "out_hook_point_layer": 8, "d_out": OUT,
}  # fmt: skip
VISION = {
    "class_token": True, "image_width": 224, "model_name": "openai/clip-vit-base-patch32", "module_name": "resid",
    "block_layer": 10, "d_in": D, "d_sae": S, "dtype": torch.float32, "device": torch.device("cpu"), "gated_sae": False,
}  # fmt: skip
NAME = "final_sparse_autoencoder_gpt2-small_blocks.8.hook_resid_pre_24576.pt"
SPARSITY = NAME.replace(".pt", "_log_feature_sparsity.pt")


def state(**more: Tensor) -> OrderedDict[str, Tensor]:
    """Return tensors in the library's orientation: encoder ``[D, S]``, decoder ``[S, D]``."""
    return OrderedDict(
        {"W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, D, seed=3), "b_dec": rand(D, seed=4), **more}
    )


def transcoder_state() -> OrderedDict[str, Tensor]:
    """Return the tensors of a transcoder that writes another width than it reads."""
    return state(W_dec=rand(S, OUT, seed=5), b_dec_out=rand(OUT, seed=6))


@contextmanager
def module(name: str, **members: Any) -> Iterator[ModuleType]:
    """Put a module of this name, and what it lies in, into ``sys.modules``, and take them out again."""
    made: list[str] = []
    parts = name.split(".")
    try:
        for at in range(1, len(parts) + 1):
            inner = ".".join(parts[:at])
            if inner not in sys.modules:
                sys.modules[inner] = ModuleType(inner)
                made.append(inner)
        for key, member in members.items():
            member.__module__, member.__qualname__ = name, key
            setattr(sys.modules[name], key, member)
        yield sys.modules[name]
    finally:
        for inner in made:
            del sys.modules[inner]


def write(
    file: Path, settings: Mapping[str, Any] = SETTINGS, tensors: Mapping[str, Any] | None = None, *, zipped: bool = True,
    package: str = "sae_training.config", kind: str = "LanguageModelSAERunnerConfig", **top: Any,
) -> Path:  # fmt: skip
    """Write a file of ``cfg``, an object of the class ``package.kind`` with these attributes, and ``state_dict``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    own = type(kind, (), {})
    with module(package, **{kind: own}):
        cfg = own()
        vars(cfg).update(settings)
        content = {"cfg": cfg, "state_dict": state() if tensors is None else tensors, **top}
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    assert package not in sys.modules
    return file


def write_sparsity(file: Path) -> Path:
    """Write what the library wrote beside each SAE: the log of how often each latent fires, a bare tensor."""
    torch.save(rand(S).abs().neg(), file)
    return file

"""Runs where the real libraries are: what six SAEs score when their own libraries encode and decode.

``score_six.py TOKENS.npy MODEL SAES OUT.json``; the arithmetic of the scores is that of ``tests/independent_core.py``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

tokens_file, model_folder, saes, out = (Path(one) for one in sys.argv[1:5])
_spec = importlib.util.spec_from_file_location("core", Path(__file__).parents[1] / "independent_core.py")
assert _spec and _spec.loader
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


def sae_lens(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Inference saves and training saves alike; those of BatchTopK only sae_lens' training class reads."""
    from sae_lens import SAE

    sae = SAE.load_from_disk(str(folder))
    return lambda x: (sae.encode(x), sae.decode(sae.encode(x)))


def dictionary_learning(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    from dictionary_learning.utils import load_dictionary

    sae = load_dictionary(str(folder), "cpu")[0]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        latents = sae.encode(x)
        return latents, sae.decode(latents)

    return both


def sparsify(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    from sparsify import SparseCoder

    sae = SparseCoder.load_from_disk(str(folder))

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        acts, indices, _ = sae.encode(x)
        dense = torch.zeros(len(x), sae.num_latents).scatter_(1, indices, acts)
        return dense, sae.decode(acts, indices)

    return both


LIBRARIES = {"saelens": sae_lens, "dictionary_learning": dictionary_learning, "sparsify": sparsify}

model = AutoModelForCausalLM.from_pretrained(model_folder, attn_implementation="eager").eval()
tokens = torch.from_numpy(np.load(tokens_file)).long()
found = {}
for name in json.loads(sys.argv[5]):
    library = LIBRARIES[name.split("/")[0].split("-")[0]]
    with torch.no_grad():
        found[name] = _module.core(model, tokens, 3, library(saes / name))["scores"]
out.write_text(json.dumps(found))

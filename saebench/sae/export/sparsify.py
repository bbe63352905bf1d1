"""For sparsify: ``<module>/cfg.json`` + ``<module>/sae.safetensors``, read by ``sparsify.SparseCoder.load_from_disk``.

The folder's name says which module the SAE reads; ``config.json`` beside it names model and context length.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.sae.export.fold import about, folded, hf_refusal, place, with_shift
from saebench.sae.reading.files import read_json
from saebench.sae.sae import SAE, SAEConfig
from saebench.store import write_atomic

FORMAT = "sparsify"
_NAMELESS = "sae"


def refusal(c: SAEConfig, skip: bool) -> str | None:
    """Return why sparsify cannot hold it, or ``None``."""
    del skip
    if c.activation not in ("topk", "groupmax"):
        return f"sparsify has topk and groupmax only, this is {c.activation}"
    if c.d_in != c.d_out:
        return f"sparsify's coders write as many dimensions as they read, this one reads {c.d_in} and writes {c.d_out}"
    return hf_refusal(c, "sparsify")


def notes(sae: SAE) -> list[str]:
    """Return what sparsify has no place for or names otherwise."""
    c, told, name = sae.config, [], _module(sae.config)
    if c.site is not None and name is None:
        both = f"{c.site} → {c.site_out}" if _transcodes(c) else c.site
        told.append(f"no module has {both} as its output, so the folder is called {_NAMELESS!r} and names no module")
    if name is not None and (c.site or "").endswith("hook_resid_pre"):
        told.append(f"{c.site} is written as the output of {name}, which is the same tensor")
    if c.prepend_bos is not None:
        told.append(f"sparsify has no place for prepend_bos, which is {str(c.prepend_bos).lower()}")
    return told


def write(sae: SAE, folder: Path, told: list[str]) -> Path:
    """Write the folder of the module and the file beside it, and return the former."""
    from safetensors.torch import save

    c, w = sae.config, folded(sae)
    transcodes = _transcodes(c)
    w = with_shift(w, None if transcodes else w.b_dec)
    inner = folder / (_module(c) or _NAMELESS)
    root = _root(folder / "config.json", c, inner.name)
    cfg = {
        "activation": c.activation, "expansion_factor": max(1, c.d_sae // c.d_in), "normalize_decoder": False,
        "num_latents": c.d_sae, "k": c.k, "multi_topk": False, "skip_connection": w.W_skip is not None,
        "transcode": transcodes, "d_in": c.d_in, "saebench": about(sae, told),
    }  # fmt: skip
    tensors = {"encoder.weight": w.W_enc.T.contiguous(), "encoder.bias": w.b_enc, "W_dec": w.W_dec, "b_dec": w.b_dec}
    if w.W_skip is not None:
        tensors["W_skip"] = w.W_skip.T.contiguous()
    write_atomic(inner / "sae.safetensors", save(tensors))
    write_atomic(inner / "cfg.json", (json.dumps(cfg, indent=1) + "\n").encode())
    write_atomic(folder / "config.json", (json.dumps(root, indent=1) + "\n").encode())
    return inner


def _transcodes(c: SAEConfig) -> bool:
    return c.site_out not in (None, c.site)


def _module(c: SAEConfig) -> str | None:
    """Return the path, in the model's base class at Hugging Face, of the module whose output the SAE reads."""
    found, model = place(c.site), (c.model_id or "").lower()
    if found is None:
        return None
    gpt2, (block, tail) = "gpt2" in model, found
    layers = "h" if gpt2 else "layers"
    if _transcodes(c):
        same = tail == "mlp.hook_in" and c.site_out == f"blocks.{block}.mlp.hook_out"
        return f"{layers}.{block}.mlp" if same else None
    attention = "attn" if gpt2 else "attention" if "pythia" in model or "neox" in model else "self_attn"
    if tail == "hook_resid_pre":
        return f"{layers}.{block - 1}" if block else None  # what block 0 reads is no module's output where positions are added
    names = {"hook_resid_post": "", "hook_mlp_out": ".mlp", "hook_attn_out": f".{attention}"}
    return f"{layers}.{block}{names[tail]}" if tail in names else None


def _root(file: Path, c: SAEConfig, name: str) -> dict[str, Any]:
    """Return the contents of the file beside the modules' folders; one that is there already must be of the same run."""
    known = {key: value for key, value in {"model": c.model_id, "ctx_len": c.context_length}.items() if value is not None}
    if not file.is_file():
        return known | {"hookpoints": [name]}
    old = read_json(file)
    others = old.get("hookpoints")
    if not isinstance(others, list) or any(old.get(key) != known.get(key) for key in ("model", "ctx_len")):
        raise InputError(f"{file} belongs to something else than SAEs of {c.model_id}; choose another folder to export to")
    return old | {"hookpoints": sorted({*map(str, others), name})}

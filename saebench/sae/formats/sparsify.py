"""sparsify (EleutherAI): ``cfg.json`` + ``sae.safetensors``, one folder a hook point."""

from __future__ import annotations

import re
from pathlib import Path

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.files import load_safetensors, n_tokens, number, read_json, safetensors_shapes, take
from saebench.sae.sae import SAE, SAEConfig, SAEWeights

_BLOCK = r"(?:layers|h|gpt_neox\.layers|model\.layers|transformer\.h)\.(\d+)"
_PARTS = {
    "": "hook_resid_post",
    ".mlp": "hook_mlp_out",
    ".self_attn": "hook_attn_out",
    ".attention": "hook_attn_out",
    ".attn": "hook_attn_out",
}


@FORMATS.register("sparsify")
class Sparsify:
    """cfg.json + sae.safetensors, as sparsify writes them."""

    looked_for = "cfg.json + sae.safetensors (sparsify)"

    @staticmethod
    def detect(path: Path) -> bool:
        """Return whether the two files are there."""
        return (path / "cfg.json").is_file() and (path / "sae.safetensors").is_file()

    @staticmethod
    def load(path: Path) -> SAE:
        """Load the folder."""
        file, weights = path / "cfg.json", path / "sae.safetensors"
        cfg, shapes = read_json(file), safetensors_shapes(weights)
        if any(key.startswith(("W_decs.", "post_encs.")) for key in shapes):
            raise InputError(f"{path} is a cross-layer transcoder, which is not supported")
        if cfg.get("signed"):
            raise InputError(f"{path} has signed latents, an option that sparsify dropped; it is not supported")
        activation = str(cfg.get("activation", "topk"))
        if activation not in ("topk", "groupmax"):
            raise InputError(f"{file}: unknown activation {activation!r}; known: topk, groupmax")
        tensors = load_safetensors(weights)
        w_enc = take(tensors, "encoder.weight", weights, ndim=(2,)).T.contiguous()
        w_dec, b_dec = take(tensors, "W_dec", weights, ndim=(2,)), take(tensors, "b_dec", weights)
        if "d_in" in cfg and number(cfg, "d_in", file) != w_enc.shape[0]:
            raise InputError(f"{file}: d_in is {cfg['d_in']}, but encoder.weight reads {w_enc.shape[0]}")
        transcode = bool(cfg.get("transcode"))
        skip = take(tensors, "W_skip", weights, ndim=(2,)).T.contiguous() if cfg.get("skip_connection") else None
        site, site_out, assumptions = _site(path, transcode)
        return SAE(
            SAEConfig(
                activation=activation,  # pyright: ignore[reportArgumentType]
                d_in=w_enc.shape[0],
                d_out=w_dec.shape[1],
                d_sae=w_enc.shape[1],
                k=number(cfg, "k", file),
                architecture="transcoder" if transcode else activation,
                format="sparsify",
                path=str(path),
                site=site,
                site_out=site_out,
                context_length=_root_context(path),
                model_id=_root(path, "model"),
                assumptions=tuple(assumptions),
            ),
            SAEWeights(
                W_enc=w_enc,
                b_enc=take(tensors, "encoder.bias", weights),
                W_dec=w_dec,
                b_dec=b_dec,
                b_in=None if transcode else b_dec,
                W_skip=skip,
            ),
        )


def _site(path: Path, transcode: bool) -> tuple[str | None, str | None, list[str]]:
    """Return (site, site_out, assumptions) from the folder's name, which is the module's path in the model."""
    for name in (path.name, path.parent.name):
        found = re.fullmatch(rf"{_BLOCK}(\.\w+)?", name) or re.fullmatch(r"layer_(\d+)(\.\w+)?", name)
        if found and (found[2] or "") in _PARTS:
            written = f"blocks.{found[1]}.{_PARTS[found[2] or '']}"
            if not transcode:
                return written, None, [f"site taken from the folder name {name!r}: SAEs of sparsify read a module's output"]
            if found[2] == ".mlp":
                module = f"blocks.{found[1]}.mlp"
                told = f"sites taken from the folder name {name!r}: what that module is given and what it gives back"
                return f"{module}.hook_in", f"{module}.hook_out", [told]
    return None, None, []


def _root(path: Path, key: str) -> str | None:
    for folder in (path.parent, path.parent.parent):
        file = folder / "config.json"
        if file.is_file():
            value = read_json(file).get(key)
            if isinstance(value, str):
                return value
    return None


def _root_context(path: Path) -> int | None:
    file = path.parent / "config.json"
    return n_tokens(read_json(file), "ctx_len", file) if file.is_file() else None

"""sparsify (EleutherAI): ``cfg.json`` + ``sae.safetensors``, one folder a hook point."""

from __future__ import annotations

import re

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.files import header, n_tokens, number, take
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Source

_WEIGHTS = "sae.safetensors"
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
    rank = 2

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if both files are there."""
        return _WEIGHTS if source.has("cfg.json", _WEIGHTS) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        file, weights, path = source.at("cfg.json"), source.at(_WEIGHTS), source.path
        cfg, shapes = source.json("cfg.json"), source.headers(_WEIGHTS)
        if any(key.startswith(("W_decs.", "post_encs.")) for key in shapes):
            raise InputError(f"{path} is a cross-layer transcoder, which is not supported")
        if cfg.get("signed"):
            raise InputError(f"{path} has signed latents, an option that sparsify dropped; it is not supported")
        activation = str(cfg.get("activation", "topk"))
        if activation not in ("topk", "groupmax"):
            raise InputError(f"{file}: unknown activation {activation!r}; known: topk, groupmax")
        encoder, decoder = header(shapes, "encoder.weight", weights, ndim=2), header(shapes, "W_dec", weights, ndim=2)
        d_sae, d_in = encoder.shape
        if "d_in" in cfg and number(cfg, "d_in", file) != d_in:
            raise InputError(f"{file}: d_in is {cfg['d_in']}, but encoder.weight reads {d_in}")
        transcode = bool(cfg.get("transcode"))
        site, site_out, assumptions = _site(source, transcode)
        config = SAEConfig(
            activation=activation,  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=decoder.shape[1],
            d_sae=d_sae,
            k=number(cfg, "k", file),
            architecture="transcoder" if transcode else activation,
            format="sparsify",
            path=str(path),
            site=site,
            site_out=site_out,
            context_length=_root_context(source),
            model_id=_root(source, "model"),
            assumptions=tuple(assumptions),
        )

        def load() -> SAEWeights:
            tensors = source.tensors(_WEIGHTS)
            b_dec = take(tensors, "b_dec", weights)
            return SAEWeights(
                W_enc=source.turned(take(tensors, "encoder.weight", weights, ndim=(2,))),
                b_enc=take(tensors, "encoder.bias", weights),
                W_dec=take(tensors, "W_dec", weights, ndim=(2,)),
                b_dec=b_dec,
                b_in=None if transcode else b_dec,
                W_skip=take(tensors, "W_skip", weights, ndim=(2,)).T.contiguous() if cfg.get("skip_connection") else None,
            )

        return Entry(config=config, weights=load)


def _site(source: Source, transcode: bool) -> tuple[str | None, str | None, list[str]]:
    """Return (site, site_out, assumptions) from the folder's name, which is the module's path in the model."""
    for name in reversed(source.words[-2:]):
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


def _root(source: Source, key: str) -> str | None:
    for name in ("../config.json", "../../config.json"):
        if (source.folder / name).is_file():
            value = source.json(name).get(key)
            if isinstance(value, str):
                return value
    return None


def _root_context(source: Source) -> int | None:
    name = "../config.json"
    return n_tokens(source.json(name), "ctx_len", source.at(name)) if (source.folder / name).is_file() else None

"""Neel Nanda's autoencoders of one-layer models, and Kissane's and Krzyzanowski's of attention: ``V.pt`` + ``V_cfg.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, n_tokens, number, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import may_be_in_stream
from saebench.sae.source import Entry, Notes, Source

_KEYS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})
_SITES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "mlp_out": "hook_mlp_out",
    "attn_out": "hook_attn_out",
    "pre": "mlp.hook_pre",
    "post": "mlp.hook_post",
    "mlp_post": "mlp.hook_post",
    "z": "attn.hook_z",
}
"""What the scripts call ``site``, as TransformerLens' ``get_act_name`` reads it."""
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_ATTENTION = re.compile(r"(.+)_L(\d+)_Hcat_z_")


@FORMATS.register("neel_nanda")
class NeelNanda:
    """NAME.pt + NAME_cfg.json, as the scripts of 1L-Sparse-Autoencoder and what came of them write.

    f = max((x − b_dec) W_enc + b_enc, 0), x̂ = f W_dec + b_dec; at ``attn.hook_z`` x is all heads side by side. Rows of W_dec are
    used as they are stored: in the first runs their norms are not quite 1.

    Source: github.com/neelnanda-io/1L-Sparse-Autoencoder; huggingface.co/ckkissane/attn-saes-gpt2-small-all-layers.
    """

    looked_for = "NAME.pt + NAME_cfg.json with act_size and dict_size (neel_nanda)"
    rank = 13
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights that was named, or the only one of the folder that has a configuration beside it."""
        pairs = [name for name in source.names if name.endswith(".pt") and source.has(_cfg_name(name))]
        pairs = [name for name in pairs if {"act_size", "d_mlp"} & set(source.json(_cfg_name(name)))]
        if len(pairs) != 1:
            return None
        keys = source.keys(pairs[0])
        return None if keys and not keys >= _KEYS else pairs[0]

    @staticmethod
    def fits(source: Source) -> bool:
        """Return whether it is a file of the four tensors and nothing else, turned as here, and no configuration beside it."""
        file = _bare(source)
        if file is None or source.keys(file) != _KEYS:
            return False
        shapes = source.headers(file)
        return shapes["W_enc"].ndim == 2 and shapes["W_enc"].shape[1] == shapes["b_enc"].numel

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings; a file without any is read if this format was asked for."""
        file = NeelNanda.detect(source) or _bare(source)
        if file is None:
            raise InputError(f"{source.path}: name one file NAME.pt, whose settings lie beside it in NAME_cfg.json")
        path, notes = source.at(file), Notes()
        told = _cfg_name(file) if source.has(_cfg_name(file)) else None
        cfg, where = ({}, path) if told is None else (source.json(told), source.at(told))
        d_in, d_sae = _sizes(source, file, path)
        notes.left_out(file, set(source.headers(file)) - _KEYS)
        if told is None:
            notes.assumptions.append(
                f"b_dec is taken off the input and latents are relu: {path.name} has no {_cfg_name(file)} beside it, and format "
                "neel_nanda was asked for"
            )
            notes.assumptions.append(
                "residual stream taken as raw: nothing says how the model was loaded; the scripts centre it, so for one "
                "of theirs give --residual centred"
            )
        _agree(cfg, where, d_in, d_sae)
        if isinstance(cfg.get("head"), int):
            raise InputError(f"{where}: trained on the single head {cfg['head']}; only whole sites are supported")
        stored, said = source.headers(file)["W_enc"].dtype, str(cfg.get("enc_dtype"))
        if _DTYPES.get(said, stored) != stored:
            notes.warnings.append(
                f"enc_dtype is {said}, but the weights are stored as {stored}; they are used as they are stored"
            )
        site, model = _site(source, cfg, where, told is not None, notes), text(cfg, "model_name", where)
        if site is not None and site.endswith("attn.hook_z"):
            notes.warnings.append(
                "trained on z as TransformerLens' from_pretrained gives it, without the bias of the values (fold_value_biases); "
                "models with one, such as GPT-2, are read with it here"
            )
        centred = told is not None and may_be_in_stream(site)
        if centred:
            notes.assumptions.append(
                "residual stream taken as centred: the scripts load models with from_pretrained, which centres what writes to it"
            )
        if told is not None:
            notes.assumptions.append("BOS taken to stand first: the scripts put it there; the files do not say")
        config = SAEConfig(
            activation="relu",
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            architecture="standard",
            format="neel_nanda",
            path=str(source.path),
            site=site,
            model_id=model or _model(source, cfg, told is not None, notes),
            residual="centred" if centred else "raw",
            context_length=n_tokens(cfg, "seq_len", where),
            prepend_bos=True if told is not None else None,
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )

        def load() -> SAEWeights:
            tensors = source.tensors(file)
            b_dec = take(tensors, "b_dec", path, ndim=(1,))
            return SAEWeights(
                W_enc=take(tensors, "W_enc", path, ndim=(2,)),
                b_enc=take(tensors, "b_enc", path, ndim=(1,)),
                W_dec=take(tensors, "W_dec", path, ndim=(2,)),
                b_dec=b_dec,
                b_in=b_dec,
            )

        return Entry(config=config, weights=load)


def _cfg_name(file: str) -> str:
    return f"{file.removesuffix('.pt')}_cfg.json"


def _bare(source: Source) -> str | None:
    if source.file is not None:
        return source.file if source.file.endswith((".pt", ".pth")) else None
    return source.only(r".+\.(pt|pth)")


def _sizes(source: Source, file: str, path: Path) -> tuple[int, int]:
    shapes = source.headers(file)
    if "W_enc" in shapes and shapes["W_enc"].ndim == 3:
        raise InputError(f"{path} is a crosscoder of {shapes['W_enc'].shape[0]} models or sites at once, which is not supported")
    d_in, d_sae = header(shapes, "W_enc", path, ndim=2).shape
    other, bias = header(shapes, "W_dec", path, ndim=2).shape, header(shapes, "b_enc", path, ndim=1).numel
    if bias != d_sae or other != (d_sae, d_in):
        raise InputError(
            f"{path}: W_enc is {[d_in, d_sae]}, W_dec {list(other)} and b_enc {[bias]}; expected [d, F], [F, d] and [F]; the "
            "file is damaged or of another format"
        )
    return d_in, d_sae


def _agree(cfg: dict[str, Any], where: Path, d_in: int, d_sae: int) -> None:
    said = {key: number(cfg, key, where) for key in ("act_size", "d_mlp", "dict_size") if cfg.get(key) is not None}
    if said.get("act_size", said.get("d_mlp", d_in)) != d_in or said.get("dict_size", d_sae) != d_sae:
        told = ", ".join(f"{key} {value}" for key, value in said.items())
        raise InputError(f"{where} says {told}, but the weights read {d_in} and have {d_sae} latents")


def _site(source: Source, cfg: dict[str, Any], where: Path, configured: bool, notes: Notes) -> str | None:
    name, kind = text(cfg, "act_name", where), text(cfg, "site", where)
    if name is not None or not configured:
        return name
    if kind is not None and cfg.get("layer") is not None:
        if kind not in _SITES:
            raise InputError(f"{where}: unknown site {kind!r}; known: {', '.join(_SITES)}")
        return f"blocks.{number(cfg, 'layer', where)}.{_SITES[kind]}"
    found = _attention(source)
    if found is not None:
        notes.assumptions.append(f"site taken from the file name: layer {found[2]}, all heads of hook_z")
        return f"blocks.{found[2]}.attn.hook_z"
    if "d_mlp" in cfg:
        notes.assumptions.append(
            "site taken as blocks.0.mlp.hook_post: the configuration is of the first runs, on the MLP of a one-layer model"
        )
        return "blocks.0.mlp.hook_post"
    return None


def _model(source: Source, cfg: dict[str, Any], configured: bool, notes: Notes) -> str | None:
    found = _attention(source)
    if found is not None:
        notes.assumptions.append(f"model taken as {found[1]} from the file name")
        return found[1]
    if configured and "d_mlp" in cfg:
        notes.assumptions.append("model taken as gelu-1l, which the scripts of the first runs load")
        return "gelu-1l"
    return None


def _attention(source: Source) -> re.Match[str] | None:
    return next((found for one in reversed(source.words) if (found := _ATTENTION.match(one))), None)

"""mats_sae_training and the first SAELens (2024): a torch file of ``cfg``, an object of theirs, and ``state_dict``.

Also what was made of it: transcoder_circuits (a second bias, ``b_dec_out``) and mats_sae_training_for_ViTs. The classes that
these files name are never imported; :mod:`saebench.sae.reading.inert` says what stands in for them.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, n_tokens, number, take, text
from saebench.sae.reading.inert import Inert, imports_of, is_of, stand_ins
from saebench.sae.reading.stored import Header, StoredTensor
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import may_be_in_stream
from saebench.sae.source import WEIGHTS, Entry, Notes, Source

_PACKAGES = ("sae_training", "sae_lens")
_NAMED = re.compile(r"(?:\w+_)?sparse_autoencoder_.+")
_SPARSITY = re.compile(r".*sparsity\.pth?")
_TORCH = (".pt", ".pth")
_PICKLES = (".pkl", ".pkl.gz")
_SAVE = "torch.save({'cfg': sae.cfg, 'state_dict': sae.state_dict()}, 'NAME.pt')"
_TENSORS = ("W_enc", "W_dec", "b_dec", "b_enc", "b_dec_out", "scaling_factor", "b_gate", "b_mag", "r_mag")
_SETTINGS = (
    "model_name", "hook_point", "hook_point_head_index", "context_size", "prepend_bos", "d_in", "d_sae", "d_out", "is_transcoder",
    "out_hook_point", "activation_fn", "activation_fn_str", "normalize_activations", "apply_b_dec_to_input", "block_layer",
    "module_name",
)  # fmt: skip
"""Attributes of ``cfg`` that are looked at; each is text, a number, a truth value or nothing."""


@FORMATS.register("mats")
class Mats:
    """A torch file of cfg and state_dict, as mats_sae_training and SAELens before its version 3 wrote them."""

    looked_for = "final_sparse_autoencoder_*.pt or another torch file of cfg and state_dict (mats_sae_training, SAELens of 2024)"
    rank = 9
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights: one that holds ``cfg`` and ``state_dict``, or names classes of the two libraries."""
        file = _candidate(source)
        if file is None or file.endswith(_PICKLES):
            return file
        keys = source.keys(file)
        if keys:
            return file if {"state_dict/W_enc", "state_dict/W_dec", "state_dict/b_dec"} <= keys else None
        try:
            names = imports_of(source.at(file))
        except InputError:
            return None
        theirs = any(is_of(name, _PACKAGES) for name in names)
        return file if theirs or (names and _NAMED.fullmatch(file)) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings from the attributes of ``cfg``."""
        name = _candidate(source)
        if name is None:
            raise InputError(f"{source.path} holds no one torch file of cfg and state_dict; name the file")
        file, notes = source.at(name), Notes()
        inert = _stand_ins(file)
        cfg, shapes = _contents(source, name, inert)
        about = _about(cfg, shapes, file)
        for key, value in {"d_in": about.d_in, "d_sae": about.d_sae, "d_out": about.d_out}.items():
            if cfg[key] is not None and (key != "d_out" or about.transcoder) and number(cfg, key, file) != value:
                raise InputError(f"{file}: cfg says {key} is {cfg[key]}, but the weights have {value}")
        site, site_out = _site(cfg, name, file, notes), _site_out(cfg, about, source, file)
        shifts = _flag(cfg, "apply_b_dec_to_input", file)
        scale = _scale(cfg, source, file, notes)
        if "scaling_factor" in shapes:
            notes.assumptions.append("scaling_factor is folded into the decoder, as the SAELens of its time applied it")
        config = SAEConfig(
            activation="gated" if about.gated else "relu",
            d_in=about.d_in,
            d_out=about.d_out,
            d_sae=about.d_sae,
            normalisation="none" if scale is None else "constant_scale",
            norm_scale=scale,
            architecture="transcoder" if about.transcoder else "gated" if about.gated else "standard",
            format="mats",
            path=str(source.path),
            site=site,
            site_out=site_out,
            model_id=text(cfg, "model_name", file),
            residual=_residual(cfg, site, site_out, file, notes),
            context_length=n_tokens(cfg, "context_size", file),
            prepend_bos=_flag(cfg, "prepend_bos", file),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(
            config=config, weights=lambda: _weights(_tensors(source, name, inert), about, shifts is not False, file, source)
        )


class _About(NamedTuple):
    d_in: int
    d_sae: int
    d_out: int
    transcoder: bool
    gated: bool


def _candidate(source: Source) -> str | None:
    """Return the file that may hold the SAE; sparsities of latents lie beside it and are none."""
    if source.file is not None:
        mine = source.file.endswith((*_TORCH, *_PICKLES)) and not _SPARSITY.fullmatch(source.file)
        return source.file if mine else None
    weights = [name for name in source.names if name.endswith(WEIGHTS) and not _SPARSITY.fullmatch(name)]
    named = [name for name in source.names if _NAMED.fullmatch(name) and name.endswith(_TORCH) and name in weights]
    if len(named) == 1:
        return named[0]
    if len(weights) == 1 and weights[0].endswith(_TORCH):
        return weights[0]
    pickles = [name for name in source.names if _NAMED.fullmatch(name) and name.endswith(_PICKLES)]
    return pickles[0] if pickles and not weights else None


def _stand_ins(file: Path) -> list[type[Inert]]:
    """Return what stands in for the classes that a file names, nothing of its own being run.

    Raises:
        InputError: It is a plain pickle, or names a class of another package.
    """
    if file.name.endswith(_PICKLES):
        raise InputError(
            f"{file} is a plain pickle, which runs what it likes when it is opened; refused, nothing was executed. Where you "
            f"trust it, open it with the library that wrote it and save it again: {_SAVE}"
        )
    group = next((one for one in imports_of(file) if is_of(one, _PACKAGES) and one.endswith("SAEGroup")), None)
    if group is not None:
        raise InputError(
            f"{file} holds a whole {group}, SAEs together with the library's objects; refused, nothing was executed. Where you "
            f"trust it, open it with the library that wrote it and save each SAE for itself: {_SAVE}"
        )
    return stand_ins(file, _PACKAGES)


def _contents(source: Source, name: str, inert: list[type[Inert]]) -> tuple[dict[str, Any], dict[str, Header]]:
    """Return the settings and the headers of the tensors.

    Raises:
        InputError: The file holds something else.
    """
    file, loaded = source.at(name), source.contents(name, inert)
    if not isinstance(loaded, dict):
        raise InputError(f"{file} holds a {type(loaded).__name__}, expected a dictionary of cfg and state_dict")
    cfg, state = dict.get(loaded, "cfg"), dict.get(loaded, "state_dict")
    if not isinstance(cfg, dict | Inert) or not isinstance(state, dict):
        raise InputError(
            f"{file} should hold cfg, an object of settings, and state_dict, a dictionary of tensors; found a "
            f"{type(cfg).__name__} and a {type(state).__name__}"
        )
    for key, one in dict.items(state):
        if key not in _TENSORS:
            raise InputError(
                f"{file}: unknown tensor {str(key)[:80]!r}, which may change what the SAE computes; known: {', '.join(_TENSORS)}"
            )
        if not isinstance(one, StoredTensor):
            raise InputError(f"{file}: {key!r} is a {type(one).__name__}, expected a tensor")
    return _settings(cfg, file), {key: one.header for key, one in dict.items(state)}


def _tensors(source: Source, name: str, inert: list[type[Inert]]) -> dict[str, torch.Tensor]:
    return source.tensors(name, inside="state_dict", inert=inert)


def _settings(cfg: dict[Any, Any] | Inert, file: Path) -> dict[str, Any]:
    said = cfg.attributes if isinstance(cfg, Inert) else cfg
    found: dict[str, Any] = {}
    for key in _SETTINGS:
        found[key] = said.get(key)
        if not isinstance(found[key], str | int | float | None):
            raise InputError(f"{file}: cfg.{key} is a {type(found[key]).__name__}, expected text or a number")
    layer, processing = said.get("hook_point_layer"), said.get("model_from_pretrained_kwargs")
    if "{layer}" in str(found["hook_point"]):  # of several SAEs; which of them this is, a single layer tells
        found["hook_point"] = str(found["hook_point"]).replace("{layer}", str(layer)) if type(layer) is int else None
    found["center_writing_weights"] = processing.get("center_writing_weights") if isinstance(processing, dict) else None
    return found


def _about(cfg: dict[str, Any], shapes: dict[str, Header], file: Path) -> _About:
    d_in, d_sae = header(shapes, "W_enc", file, ndim=2).shape
    gated = "r_mag" in shapes
    for key in ("b_gate" if "b_gate" in shapes else "b_enc", "b_dec", *(("b_mag", "r_mag") if gated else ())):
        header(shapes, key, file, ndim=1)
    transcoder = "b_dec_out" in shapes or bool(_flag(cfg, "is_transcoder", file))
    activation = text(cfg, "activation_fn_str", file) or text(cfg, "activation_fn", file) or "relu"
    if activation != "relu":
        raise InputError(f"{file}: cfg.activation_fn is {activation!r}; of these files only those with relu are supported")
    d_out = header(shapes, "b_dec_out", file, ndim=1).numel if transcoder else d_in
    if header(shapes, "W_dec", file, ndim=2).shape != (d_sae, d_out):
        raise InputError(
            f"{file}: W_dec has shape {list(shapes['W_dec'].shape)}, expected {[d_sae, d_out]} after W_enc and biases"
        )
    return _About(d_in, d_sae, d_out, transcoder, gated)


def _flag(cfg: dict[str, Any], key: str, file: Path) -> bool | None:
    if not isinstance(cfg[key], bool | None):
        raise InputError(f"{file}: cfg.{key} should be true or false, found {cfg[key]!r}")
    return cfg[key]


def _site(cfg: dict[str, Any], name: str, file: Path, notes: Notes) -> str | None:
    if cfg["hook_point_head_index"] is not None:
        raise InputError(
            f"{file}: cfg.hook_point_head_index is {cfg['hook_point_head_index']!r}: it was trained on a single head; only whole "
            "sites are supported"
        )
    site = text(cfg, "hook_point", file)
    if site is None and cfg["block_layer"] is not None:
        notes.warnings.append(
            f"trained on a vision model ({cfg['model_name']!r}, {cfg['module_name']!r} of block {cfg['block_layer']!r}): no site "
            "of a language model is its own, so it can be inspected, exported and given acts, and scores on text mean nothing"
        )
        return None
    if site is None:
        found = re.search(r"_(blocks\.\d+\.[\w.]+?)_\d+(?:_\w+)?\.pth?$", name)
        if found is not None:
            site = found[1]
            notes.assumptions.append(f"site taken as {site}: cfg does not say, the file's name does")
    if site is not None and site.endswith("attn.hook_z"):
        notes.warnings.append(
            "trained on z as TransformerLens computes it by default, without the bias of the values (fold_value_biases); models "
            "that have one, such as GPT-2, are read with it here"
        )
    return site


def _site_out(cfg: dict[str, Any], about: _About, source: Source, file: Path) -> str | None:
    if not about.transcoder:
        return None
    site = text(cfg, "out_hook_point", file) or source.given.get("site_out")
    if site is None:
        raise InputError(f"{file} is a transcoder and does not say where it writes; give --set site_out=HOOK")
    return site


def _scale(cfg: dict[str, Any], source: Source, file: Path, notes: Notes) -> float | None:
    """Return the factor of its acts, if it was trained on scaled ones; the factor itself was never saved."""
    kind = cfg["normalize_activations"]
    if kind in (None, False, "none"):
        return None
    if kind not in (True, "expected_average_only_in"):
        raise InputError(f"{file}: unknown cfg.normalize_activations {kind!r}; known: true, false, expected_average_only_in")
    scale = source.given.get("norm_scale", float)
    if scale is None:
        raise InputError(
            f"{file} was trained on acts scaled by √d_in over their mean norm, and the factor is not in it; give it with "
            "--set norm_scale=X"
        )
    if not 0 < scale < math.inf:
        raise InputError(f"--set norm_scale={scale}: acts are multiplied by it; give a positive number")
    notes.assumptions.append(f"acts are multiplied by {scale:g}, as told: cfg.normalize_activations is {kind!r}")
    return scale


def _residual(cfg: dict[str, Any], site: str | None, site_out: str | None, file: Path, notes: Notes) -> Any:
    told = cfg["center_writing_weights"]
    if not isinstance(told, bool | None):
        raise InputError(f"{file}: cfg.model_from_pretrained_kwargs: center_writing_weights should be true or false")
    if told is not None:
        return "centred" if told else "raw"
    if cfg["block_layer"] is not None or not may_be_in_stream(site, site_out):
        return "raw"
    notes.assumptions.append(
        "residual stream taken as centred: the library loaded models with TransformerLens' default processing, which has "
        "center_writing_weights on"
    )
    return "centred"


def _weights(tensors: dict[str, Any], about: _About, shifts: bool, file: Path, source: Source) -> SAEWeights:
    """Encode f = relu((x − b_dec) W_enc + b_enc), decode x̂ = (f · scaling_factor) W_dec + b_dec, or b_dec_out in its place."""
    b_dec = take(tensors, "b_dec", file)
    w_dec, scaling = take(tensors, "W_dec", file), _scaling(tensors, about, file)
    out: dict[str, torch.Tensor] = {
        "W_enc": take(tensors, "W_enc", file),
        "W_dec": w_dec if scaling is None else source.wide(w_dec).mul_(scaling[:, None]),  # a private map, so in place
        "b_dec": take(tensors, "b_dec_out", file) if about.transcoder else b_dec,
    }
    if shifts:
        out["b_in"] = b_dec
    if not about.gated:
        return SAEWeights(b_enc=take(tensors, "b_enc", file), **out)
    gate = take(tensors, "b_gate" if "b_gate" in tensors else "b_enc", file)
    return SAEWeights(
        b_enc=torch.zeros_like(gate), b_gate=gate, b_mag=take(tensors, "b_mag", file), r_mag=take(tensors, "r_mag", file), **out
    )


def _scaling(tensors: dict[str, Any], about: _About, file: Path) -> torch.Tensor | None:
    if "scaling_factor" not in tensors:
        return None
    scaling = take(tensors, "scaling_factor", file)
    if scaling.shape != (about.d_sae,):
        raise InputError(
            f"{file}: scaling_factor has shape {list(scaling.shape)}, expected one number for each of {about.d_sae} latents"
        )
    return None if bool((scaling == 1).all()) else scaling

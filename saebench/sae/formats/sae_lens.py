"""sae_lens: ``cfg.json`` + ``sae_weights.safetensors``; version 6 and the flat configurations before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.files import n_tokens, number, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_NORMALISATIONS = {
    "none": "none",
    "expected_average_only_in": "none",
    "constant_norm_rescale": "unit_norm",
    "layer_norm": "layer_norm",
    "covariance_whitening": "none",
}
_ACTIVATIONS = {
    "standard": "relu",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "abstopk": "abstopk",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_WEIGHTS = "sae_weights.safetensors"
_SCALING = {"scaling_factor", "finetuning_scaling_factor"}
_REFUSED = {
    "temporal": "it works on whole sequences, not on one token at a time",
    "matching_pursuit": "its latents come from a pursuit loop, not from one encoder pass",
}


@FORMATS.register("sae_lens")
class SaeLens:
    """cfg.json + sae_weights.safetensors, as sae_lens writes them (version 6 and before)."""

    looked_for = "cfg.json + sae_weights.safetensors (sae_lens)"
    rank = 1

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if both files are there."""
        return _WEIGHTS if source.has("cfg.json", _WEIGHTS) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        file, path = source.at("cfg.json"), source.path
        cfg, notes = _modern(source.json("cfg.json"), file), Notes()
        architecture = str(cfg.get("architecture", "standard"))
        if architecture in _REFUSED:
            raise InputError(f"{path} is a {architecture} SAE, which is not supported: {_REFUSED[architecture]}")
        if architecture not in _ACTIVATIONS:
            raise InputError(f"{file}: unknown architecture {architecture!r}; known: {', '.join(_ACTIVATIONS)}")
        weights = source.at(_WEIGHTS)
        if _SCALING & set(source.headers(_WEIGHTS)):
            notes.assumptions.append("scaling_factor is folded into the decoder, as the sae_lens of its time applied it")
        meta = cfg["metadata"]
        trained_as = text(meta, "training_architecture", file) or architecture
        if not isinstance(meta.get("prepend_bos"), bool | None):
            raise InputError(f"{file}: 'prepend_bos' should be true or false, found {meta['prepend_bos']!r}")
        config = SAEConfig(
            activation=_ACTIVATIONS[architecture],  # pyright: ignore[reportArgumentType]
            d_in=number(cfg, "d_in", file),
            d_out=number(cfg, "d_out", file) if cfg.get("d_out") is not None else number(cfg, "d_in", file),
            d_sae=number(cfg, "d_sae", file),
            k=number(cfg, "k", file) if "topk" in _ACTIVATIONS[architecture] else None,
            normalisation=_normalisation(cfg, file, notes),  # pyright: ignore[reportArgumentType]
            architecture=trained_as,
            format="sae_lens",
            path=str(path),
            site=text(meta, "hook_name", file),
            site_out=text(meta, "hook_name_out", file),
            model_id=text(meta, "model_name", file),
            residual=_residual(cfg, meta, notes),
            context_length=n_tokens(meta, "context_size", file),
            prepend_bos=meta.get("prepend_bos"),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: _weights(cfg, architecture, source.tensors(_WEIGHTS), weights))


def _modern(cfg: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the configuration in the layout of version 6, whatever wrote it."""
    meta = cfg.get("metadata")
    if isinstance(meta, dict):
        return cfg
    old = dict(cfg)
    for before, after in {
        "hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn",
    }.items():  # fmt: skip
        if before in old:
            old.setdefault(after, old.pop(before))
    old["legacy_hook_point"] = "hook_point" in cfg
    if old.get("hook_head_index") is not None:
        raise InputError(f"{file}: trained on the single head {old['hook_head_index']}; only whole sites are supported")
    old.setdefault("architecture", "standard")
    kwargs = old.get("activation_fn_kwargs") or {}
    if not isinstance(kwargs, dict):
        raise InputError(f"{file}: 'activation_fn_kwargs' should hold key: value pairs, found {kwargs!r}")
    if old.get("activation_fn") == "topk" or "k" in kwargs:
        old["architecture"], old["k"] = "topk", old.get("k", kwargs.get("k"))
    normalise = old.get("normalize_activations")
    if isinstance(normalise, bool | None):
        old["normalize_activations"] = "expected_average_only_in" if normalise else "none"
    old.setdefault("apply_b_dec_to_input", True)
    old["metadata"] = {
        key: old.get(key)
        for key in ("hook_name", "hook_name_out", "model_name", "context_size", "prepend_bos", "model_from_pretrained_kwargs")
    }
    return old


def _normalisation(cfg: dict[str, Any], file: Path, notes: Notes) -> str:
    name = text(cfg, "normalize_activations", file) or "none"
    if name not in _NORMALISATIONS:
        raise InputError(f"{file}: unknown normalize_activations {name!r}; known: {', '.join(_NORMALISATIONS)}")
    if name == "expected_average_only_in":
        notes.warnings.append(
            "normalize_activations is expected_average_only_in: sae_lens folds that factor in when training ends, so it is not "
            "applied; a checkpoint from the middle of training would score wrongly"
        )
    return _NORMALISATIONS[name]


def _residual(cfg: dict[str, Any], meta: dict[str, Any], notes: Notes) -> Any:
    kwargs = meta.get("model_from_pretrained_kwargs")
    if isinstance(kwargs, dict) and "center_writing_weights" in kwargs:
        return "centred" if kwargs["center_writing_weights"] else "raw"
    if cfg.get("legacy_hook_point") and kwargs is None:
        notes.assumptions.append(
            "residual stream taken as centred: the configuration is from early 2024 (it says hook_point), when sae_lens loaded "
            "models with center_writing_weights on"
        )
        return "centred"
    return "raw"


def _weights(cfg: dict[str, Any], architecture: str, tensors: dict[str, Tensor], file: Path) -> SAEWeights:
    w_enc, w_dec = take(tensors, "W_enc", file, ndim=(2,)), take(tensors, "W_dec", file, ndim=(2,))
    b_dec = take(tensors, "b_dec", file, ndim=(1,))
    shift = b_dec if cfg.get("apply_b_dec_to_input", True) else None
    if architecture.endswith("transcoder"):
        shift = None
    if architecture == "gated":
        gate = take(tensors, "b_gate", file)
        return SAEWeights(
            W_enc=w_enc, b_enc=torch.zeros_like(gate), W_dec=w_dec, b_dec=b_dec, b_in=shift,
            b_gate=gate, b_mag=take(tensors, "b_mag", file), r_mag=take(tensors, "r_mag", file),
        )  # fmt: skip
    b_enc = take(tensors, "b_enc", file, ndim=(1,))
    threshold = None
    if _ACTIVATIONS[architecture] == "jumprelu":
        threshold = _threshold(architecture, tensors, file).to(w_enc.dtype)
    scaling = next((take(tensors, key, file) for key in sorted(_SCALING) if key in tensors), None)
    if scaling is not None and scaling.shape != (len(w_dec),):
        raise InputError(
            f"{file}: the scaling factor has shape {list(scaling.shape)}, expected one number for each of {len(w_dec)} latents"
        )
    if scaling is not None and not bool((scaling == 1).all()):
        w_dec.mul_(scaling[:, None])
    if cfg.get("rescale_acts_by_decoder_norm") and architecture != "jumprelu":
        norm = w_dec.norm(dim=1)
        w_enc, b_enc, w_dec = w_enc.mul_(norm), b_enc.mul_(norm), w_dec.div_(norm[:, None])
    skip = take(tensors, "W_skip", file, ndim=(2,)).T.contiguous() if "skip" in architecture else None
    return SAEWeights(W_enc=w_enc, b_enc=b_enc, W_dec=w_dec, b_dec=b_dec, b_in=shift, threshold=threshold, W_skip=skip)


def _threshold(architecture: str, tensors: dict[str, Tensor], file: Path) -> Tensor:
    if "batchtopk" in architecture:
        return take(tensors, "topk_threshold", file)
    if "threshold" not in tensors and "log_threshold" in tensors:
        return take(tensors, "log_threshold", file).exp()
    return take(tensors, "threshold", file)

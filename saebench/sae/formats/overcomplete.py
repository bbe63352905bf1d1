"""overcomplete (Kempner Institute): the ``state_dict()`` of its SAEs in a torch or safetensors file; classes are not in it."""

from __future__ import annotations

from pathlib import Path

import torch

from saebench.errors import InputError, did_you_mean
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, take
from saebench.sae.reading.mapped import wide
from saebench.sae.reading.stored import Header
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_FILES = r".+\.(pt|pth|safetensors)"
_ATOMS = "dictionary._weights"
_LINEAR, _NORM = "encoder.final_block.0", "encoder.final_block.1"
_KNOWN = {
    _ATOMS, "dictionary.multiplier", f"{_LINEAR}.weight", f"{_LINEAR}.bias", f"{_NORM}.weight", f"{_NORM}.bias",
    f"{_NORM}.running_mean", f"{_NORM}.running_var", f"{_NORM}.num_batches_tracked", "thresholds",
}  # fmt: skip
_ACTIVATIONS = {"SAE": "relu", "TopKSAE": "topk", "JumpSAE": "jumprelu"}
_REFUSED = {
    "BatchTopKSAE": "its threshold is an attribute that state_dict() leaves out",
    "MpSAE": "its latents come from a pursuit of a kind of its own",
    "OMPSAE": "its latents come from a pursuit of a kind of its own",
    "QSAE": "its latents are quantised",
    "RATopKSAE": "its dictionary is bound to points by a radius that state_dict() leaves out",
    "RAJumpSAE": "its dictionary is bound to points by a radius that state_dict() leaves out",
}
_BATCH_NORM_EPS = 1e-5
_NORM_EPS = 1e-8


@FORMATS.register("overcomplete")
class Overcomplete:
    """A .pt, .pth or .safetensors file with dictionary._weights, the state_dict of an SAE of overcomplete."""

    looked_for = "a .pt, .pth or .safetensors file with dictionary._weights (overcomplete, state_dict)"
    rank = 21
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is the only one and has overcomplete's dictionary."""
        file = source.only(_FILES)
        return file if {_ATOMS, "dictionary.Relax"} & source.keys(file) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes; the class and k are asked for.

        f = activation(N(x Eᵀ + e)), x̂ = f A · exp(multiplier), with N the batch norm that some encoders have, by its running
        statistics, and A the rows of ``dictionary._weights`` at norm 1. No bias is added behind the dictionary. JumpSAE keeps
        what reaches exp(thresholds), TopKSAE the k largest.

        Raises:
            InputError: A tensor is missing, sizes disagree, the class is not told or not supported, k is not told, or the
                encoder has more than one layer or a norm without running statistics.

        Source: overcomplete/sae/{base,modules,dictionary,topk_sae,jump_sae}.py.
        """
        weights = source.only(_FILES)
        if weights is None:
            raise InputError(f"{source.path} has no file of weights, or several; name the one that is the SAE")
        file, shapes, notes = source.at(weights), source.headers(weights), Notes()
        kind = _class(source, shapes, file)
        _check(shapes, file)
        d_sae, d_in = header(shapes, f"{_LINEAR}.weight", file, ndim=2).shape
        if header(shapes, _ATOMS, file, ndim=2).shape != (d_sae, d_in):
            raise InputError(f"{file}: {_ATOMS} is {list(shapes[_ATOMS].shape)}, but {_LINEAR}.weight is {[d_sae, d_in]}")
        for key in (f"{_LINEAR}.bias", *(f"{_NORM}.{one}" for one in ("weight", "bias", "running_mean", "running_var"))):
            if key in shapes and shapes[key].shape != (d_sae,):
                raise InputError(
                    f"{file}: {key} has shape {list(shapes[key].shape)}, expected one number for each of {d_sae} latents"
                )
        k = source.given.get("k", int) if kind == "TopKSAE" else None
        if kind == "TopKSAE" and k is None:
            raise InputError(f"{file} is a TopKSAE of overcomplete, whose k is not in its state_dict; give it with --set k=N")
        notes.assumptions.append("rows of the dictionary taken at norm 1: overcomplete's default, the file does not say")
        if f"{_NORM}.running_mean" in shapes:
            notes.assumptions.append("the encoder's batch norm is folded in by its running statistics, as in evaluation mode")
        config = SAEConfig(
            activation=_ACTIVATIONS[kind],  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=k,
            architecture={"SAE": "standard", "TopKSAE": "topk", "JumpSAE": "jumprelu"}[kind],
            format="overcomplete",
            path=str(source.path),
            assumptions=tuple(notes.assumptions),
        )
        return Entry(config=config, weights=lambda: _weights(source, weights, kind))


def _class(source: Source, shapes: dict[str, Header], file: Path) -> str:
    """Return the class: by what only one has, else as told."""
    own = "JumpSAE" if "thresholds" in shapes else "QSAE" if "Q" in shapes else None
    if "dictionary.Relax" in shapes:
        own = "RATopKSAE"
    kind = own or source.given.get("class")
    if kind is None:
        raise InputError(
            f"{file} does not say of which class of overcomplete it is; give it with --set class=NAME: {', '.join(_ACTIVATIONS)}"
        )
    if kind in _REFUSED:
        raise InputError(f"{file} is a {kind} of overcomplete, which is not supported: {_REFUSED[kind]}")
    if kind not in _ACTIVATIONS:
        raise InputError(
            f"--set class={kind}: no such class.{did_you_mean(kind, _ACTIVATIONS)} Known: {', '.join(_ACTIVATIONS)}."
        )
    if kind == "JumpSAE" and own is None:
        raise InputError(f"{file} has no thresholds, so it is no JumpSAE; give another --set class")
    return kind


def _check(shapes: dict[str, Header], file: Path) -> None:
    extra = next((key for key in shapes if key not in _KNOWN), None)
    if extra is not None:
        raise InputError(
            f"{file} has {extra!r}: only encoders of one linear layer, with or without a batch norm, are supported, not those "
            "with hidden layers, attention or convolutions"
        )
    if f"{_NORM}.weight" in shapes and f"{_NORM}.running_mean" not in shapes:
        raise InputError(
            f"{file}: the encoder ends in a norm without running statistics, which divides by the other latents of a token or by "
            "other tokens; it is not supported"
        )


def _weights(source: Source, weights: str, kind: str) -> SAEWeights:
    tensors, file = source.tensors(weights), source.at(weights)
    w_enc = wide(source.turned(take(tensors, f"{_LINEAR}.weight", file, ndim=(2,))))
    bias = tensors.get(f"{_LINEAR}.bias")
    b_enc = torch.zeros(w_enc.shape[1], dtype=w_enc.dtype) if bias is None else take(tensors, f"{_LINEAR}.bias", file)
    if f"{_NORM}.running_mean" in tensors:
        b_enc = _fold(w_enc, b_enc, tensors, file)
    w_dec = wide(take(tensors, _ATOMS, file, ndim=(2,)))
    scale = take(tensors, "dictionary.multiplier", file, ndim=(1, 0)).exp() if "dictionary.multiplier" in tensors else 1.0
    w_dec.mul_(scale / (w_dec.norm(dim=1, keepdim=True) + _NORM_EPS))
    return SAEWeights(
        W_enc=w_enc,
        b_enc=b_enc,
        W_dec=w_dec,
        b_dec=torch.zeros(w_dec.shape[1], dtype=w_dec.dtype),
        threshold=take(tensors, "thresholds", file).exp() if kind == "JumpSAE" else None,
    )


def _fold(w_enc: torch.Tensor, b_enc: torch.Tensor, tensors: dict[str, torch.Tensor], file: Path) -> torch.Tensor:
    """Fold g · (p − mean) / √(var + eps) + h into the encoder, whose matrix is changed in place; return its bias."""
    stats = {key: take(tensors, f"{_NORM}.{key}", file, ndim=(1,)) for key in ("running_mean", "running_var")}
    gain = (stats["running_var"] + _BATCH_NORM_EPS).rsqrt()
    if f"{_NORM}.weight" in tensors:
        gain = gain * take(tensors, f"{_NORM}.weight", file, ndim=(1,))
    w_enc.mul_(gain)
    b_enc = (b_enc - stats["running_mean"]) * gain
    return b_enc + take(tensors, f"{_NORM}.bias", file, ndim=(1,)) if f"{_NORM}.bias" in tensors else b_enc

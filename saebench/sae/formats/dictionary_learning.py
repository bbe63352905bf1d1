"""dictionary_learning: ``ae.pt`` + ``config.json`` whose ``trainer.dict_class`` names the class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.files import header, n_tokens, number, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Source

_WEIGHTS = "ae.pt"
_SCALAR_THRESHOLD = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")
_ACTIVATIONS = {
    "AutoEncoder": "relu",
    "AutoEncoderNew": "relu",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "jumprelu",
    "MatryoshkaBatchTopKSAE": "jumprelu",
}
_ARCHITECTURES = {
    "AutoEncoder": "standard",
    "AutoEncoderNew": "standard",
    "GatedAutoEncoder": "gated",
    "JumpReluAutoEncoder": "jumprelu",
    "AutoEncoderTopK": "topk",
    "BatchTopKSAE": "batchtopk",
    "MatryoshkaBatchTopKSAE": "matryoshka_batchtopk",
}
_SITES = {
    "resid_post": "hook_resid_post",
    "resid_pre": "hook_resid_pre",
    "attn": "hook_attn_out",
    "attention": "hook_attn_out",
    "attn_out": "hook_attn_out",
    "mlp": "hook_mlp_out",
    "mlp_out": "hook_mlp_out",
}


@FORMATS.register("dictionary_learning")
class DictionaryLearning:
    """ae.pt + config.json, as dictionary_learning's trainers write them."""

    looked_for = "ae.pt + config.json with trainer.dict_class (dictionary_learning)"
    rank = 3

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is there."""
        return _WEIGHTS if source.has(_WEIGHTS) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        file, path, weights = source.at("config.json"), source.path, source.at(_WEIGHTS)
        if not source.has("config.json"):
            raise InputError(f"{path} has ae.pt but no config.json, which says the kind of SAE; put the two side by side")
        trainer = source.json("config.json").get("trainer")
        if not isinstance(trainer, dict):
            raise InputError(f"{file} has no 'trainer' section; it is not a configuration of dictionary_learning")
        kind = str(trainer.get("dict_class") or _from_trainer(str(trainer.get("trainer_class")), file))
        if kind not in _ACTIVATIONS:
            raise InputError(f"{file}: unknown dict_class {kind!r}; known: {', '.join(_ACTIVATIONS)}")
        tensors = source.mapping(_WEIGHTS)
        if "optimizer" in tensors and "ae" in tensors:
            raise InputError(f"{weights} is a backup from the middle of training, in normalised units; use the final ae.pt")
        if kind in _SCALAR_THRESHOLD:
            _batch_threshold(tensors, weights)
        native = "W_enc" in tensors
        shape = header(source.headers(_WEIGHTS), "W_enc" if native else "encoder.weight", weights, ndim=2).shape
        d_in, d_sae = shape if native else shape[::-1]
        for key, value in {"activation_dim": d_in, "dict_size": d_sae}.items():
            if key in trainer and number(trainer, key, file) != value:
                raise InputError(f"{file}: {key} is {trainer[key]}, but the weights have {value}")
        site, assumptions = _site(trainer)
        config = SAEConfig(
            activation=_ACTIVATIONS[kind],  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=_k(kind, trainer, tensors, file),
            architecture=_ARCHITECTURES[kind],
            format="dictionary_learning",
            path=str(path),
            site=site,
            model_id=text(trainer, "lm_name", file),
            context_length=_context(source),
            assumptions=tuple(assumptions),
        )
        return Entry(config=config, weights=lambda: _weights(kind, source, weights))


def _from_trainer(name: str, file: Path) -> str:
    kinds = {
        "StandardTrainer": "AutoEncoder", "StandardTrainerAprilUpdate": "AutoEncoder", "PAnnealTrainer": "AutoEncoder",
        "GatedSAETrainer": "GatedAutoEncoder", "GatedAnnealTrainer": "GatedAutoEncoder", "JumpReluTrainer": "JumpReluAutoEncoder",
        "TopKTrainer": "AutoEncoderTopK", "TrainerTopK": "AutoEncoderTopK", "BatchTopKTrainer": "BatchTopKSAE",
        "MatryoshkaBatchTopKTrainer": "MatryoshkaBatchTopKSAE",
    }  # fmt: skip
    if name not in kinds:
        raise InputError(f"{file}: neither dict_class nor a known trainer_class (found {name!r})")
    return kinds[name]


def _k(kind: str, trainer: dict[str, Any], tensors: dict[str, Any], file: Path) -> int | None:
    if kind == "AutoEncoderTopK":
        stored = tensors.get("k")
        if isinstance(stored, Tensor) and stored.numel() != 1:
            raise InputError(f"{file.parent / 'ae.pt'}: 'k' should be one number, found shape {list(stored.shape)}")
        return (
            number({"k": stored.item()}, "k", file.parent / "ae.pt") if isinstance(stored, Tensor) else number(trainer, "k", file)
        )
    return None


def _weights(kind: str, source: Source, file: Path) -> SAEWeights:
    t = source.tensors(_WEIGHTS)
    if kind in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        w_enc, w_dec = take(t, "W_enc", file, ndim=(2,)), take(t, "W_dec", file, ndim=(2,))
        b_enc, b_dec = take(t, "b_enc", file), take(t, "b_dec", file)
        matryoshka = kind == "MatryoshkaBatchTopKSAE"
        threshold = _batch_threshold(t, file) if matryoshka else take(t, "threshold", file)
        return SAEWeights(
            W_enc=w_enc, b_enc=b_enc, W_dec=w_dec, b_dec=b_dec, threshold=threshold, b_in=b_dec if matryoshka else None
        )
    w_enc = source.turned(take(t, "encoder.weight", file, ndim=(2,)))
    w_dec = source.turned(take(t, "decoder.weight", file, ndim=(2,)))
    if kind == "GatedAutoEncoder":
        bias, gate = take(t, "decoder_bias", file), take(t, "gate_bias", file)
        return SAEWeights(
            W_enc=w_enc, b_enc=torch.zeros_like(gate), W_dec=w_dec, b_dec=bias, b_in=bias,
            b_gate=gate, b_mag=take(t, "mag_bias", file), r_mag=take(t, "r_mag", file),
        )  # fmt: skip
    b_enc = take(t, "encoder.bias", file)
    if kind == "AutoEncoderNew":
        return SAEWeights(W_enc=w_enc, b_enc=b_enc, W_dec=w_dec, b_dec=take(t, "decoder.bias", file))
    b_dec = take(t, "bias" if kind == "AutoEncoder" else "b_dec", file)
    threshold = _batch_threshold(t, file) if kind == "BatchTopKSAE" else None
    return SAEWeights(W_enc=w_enc, b_enc=b_enc, W_dec=w_dec, b_dec=b_dec, b_in=b_dec, threshold=threshold)


def _batch_threshold(t: dict[str, Any], file: Path) -> Tensor:
    threshold = take(t, "threshold", file, ndim=(1, 0))
    if threshold.numel() != 1:
        raise InputError(f"{file}: 'threshold' should be one number for all latents, found shape {list(threshold.shape)}")
    if float(threshold) < 0:
        raise InputError(
            f"{file}: threshold is {float(threshold):g}, never estimated (training ended before threshold_start_step); every "
            "latent would fire, so it cannot be scored"
        )
    return threshold


def _site(trainer: dict[str, Any]) -> tuple[str | None, list[str]]:
    name, layer = str(trainer.get("submodule_name") or ""), trainer.get("layer")
    found = re.fullmatch(r"(.+?)_layer_(\d+)", name)
    if found and found[1] in _SITES:
        return f"blocks.{found[2]}.{_SITES[found[1]]}", []
    if isinstance(layer, int) and not isinstance(layer, bool):
        site = f"blocks.{layer}.hook_resid_post"
        return site, [f"site taken as {site}: submodule_name is {name!r}, and the library's buffer reads the block's output"]
    return None, []


def _context(source: Source) -> int | None:
    buffer = source.json("config.json").get("buffer")
    return n_tokens(buffer, "ctx_len", source.at("config.json")) if isinstance(buffer, dict) else None

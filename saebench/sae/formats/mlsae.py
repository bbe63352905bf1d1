"""mlsae (Lawson et al.): one SAE for the residual stream behind every block, ``config.json`` + ``model.safetensors``."""

from __future__ import annotations

import re
from typing import Any

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, n_tokens, number, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS = "model.safetensors"
_SETTINGS = "config.json"
_INNER = "autoencoder."
"""What the tensors' names start with where the language model is stored too (repositories whose names have ``-tfm``)."""
_NAME = re.compile(
    r"(?:[\w-]+/)?(?:ml)?sae-(?P<model>[\w.-]+?)-x\d+-k(?P<k>\d+)(?P<lens>-lens)?(?:-tfm)?(?:-layers-(?P<layer>\d+))?"
)
_OWNERS = {"pythia-": "EleutherAI", "gpt2": "openai-community", "Llama-": "meta-llama", "gemma-": "google"}


@FORMATS.register("mlsae")
class MLSAE:
    """config.json + model.safetensors with pre_encoder_bias, as mlsae publishes them."""

    looked_for = "config.json + model.safetensors with encoder.weight, decoder.weight and pre_encoder_bias (mlsae)"
    rank = 19

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it has mlsae's bias."""
        keys = source.keys(_WEIGHTS) if source.has(_WEIGHTS) else frozenset()
        return _WEIGHTS if {"pre_encoder_bias", _INNER + "pre_encoder_bias"} & keys else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings; what they leave out comes from names such as ``mlsae-pythia-70m-deduped-x64-k32``.

        With z = (x − mean_D(x)) / (std_D(x) + 1e-5), the deviation unbiased: f = max(p, 0) of the k largest p = (z − b) Eᵀ,
        x̂ = (f Dᵀ + b) · std + mean. ``encode`` of the library leaves the ReLU to ``forward``, which is what it is trained and
        evaluated by.

        Raises:
            InputError: A tensor is missing, sizes disagree, nothing says k, or it expects acts behind a tuned lens.

        Source: Lawson et al. 2024, arXiv 2409.04185, §3; mlsae/model/autoencoder.py.
        """
        if not source.has(_WEIGHTS):
            raise InputError(f"{source.path} has no {_WEIGHTS}; it is not an SAE of mlsae")
        file, shapes, notes = source.at(_WEIGHTS), source.headers(_WEIGHTS), Notes()
        cfg = source.json(_SETTINGS) if source.has(_SETTINGS) else {}
        start = _INNER if any(key.startswith(_INNER) for key in shapes) else ""
        name = next((found for word in source.words if (found := _NAME.fullmatch(word))), None)
        if any(key.startswith(f"{start}encoder_lens.") for key in shapes) or cfg.get("tuned_lens") or (name and name["lens"]):
            raise InputError(
                f"{source.path} is an SAE of mlsae behind a lens: it reads acts that a matrix of each layer has turned, which is "
                "not supported; use one that was trained without a lens"
            )
        d_sae, d_in = header(shapes, f"{start}encoder.weight", file, ndim=2).shape
        if header(shapes, f"{start}decoder.weight", file, ndim=2).shape != (d_in, d_sae):
            raise InputError(
                f"{file}: decoder.weight is {list(shapes[f'{start}decoder.weight'].shape)}, expected {[d_in, d_sae]}"
            )
        for key, value in {"n_inputs": d_in, "n_latents": d_sae}.items():
            if key in cfg and number(cfg, key, source.at(_SETTINGS)) != value:
                raise InputError(f"{source.at(_SETTINGS)}: {key} is {cfg[key]}, but the weights have {value}")
        if not start:  # else what else is stored is the language model
            notes.left_out(_WEIGHTS, set(shapes) - {"encoder.weight", "decoder.weight", "pre_encoder_bias", "last_nonzero"})
        config = SAEConfig(
            activation="topk",
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=_k(source, cfg, name, notes),
            normalisation="layer_norm" if _standardises(source, cfg, notes) else "none",
            architecture="topk",
            format="mlsae",
            path=str(source.path),
            site=_site(cfg, name, notes),
            model_id=_model(source, cfg, name, notes),
            context_length=n_tokens(cfg, "max_length", source.at(_SETTINGS)),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )

        def load() -> SAEWeights:
            tensors = source.tensors(_WEIGHTS)
            encoder = take(tensors, f"{start}encoder.weight", file, ndim=(2,))
            bias = take(tensors, f"{start}pre_encoder_bias", file)
            return SAEWeights(
                W_enc=source.turned(encoder), b_enc=torch.zeros(d_sae, dtype=encoder.dtype),
                W_dec=source.turned(take(tensors, f"{start}decoder.weight", file, ndim=(2,))), b_dec=bias, b_in=bias,
            )  # fmt: skip

        return Entry(config=config, weights=load)


def _k(source: Source, cfg: dict[str, Any], name: re.Match[str] | None, notes: Notes) -> int:
    if "k" in cfg:
        return number(cfg, "k", source.at(_SETTINGS))
    if name is not None:
        notes.assumptions.append(f"k taken from the name {name[0]!r}")
        return int(name["k"])
    k = source.given.get("k", int)
    if k is None:
        raise InputError(f"{source.path} has no {_SETTINGS} that says k; give it with --set k=N")
    return k


def _standardises(source: Source, cfg: dict[str, Any], notes: Notes) -> bool:
    told = cfg.get("standardize")
    if not isinstance(told, bool | None):
        raise InputError(f"{source.at(_SETTINGS)}: 'standardize' should be true or false, found {told!r}")
    if told is None:
        notes.assumptions.append("input taken as standardised per token: the library's default, the settings do not say")
    return told is not False


def _site(cfg: dict[str, Any], name: re.Match[str] | None, notes: Notes) -> str | None:
    layers = cfg.get("layers")
    if isinstance(layers, list) and len(layers) == 1 and type(layers[0]) is int:
        return f"blocks.{layers[0]}.hook_resid_post"
    if name is not None and name["layer"] is not None:
        site = f"blocks.{int(name['layer'])}.hook_resid_post"
        notes.assumptions.append(f"site taken as {site} from the name {name[0]!r}: the library reads the outputs of blocks")
        return site
    which = f"blocks {', '.join(map(str, layers))}" if isinstance(layers, list) and layers else "every block"
    notes.assumptions.append(
        f"one SAE for the residual stream behind {which}: where it is scored is for --site to say, e.g. blocks.3.hook_resid_post"
    )
    return None


def _model(source: Source, cfg: dict[str, Any], name: re.Match[str] | None, notes: Notes) -> str | None:
    said = text(cfg, "model_name", source.at(_SETTINGS))
    if said is not None or name is None:
        return said
    owner = next((owner for start, owner in _OWNERS.items() if name["model"].startswith(start)), None)
    if owner is None:
        return None
    notes.assumptions.append(f"model taken from the name {name[0]!r}")
    return f"{owner}/{name['model']}"

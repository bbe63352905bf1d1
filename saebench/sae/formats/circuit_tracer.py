"""circuit-tracer: sets of per-layer transcoders, ``layer_N.safetensors`` beside the one ``config.yaml`` of the set."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, number, take, text
from saebench.sae.reading.stored import Header
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_FILE = r"layer_(\d+)\.safetensors"
_SETTINGS = "config.yaml"
_THRESHOLDS = ("activation_function.threshold", "threshold")
_KNOWN = {"W_enc", "W_dec", "b_enc", "b_dec", "W_skip", "k", *_THRESHOLDS}
_ACTIVATIONS = {"relu": "relu", "topk": "signed_topk", "jumprelu": "jumprelu", "jump_relu": "jumprelu"}
_ARCHITECTURES = {"relu": "", "signed_topk": "topk_", "jumprelu": "jumprelu_"}
_QWEN = re.compile(r"(?:mwhanna/)?qwen3-([\d.]+)b-transcoders(?:-lowl0)?")
_CRV, _CRV_K = "crv-8b-instruct-transcoders", 128


@FORMATS.register("circuit_tracer")
class CircuitTracer:
    """layer_N.safetensors + config.yaml of the set, per-layer transcoders as circuit-tracer writes and reads them."""

    looked_for = "layer_N.safetensors with W_enc, W_dec, b_enc, b_dec, and config.yaml with model_kind (circuit-tracer)"
    rank = 16
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of the one layer that is meant, if it has an encoder and a decoder or the settings call it one."""
        file = source.only(_FILE)
        if file is None:
            return None
        known = {"W_enc", "W_dec"} <= source.keys(file) or _settings(source).get("model_kind") == "transcoder_set"
        return file if known else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes, and sites and activation from the set's settings.

        f = activation(x W_encᵀ + b_enc), x̂ = f W_dec + b_dec [+ x W_skipᵀ]; W_enc and W_dec are ``[S, D]``. Nothing is taken
        off the input. Its topk keeps the signs of what it keeps.

        Raises:
            InputError: A tensor is missing, sizes disagree, or nothing says where it writes or how many latents it keeps.

        Source: circuit_tracer/transcoder/single_layer_transcoder.py, classes SingleLayerTranscoder and TopK.
        """
        weights = source.only(_FILE)
        found = re.fullmatch(_FILE, weights or "")
        if weights is None or found is None:
            raise InputError(f"{source.path} has no file layer_N.safetensors, or several; name the one that is meant")
        file, shapes, cfg, notes = source.at(weights), source.headers(weights), _settings(source), Notes()
        kind = text(cfg, "model_kind", source.at(_SETTINGS))
        if kind not in (None, "transcoder_set"):
            raise InputError(f"{source.at(_SETTINGS)}: model_kind is {kind!r}, but {weights} is a transcoder of one layer")
        d_sae, d_in = header(shapes, "W_enc", file, ndim=2).shape
        if header(shapes, "b_enc", file, ndim=1).shape != (d_sae,):
            raise InputError(f"{file}: b_enc has {shapes['b_enc'].numel} entries, but W_enc is {[d_sae, d_in]}")
        (d_out,) = header(shapes, "b_dec", file, ndim=1).shape
        turn = _is_turned(shapes, d_sae, d_out, file, notes)
        activation, k = _activation(source, cfg, shapes, weights, notes)
        notes.left_out(weights, set(shapes) - _KNOWN)
        site, site_out = _sites(source, cfg, int(found[1]), notes)
        config = SAEConfig(
            activation=activation,  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_out,
            d_sae=d_sae,
            k=k,
            architecture=_ARCHITECTURES[activation] + ("skip_" if "W_skip" in shapes else "") + "transcoder",
            format="circuit_tracer",
            path=str(source.path),
            site=site,
            site_out=site_out,
            model_id=_model(source, cfg, notes),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: _weights(source, weights, activation, turn))


def _settings(source: Source) -> dict[str, Any]:
    return source.yaml(_SETTINGS) if source.has(_SETTINGS) else {}


def _is_turned(shapes: dict[str, Header], d_sae: int, d_out: int, file: Path, notes: Notes) -> bool:
    """Return whether W_dec is stored ``[O, S]``, as the first revisions had it, and not ``[S, O]``."""
    shape = header(shapes, "W_dec", file, ndim=2).shape
    if shape not in ((d_sae, d_out), (d_out, d_sae)):
        raise InputError(f"{file}: W_dec is {list(shape)}, but b_enc has {d_sae} entries and b_dec {d_out}")
    if d_sae == d_out:
        notes.assumptions.append(
            "W_dec is square and taken as [latent, d_out]: so the library stores it, but for its first files"
        )
    return shape != (d_sae, d_out)


def _activation(
    source: Source, cfg: dict[str, Any], shapes: dict[str, Header], weights: str, notes: Notes
) -> tuple[str, int | None]:
    """Return (activation, k): what the settings say, else JumpReLU where there are thresholds, topk where there is a k, ReLU."""
    file, said = source.at(weights), text(cfg, "activation", source.at(_SETTINGS))
    has_threshold = any(key in shapes for key in _THRESHOLDS)
    if "log_thresholds" in shapes:
        raise InputError(f"{file} has log_thresholds, which no released version of circuit-tracer reads; it is not supported")
    if said is not None and said not in _ACTIVATIONS:
        raise InputError(f"{source.at(_SETTINGS)}: unknown activation {said!r}; known: {', '.join(_ACTIVATIONS)}")
    activation = _ACTIVATIONS[said] if said else "jumprelu" if has_threshold else "signed_topk" if "k" in shapes else "relu"
    if said is None and activation == "relu":
        notes.assumptions.append(
            f"activation taken as ReLU, as the library does: no {_SETTINGS} names one, and {weights} has no thresholds and no k"
        )
    if has_threshold != (activation == "jumprelu"):
        there = "has thresholds" if has_threshold else "has no thresholds"
        raise InputError(f"{source.at(_SETTINGS)}: activation is {said!r}, but {file} {there}; they are not of one set")
    return activation, _k(source, cfg, shapes, weights, notes) if activation == "signed_topk" else None


def _k(source: Source, cfg: dict[str, Any], shapes: dict[str, Header], weights: str, notes: Notes) -> int:
    if any(word.endswith(_CRV) for word in source.words):
        notes.assumptions.append(f"k taken as {_CRV_K} from the name {_CRV!r}: the library has it so, whatever the settings say")
        return _CRV_K
    if cfg.get("k") is not None:
        return number(cfg, "k", source.at(_SETTINGS))
    if "k" in shapes:
        return number({"k": source.number(weights, "k")}, "k", source.at(weights))
    k = source.given.get("k", int)
    if k is None:
        raise InputError(f"{source.at(weights)} is a topk transcoder and nothing says its k; give it with --set k=N")
    return k


def _sites(source: Source, cfg: dict[str, Any], layer: int, notes: Notes) -> tuple[str | None, str]:
    """Return (site, site_out): hooks of the settings, each in the file's block."""
    hooks = [text(cfg, key, source.at(_SETTINGS)) for key in ("feature_input_hook", "feature_output_hook")]
    if hooks == [None, None] and (name := _qwen(source)) is not None:
        notes.assumptions.append(
            f"sites taken from the name {name[0]!r}: all sets of that series read mlp.hook_in and write mlp.hook_out"
        )
        hooks = ["mlp.hook_in", "mlp.hook_out"]
    reads, writes = (None if hook is None else _in_block(hook, layer) for hook in hooks)
    writes = writes or source.given.get("site_out")
    if writes is None:
        raise InputError(
            f"{source.path} is a transcoder and nothing says where it writes; put the set's {_SETTINGS} beside it, or give "
            "--site HOOK and --set site_out=HOOK"
        )
    return reads, writes


def _in_block(hook: str, layer: int) -> str:
    hook = hook.replace("{layer}", str(layer))
    return hook if hook.startswith("blocks.") else f"blocks.{layer}.{hook}"


def _model(source: Source, cfg: dict[str, Any], notes: Notes) -> str | None:
    said = text(cfg, "model_name", source.at(_SETTINGS))
    name = _qwen(source)
    if said is not None or name is None:
        return said
    notes.assumptions.append(f"model taken from the name {name[0]!r}")
    return f"Qwen/Qwen3-{name[1]}B"


def _qwen(source: Source) -> re.Match[str] | None:
    return next((found for word in source.words if (found := _QWEN.fullmatch(word))), None)


def _weights(source: Source, weights: str, activation: str, turn: bool) -> SAEWeights:
    tensors, file = source.tensors(weights), source.at(weights)
    w_dec = take(tensors, "W_dec", file, ndim=(2,))
    threshold: torch.Tensor | None = None
    if activation == "jumprelu":
        threshold = take(tensors, next(key for key in _THRESHOLDS if key in tensors), file)
        if bool((threshold < 0).any()):
            raise InputError(
                f"{file}: a threshold is below 0, where circuit-tracer's JumpReLU gives negative latents; it is not supported"
            )
    return SAEWeights(
        W_enc=source.turned(take(tensors, "W_enc", file, ndim=(2,))),
        b_enc=take(tensors, "b_enc", file),
        W_dec=source.turned(w_dec) if turn else w_dec,
        b_dec=take(tensors, "b_dec", file),
        threshold=threshold,
        W_skip=source.turned(take(tensors, "W_skip", file, ndim=(2,))) if "W_skip" in tensors else None,
    )

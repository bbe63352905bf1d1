"""sae_lens: ``cfg.json`` + ``sae_weights.safetensors``; version 6 and the flat configurations before it.

p = (x − a b_dec) W_enc + b_enc with a = 1 if ``apply_b_dec_to_input``, x̂ = f W_dec + b_dec [+ x W_skipᵀ]. Where
``rescale_acts_by_decoder_norm`` is set, topk and its kin work on p · ‖W_dec‖ and W_dec / ‖W_dec‖.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._asked import stated_k
from saebench.sae.formats._modules import module_sites, transcodes_to
from saebench.sae.formats._sae_lens import WHITENING, Normalising, modern, normalising, residual, warn_of_positions
from saebench.sae.pursuit import Pursuit
from saebench.sae.reading.files import header, n_tokens, number, real, take, text
from saebench.sae.sae import Activation, SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_ACTIVATIONS: dict[str, Activation] = {
    "standard": "relu",
    "gated": "gated",
    "jumprelu": "jumprelu",
    "topk": "topk",
    "abstopk": "abstopk",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "matching_pursuit": "matching_pursuit",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_BATCH = ("batchtopk", "matryoshka_batchtopk")
"""As they are in training; when it ends they are saved as jumprelu."""
_RESCALED = ("topk", "abstopk", *_BATCH)
_WEIGHTS = "sae_weights.safetensors"
_SCALING = ("scaling_factor", "finetuning_scaling_factor")
_REFUSED = {"temporal": "it works on whole sequences, not on one token at a time"}
_COLUMNS = 4096
_NO_NORM = 1e-8


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
        file, notes = source.at("cfg.json"), Notes()
        cfg = modern(source.json("cfg.json"), file, notes)
        meta, architecture = cfg["metadata"], _architecture(cfg, file)
        transcodes = architecture.endswith("transcoder")
        d_in, d_sae, d_out, names = _sizes(cfg, architecture, source, file)
        norm = normalising(source, cfg, file, notes, d_in=d_in, transcodes=transcodes)
        if norm.whitened and architecture == "matching_pursuit":
            raise InputError(f"{file}: matching_pursuit on whitened acts, which cannot be folded into a decoder that encodes too")
        if norm.name != "none" and "skip" in architecture:
            raise InputError(f"{file}: a {architecture} that skips past its {norm.name}, which is not supported")
        scaling = _scaling(cfg, source, notes)
        notes.left_out(_WEIGHTS, set(source.headers(_WEIGHTS)) - {*names, *_SCALING})
        site, site_out = _sites(meta, file, source, notes, transcodes=transcodes)
        warn_of_positions(meta, file, notes)
        if not isinstance(meta.get("prepend_bos"), bool | None):
            raise InputError(f"{file}: 'prepend_bos' should be true or false, found {meta['prepend_bos']!r}")
        if architecture in _BATCH and source.number(_WEIGHTS, "topk_threshold") == 0:
            notes.warnings.append("topk_threshold is 0, so it was saved before its first step: every positive latent fires")
        config = SAEConfig(
            activation=_ACTIVATIONS[architecture],
            d_in=d_in,
            d_out=d_out,
            d_sae=d_sae,
            k=stated_k(cfg, source, file) if architecture in ("topk", "abstopk") else None,
            normalisation=norm.name,  # pyright: ignore[reportArgumentType]
            pursuit=_pursuit(cfg, d_in, norm.factor, file) if architecture == "matching_pursuit" else None,
            architecture=text(meta, "training_architecture", file) or architecture,
            format="sae_lens",
            path=str(source.path),
            site=site,
            site_out=site_out,
            model_id=text(meta, "model_name", file),
            residual=residual(cfg, meta, notes),
            context_length=n_tokens(meta, "context_size", file),
            prepend_bos=meta.get("prepend_bos"),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        shifts = bool(cfg.get("apply_b_dec_to_input", True)) and not transcodes
        rescales = bool(cfg.get("rescale_acts_by_decoder_norm")) and architecture in _RESCALED
        plan = _Plan(architecture, names, scaling, norm, shifts, rescales)
        return Entry(config=config, weights=lambda: _weights(plan, source))


class _Plan(NamedTuple):
    """How tensors become weights."""

    architecture: str
    names: tuple[str, ...]
    scaling: str | None
    """The tensor that multiplies latents before the decoder."""
    norm: Normalising
    shifts: bool
    rescales: bool


def _architecture(cfg: dict[str, Any], file: Path) -> str:
    architecture = str(cfg.get("architecture", "standard"))
    if architecture in _REFUSED:
        raise InputError(f"{file.parent} is a {architecture} SAE, which is not supported: {_REFUSED[architecture]}")
    if architecture not in _ACTIVATIONS:
        raise InputError(f"{file}: unknown architecture {architecture!r}; known: {', '.join(_ACTIVATIONS)}")
    if cfg.get("reshape_activations") not in (None, "none", "hook_z"):  # heads side by side, which acts at hook_z are anyway
        raise InputError(f"{file}: unknown reshape_activations {cfg['reshape_activations']!r}; known: none, hook_z")
    if architecture.endswith("transcoder") and cfg.get("apply_b_dec_to_input") is True:
        raise InputError(
            f"{file}: apply_b_dec_to_input is true, which sae_lens has no transcoders with; the settings are damaged"
        )
    return architecture


def _sizes(cfg: dict[str, Any], architecture: str, source: Source, file: Path) -> tuple[int, int, int, tuple[str, ...]]:
    """Return (d_in, d_sae, d_out, names of the tensors) after comparing the file's header with itself and the settings."""
    shapes, weights = source.headers(_WEIGHTS), source.at(_WEIGHTS)
    d_sae, d_out = header(shapes, "W_dec", weights, ndim=2).shape
    d_in = d_out if architecture == "matching_pursuit" else header(shapes, "W_enc", weights, ndim=2).shape[0]
    want: dict[str, tuple[int, ...]] = {"W_dec": (d_sae, d_out), "b_dec": (d_out,)}
    if architecture != "matching_pursuit":
        want["W_enc"] = (d_in, d_sae)
        want |= dict.fromkeys(("b_gate", "b_mag", "r_mag") if architecture == "gated" else ("b_enc",), (d_sae,))
    if architecture in _BATCH:
        want["topk_threshold"] = ()
    elif _ACTIVATIONS[architecture] == "jumprelu":
        want["log_threshold" if "threshold" not in shapes and "log_threshold" in shapes else "threshold"] = (d_sae,)
    if "skip" in architecture:
        want["W_skip"] = (d_out, d_in)
    if not architecture.endswith("transcoder"):
        want["W_dec"] = (d_sae, d_in)
    for key, shape in want.items():
        found = header(shapes, key, weights, ndim=len(shape)).shape
        if found != shape:
            raise InputError(f"{weights}: {key!r} is {list(found)}, expected {list(shape)} after W_enc and W_dec; fetch it again")
    for key, value in {"d_in": d_in, "d_sae": d_sae, "d_out": d_out}.items():
        if cfg.get(key) is not None and (key != "d_out" or architecture.endswith("transcoder")):
            if number(cfg, key, file) != value:
                raise InputError(f"{file}: {key} is {cfg[key]}, but the weights have {value}; they are not of one SAE")
    return d_in, d_sae, d_out, tuple(want)


def _scaling(cfg: dict[str, Any], source: Source, notes: Notes) -> str | None:
    """Return the name of the tensor that multiplies latents before the decoder, if there is one that matters."""
    shapes, weights = source.headers(_WEIGHTS), source.at(_WEIGHTS)
    name = next((key for key in _SCALING if key in shapes), None)
    if name is None:
        return None
    found, d_sae = list(shapes[name].shape), shapes["W_dec"].shape[0]
    if found != [d_sae]:
        raise InputError(f"{weights}: {name} has shape {found}, expected one number for each of {d_sae} latents")
    if bool((source.array(_WEIGHTS, name) == 1).all()):
        return None
    if cfg.get("finetuning_scaling_factor") is False:
        notes.warnings.append(
            f"{name} is not all ones, but finetuning_scaling_factor is false: the sae_lens of its time left it out"
        )
        return None
    notes.assumptions.append(f"{name} is folded into the decoder, as the sae_lens of its time applied it")
    return name


def _sites(meta: dict[str, Any], file: Path, source: Source, notes: Notes, *, transcodes: bool) -> tuple[str | None, str | None]:
    if meta.get("hook_head_index") is not None:
        raise InputError(f"{file}: trained on the single head {meta['hook_head_index']}; only whole sites are supported")
    site, site_out = text(meta, "hook_name", file), text(meta, "hook_name_out", file)
    if meta.get("model_class_name") == "AutoModelForCausalLM" and site is not None:
        module = module_sites(site, text(meta, "model_name", file))
        if module is None:
            notes.warnings.append(f"it reads the output of the module {site!r}, which no site is known for; give --site HOOK")
        else:
            notes.assumptions.append(f"site taken from the module {site!r}, whose output it reads, as its model_class_name says")
        site = module.back if module else None
    site_out = transcodes_to(site_out, source) if transcodes else site_out
    return site, None if site_out == site else site_out


def _pursuit(cfg: dict[str, Any], d_in: int, factor: float | None, file: Path) -> Pursuit:
    threshold = real(cfg, "residual_threshold", file) if cfg.get("residual_threshold") is not None else 1e-2
    stops = cfg.get("stop_on_duplicate_support", True)
    if not isinstance(stops, bool):
        raise InputError(f"{file}: 'stop_on_duplicate_support' should be true or false, found {stops!r}")
    return Pursuit(
        residual_threshold=threshold / (factor or 1),  # the residual's norm is in units of the input
        max_iterations=number(cfg, "max_iterations", file) if cfg.get("max_iterations") is not None else d_in,
        stop_on_repeat=stops,
    )


def _weights(plan: _Plan, source: Source) -> SAEWeights:
    file, tensors = source.at(_WEIGHTS), source.tensors(_WEIGHTS)
    w = {name: take(tensors, name, file) for name in plan.names}
    if plan.scaling or plan.norm.factor or plan.norm.whitened or plan.rescales:
        w = {name: source.wide(one) for name, one in w.items()}  # folded in float32
    if plan.scaling:
        w["W_dec"].mul_(take(tensors, plan.scaling, file)[:, None])
    rescales = plan.rescales
    if plan.norm.factor:
        _fold_factor(w, plan.norm.factor, rescales)
    if plan.norm.whitened:
        if rescales:  # whitening changes the norms, which the choice of latents rests on
            _fold_norms(w)
            rescales = False
        _fold_whitening(w, source.tensors(WHITENING), plan.shifts)
    if rescales:
        _fold_norms(w)
    if plan.architecture == "matching_pursuit":
        b_dec = w["b_dec"] if plan.shifts else torch.zeros_like(w["b_dec"])
        zeros = torch.zeros(len(w["W_dec"]), dtype=w["W_dec"].dtype)
        return SAEWeights(W_enc=w["W_dec"].T, b_enc=zeros, W_dec=w["W_dec"], b_dec=b_dec, b_in=b_dec if plan.shifts else None)
    return SAEWeights(
        W_enc=w["W_enc"],
        b_enc=w["b_enc"] if "b_enc" in w else torch.zeros_like(w["b_gate"]),
        W_dec=w["W_dec"],
        b_dec=w["b_dec"],
        b_in=w["b_dec"] if plan.shifts else None,
        threshold=_threshold(w),
        b_gate=w.get("b_gate"),
        b_mag=w.get("b_mag"),
        r_mag=w.get("r_mag"),
        W_skip=source.turned(w["W_skip"]) if "W_skip" in w else None,
    )


def _threshold(w: dict[str, torch.Tensor]) -> torch.Tensor | None:
    name = next((key for key in ("topk_threshold", "threshold", "log_threshold") if key in w), None)
    if name is None:
        return None
    threshold = w[name].exp() if name == "log_threshold" else w[name]
    return threshold.to(torch.promote_types(w["W_enc"].dtype, torch.float32))


def _fold_factor(w: dict[str, torch.Tensor], factor: float, rescales: bool) -> None:
    """Fold x · s in: W_enc · s, W_dec / s, b_dec / s; a pursuit, whose W_enc is W_dec, keeps its W_dec."""
    w["b_dec"].div_(factor)
    if "W_enc" in w:
        w["W_enc"].mul_(factor)
        w["W_dec"].div_(factor)
    if "topk_threshold" in w and rescales:  # it is compared with p · ‖W_dec‖
        w["topk_threshold"] = w["topk_threshold"] / factor


def _fold_norms(w: dict[str, torch.Tensor]) -> None:
    """Fold p · ‖W_dec‖ in; a row of length 0 stays one."""
    norms = w["W_dec"].norm(dim=1)
    w["W_enc"].mul_(norms)
    w["b_enc"].mul_(norms)
    w["W_dec"].div_(norms.clamp(min=_NO_NORM)[:, None])


def _fold_whitening(w: dict[str, torch.Tensor], stored: dict[str, torch.Tensor], shifts: bool) -> None:
    """Fold z = (x − m) M and x̂ = ẑ M⁻¹ + m in, some columns and rows at a time and in the precision of M."""
    mean, matrix, inverse = stored["mean"], stored["matrix"], stored["inverse_matrix"]
    for columns in w["W_enc"].split(_COLUMNS, dim=1):
        columns.copy_(matrix @ columns.to(matrix.dtype))
    for rows in w["W_dec"].split(_COLUMNS):
        rows.copy_(rows.to(matrix.dtype) @ inverse)
    w["b_dec"] = (w["b_dec"].to(matrix.dtype) @ inverse + mean).to(w["b_dec"].dtype)
    if shifts:
        return  # the new b_dec takes the mean off
    moved = torch.cat([mean @ columns.to(matrix.dtype) for columns in w["W_enc"].split(_COLUMNS, dim=1)])
    for name in ("b_enc", "b_gate"):
        if name in w:
            w[name] = (w[name].to(matrix.dtype) - moved).to(w[name].dtype)
    if "b_mag" in w:
        w["b_mag"] = (w["b_mag"].to(matrix.dtype) - moved * w["r_mag"].exp()).to(w["b_mag"].dtype)

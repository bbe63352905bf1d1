"""dictionary_learning: ``ae.pt`` + ``config.json`` whose ``trainer.dict_class`` names the class; ``checkpoints/ae_<step>.pt``.

Acts may have been divided by a factor n in training. Before the library saves an SAE it multiplies biases and thresholds by n,
so that latents and recon are those of raw acts. In backups of an interrupted run that is still to be done.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from saebench.errors import InputError, did_you_mean
from saebench.registry import FORMATS
from saebench.sae.formats._modules import module_sites, transcodes_to
from saebench.sae.reading.files import header, n_tokens, number, one_number, take, text
from saebench.sae.reading.stored import Header, StoredTensor
from saebench.sae.sae import Activation, SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_FINAL, _CHECKPOINT = "ae.pt", r"ae_\d+\.pt"


class _Class(NamedTuple):
    """A class of the library: what it computes, and its tensors with their dimensions (``S`` d_sae, ``D`` d_in)."""

    activation: Activation
    architecture: str
    tensors: dict[str, str]
    b_dec: str
    """Name of the decoder's bias."""
    shifts: bool = True
    """Whether that is taken off the input."""
    optional: tuple[str, ...] = ()

    @property
    def one_threshold(self) -> bool:
        """Whether it keeps what is above one threshold for all latents, found in training."""
        return "threshold" in self.tensors and not self.tensors["threshold"]


_LINEAR = {"encoder.weight": "SD", "encoder.bias": "S", "decoder.weight": "DS"}
_NATIVE = {"W_enc": "DS", "b_enc": "S", "W_dec": "SD", "b_dec": "D"}
_GATED = {
    "encoder.weight": "SD", "decoder.weight": "DS", "decoder_bias": "D", "gate_bias": "S", "mag_bias": "S", "r_mag": "S",
}  # fmt: skip
_CLASSES = {
    "AutoEncoder": _Class("relu", "standard", _LINEAR | {"bias": "D"}, "bias"),
    "AutoEncoderNew": _Class("relu", "standard", _LINEAR | {"decoder.bias": "D"}, "decoder.bias", shifts=False),
    "GatedAutoEncoder": _Class("gated", "gated", _GATED, "decoder_bias"),
    "JumpReluAutoEncoder": _Class("jumprelu", "jumprelu", _NATIVE | {"threshold": "S"}, "b_dec", shifts=False),
    "AutoEncoderTopK": _Class("topk", "topk", _LINEAR | {"b_dec": "D"}, "b_dec", optional=("k", "threshold")),
    "BatchTopKSAE": _Class("jumprelu", "batchtopk", _LINEAR | {"b_dec": "D", "threshold": ""}, "b_dec", optional=("k",)),
    "MatryoshkaBatchTopKSAE": _Class(
        "jumprelu", "matryoshka_batchtopk", _NATIVE | {"threshold": ""}, "b_dec", optional=("k", "group_sizes")
    ),
}
_TRAINERS = {
    "StandardTrainer": "AutoEncoder", "StandardTrainerAprilUpdate": "AutoEncoder", "PAnnealTrainer": "AutoEncoder",
    "GatedSAETrainer": "GatedAutoEncoder", "GatedAnnealTrainer": "GatedAutoEncoder", "JumpReluTrainer": "JumpReluAutoEncoder",
    "TopKTrainer": "AutoEncoderTopK", "TrainerTopK": "AutoEncoderTopK", "BatchTopKTrainer": "BatchTopKSAE",
    "MatryoshkaBatchTopKTrainer": "MatryoshkaBatchTopKSAE",
}  # fmt: skip
_MODULES = {
    "resid_post": "layers.{}", "resid_out": "layers.{}", "resid": "layers.{}", "attn": "layers.{}.self_attn",
    "attention": "layers.{}.self_attn", "attn_out": "layers.{}.self_attn", "mlp": "layers.{}.mlp", "mlp_out": "layers.{}.mlp",
}  # fmt: skip
_SPOKEN = {key: "MLP" if "mlp" in key else "attention" for key in _MODULES}
_PLACE = rf"({'|'.join([*_MODULES, 'resid_pre'])})_layer_?(\d+)"


@FORMATS.register("dictionary_learning")
class DictionaryLearning:
    """ae.pt + config.json, as dictionary_learning's trainers write them."""

    looked_for = "ae.pt + config.json with trainer.dict_class (dictionary_learning)"
    rank = 3
    below = ("checkpoints",)

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is there: ``ae.pt``, or a checkpoint that was named as a file."""
        if source.file is not None and re.fullmatch(_CHECKPOINT, source.file):
            return source.file
        return _FINAL if source.has(_FINAL) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        notes, run = Notes(), _run(source)
        factor = _factor(run, source, notes)
        kind = _class(run, source, notes)
        d_in, d_sae = _sizes(_CLASSES[kind], kind, run)
        if _CLASSES[kind].one_threshold:
            _check_threshold(run)
        model_id = text(run.trainer, "lm_name", run.file)
        site, site_out, transcodes = _site(run, model_id, source, notes)
        config = SAEConfig(
            activation=_CLASSES[kind].activation,
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=_k(run, source) if _CLASSES[kind].activation == "topk" else None,
            architecture="transcoder" if transcodes else _CLASSES[kind].architecture,
            format="dictionary_learning",
            path=str(source.path),
            site=site,
            site_out=site_out,
            model_id=model_id,
            context_length=n_tokens(run.buffer, "ctx_len", run.file),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )

        def load() -> SAEWeights:
            weights = _weights(_CLASSES[kind], run, source)
            return weights if factor == 1 else _scale(weights, factor)

        return Entry(config=config, weights=load)


class _Run(NamedTuple):
    """The files of one SAE."""

    name: str
    """The file of weights."""
    state: dict[str, Any]
    shapes: dict[str, Header]
    weights: Path
    backup: dict[str, Any] | None
    """What an interrupted run left: the SAE and what training needs to go on."""
    trainer: dict[str, Any]
    buffer: dict[str, Any]
    file: Path
    """Where ``trainer`` and ``buffer`` come from."""


def _run(source: Source) -> _Run:
    name = DictionaryLearning.detect(source) or _FINAL
    content, weights = source.mapping(name), source.at(name)
    backup = content if "ae" in content and "optimizer" in content else None
    state = content if backup is None else content["ae"]
    if not isinstance(state, dict):
        raise InputError(f"{weights}: 'ae' is a {type(state).__name__}, expected a dictionary of tensors")
    shapes = {key: one.header for key, one in state.items() if isinstance(one, StoredTensor)}
    config = "config.json" if source.has("config.json") else "../config.json"
    if config.startswith("..") and (name == _FINAL or not (source.folder / config).is_file()):
        trainer = backup.get("config") if backup else {}
        return _Run(name, state, shapes, weights, backup, trainer if isinstance(trainer, dict) else {}, {}, weights)
    settings, file = source.json(config), source.at(config)
    trainer, buffer = settings.get("trainer"), settings.get("buffer")
    if not isinstance(trainer, dict):
        raise InputError(f"{file} has no 'trainer' section; it is not a configuration of dictionary_learning")
    return _Run(name, state, shapes, weights, backup, trainer, buffer if isinstance(buffer, dict) else {}, file)


def _class(run: _Run, source: Source, notes: Notes) -> str:
    """Return the class of the library, as the settings name it, else as the tensors do, else as the user does."""
    named, trainer = run.trainer.get("dict_class"), str(run.trainer.get("trainer_class"))
    if named is not None and named not in _CLASSES:
        raise InputError(f"{run.file}: unknown dict_class {named!r}; known: {', '.join(_CLASSES)}")
    if named is not None or trainer in _TRAINERS:
        return named or _TRAINERS[trainer]
    fitting = [name for name, kind in _CLASSES.items() if _fits(kind, run.shapes)]
    if not fitting:
        has = ", ".join(sorted(run.shapes))[:200] or "none"
        raise InputError(
            f"{run.weights}: no settings name its class, and its tensors are of no class of the library; it has {has}"
        )
    if len(fitting) == 1:
        notes.assumptions.append(f"class taken as {fitting[0]}: no settings name it, and no other class has its tensors")
        return fitting[0]
    told = source.given.get("class")
    if told is None:
        raise InputError(
            f"{run.weights}: its tensors fit {' and '.join(fitting)}, which encode differently, and no settings say which it is; "
            "give it with --set class=NAME"
        )
    if told not in fitting:
        raise InputError(f"--set class={told}: the tensors fit {' and '.join(fitting)}.{did_you_mean(told, fitting)}")
    return told


def _fits(kind: _Class, shapes: dict[str, Header]) -> bool:
    names = set(kind.tensors)
    if not names <= set(shapes) <= names | set(kind.optional):
        return False
    return all(shapes[key].ndim == len(letters) for key, letters in kind.tensors.items())


def _sizes(kind: _Class, name: str, run: _Run) -> tuple[int, int]:
    """Return (d_in, d_sae); all tensors are there, of these sizes, and no others."""
    encoder = "W_enc" if "W_enc" in kind.tensors else "encoder.weight"
    shape = header(run.shapes, encoder, run.weights, ndim=2).shape
    size = dict(zip(kind.tensors[encoder], shape, strict=True))
    for key, letters in kind.tensors.items():
        if not letters:
            continue  # one number, which is looked at where it is read
        found, want = header(run.shapes, key, run.weights, ndim=len(letters)).shape, tuple(size[one] for one in letters)
        if found != want:
            raise InputError(f"{run.weights}: {key!r} is {list(found)}, expected {list(want)} after {encoder}; fetch it again")
    odd = sorted(set(run.shapes) - set(kind.tensors) - set(kind.optional))
    if odd:
        raise InputError(
            f"{run.weights} has {', '.join(odd)[:200]}, which no {name} has; it is of a variant that is not supported"
        )
    for key, value in {"activation_dim": size["D"], "dict_size": size["S"]}.items():
        if key in run.trainer and number(run.trainer, key, run.file) != value:
            raise InputError(f"{run.file}: {key} is {run.trainer[key]}, but the weights have {value}")
    groups = run.state.get("group_sizes")
    if isinstance(groups, StoredTensor) and (total := int(groups.array().sum())) != size["S"]:
        raise InputError(f"{run.weights}: 'group_sizes' add up to {total}, but there are {size['S']} latents")
    return size["D"], size["S"]


def _k(run: _Run, source: Source) -> int:
    stored, told = run.state.get("k"), run.trainer.get("k")
    if isinstance(stored, StoredTensor):
        k = number({"k": one_number(stored.array(), "k", run.weights)}, "k", run.weights)
        if told is not None and number(run.trainer, "k", run.file) != k:
            raise InputError(f"{run.weights}: 'k' is {k}, but {told} in {run.file}; they are not of one SAE")
        return k
    if told is not None:
        return number(run.trainer, "k", run.file)
    k = source.given.get("k", int)
    if k is None:
        raise InputError(f"{run.weights} does not say k, the number of active latents; give it with --set k=N")
    return k


def _check_threshold(run: _Run) -> None:
    """Raise ``InputError`` unless there is one threshold for all latents, and it was estimated."""
    stored = run.state.get("threshold")
    if not isinstance(stored, StoredTensor):
        raise InputError(f"{run.weights} lacks the tensor 'threshold'; it has {', '.join(sorted(run.shapes))[:200]}")
    threshold = one_number(stored.array(), "threshold", run.weights)
    if threshold < 0:
        raise InputError(
            f"{run.weights}: threshold is {threshold:g}, never estimated (training ended before threshold_start_step); every "
            "latent would fire, so it cannot be scored"
        )


def _factor(run: _Run, source: Source, notes: Notes) -> float:
    """Return what biases and thresholds have yet to be multiplied by."""
    if run.backup is None:
        return 1.0
    factor = run.backup.get("norm_factor", run.trainer.get("norm_factor"))
    if factor is None and "norm_factor" in run.backup:
        notes.assumptions.append("a backup from the middle of training whose norm_factor is empty: trained on acts as they are")
        return 1.0
    if factor is None:
        told = source.given.get("norm_scale", float)
        factor = 1 / told if told else None
    if factor is None:
        raise InputError(
            f"{run.weights} is a backup from the middle of training, in normalised units, and lacks norm_factor, which acts were "
            "divided by; give its inverse with --set norm_scale=X, or use the final ae.pt"
        )
    value = float(one_number(factor.array(), "norm_factor", run.weights) if isinstance(factor, StoredTensor) else factor)
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{run.weights}: norm_factor should be a positive number, found {value:g}")
    notes.assumptions.append(
        f"a backup from the middle of training: biases and thresholds are multiplied by its norm_factor, {value:g}, as the "
        "library does before it saves an SAE"
    )
    return value


def _site(run: _Run, model_id: str | None, source: Source, notes: Notes) -> tuple[str | None, str | None, bool]:
    """Return (site, where a transcoder writes, whether it is one)."""
    io = run.buffer.get("io") or "out"
    if io not in ("in", "out", "in_and_out"):
        raise InputError(f"{run.file}: unknown io {io!r} of the buffer; known: in, out, in_and_out")
    name, layer = str(run.trainer.get("submodule_name") or ""), run.trainer.get("layer")
    found = re.fullmatch(_PLACE, name)
    if found is None and not run.trainer:
        found = next((hit for word in reversed(source.words) if (hit := re.fullmatch(_PLACE, word))), None)
        if found is not None:
            notes.assumptions.append(f"site taken from the folder name {found[0]!r}: there is no config.json")
    if found is not None and found[1] == "resid_pre":
        return f"blocks.{found[2]}.hook_resid_pre", None, False
    module = module_sites(_MODULES[found[1]].format(found[2]) if found else name, model_id)
    if module is None and isinstance(layer, int) and not isinstance(layer, bool):
        module = module_sites(f"layers.{layer}", model_id)
        what = {"in": "input", "out": "output"}.get(io, "input and output")
        notes.assumptions.append(
            f"site taken as the residual stream at block {layer}: submodule_name is {name!r}, and the library's buffer reads the "
            f"block's {what}"
        )
    elif found is not None and "resid" not in found[1]:
        why = f"; {module.why}" if module and module.why else ""
        notes.assumptions.append(f"{found[0]!r} taken as the {_SPOKEN[found[1]]} module of block {found[2]}, by convention{why}")
    if io == "in_and_out":
        across = module.across if module else None
        return (*across, True) if across else (None, transcodes_to(None, source), True)
    if module is None:
        return None, None, False
    return (module.given if io == "in" else module.back), None, False


def _weights(kind: _Class, run: _Run, source: Source) -> SAEWeights:
    tensors = source.tensors(run.name, inside=None if run.backup is None else "ae")
    state = {key: take(tensors, key, run.weights) for key in kind.tensors}
    b_dec = state[kind.b_dec]
    native = "W_enc" in state
    more: dict[str, torch.Tensor] = {}
    if kind.activation == "gated":
        more = {"b_gate": state["gate_bias"], "b_mag": state["mag_bias"], "r_mag": state["r_mag"]}
    if "threshold" in kind.tensors:
        more["threshold"] = state["threshold"]
    b_enc = state["b_enc" if native else "encoder.bias"] if kind.activation != "gated" else torch.zeros_like(state["gate_bias"])
    return SAEWeights(
        W_enc=state["W_enc"] if native else source.turned(state["encoder.weight"]),
        b_enc=b_enc,
        W_dec=state["W_dec"] if native else source.turned(state["decoder.weight"]),
        b_dec=b_dec,
        b_in=b_dec if kind.shifts else None,
        **more,
    )


def _scale(weights: SAEWeights, factor: float) -> SAEWeights:
    """Return the weights times what the library's ``scale_biases`` multiplies; W_enc and W_dec stay as they are."""
    scaled = ("b_enc", "b_dec", "b_in", "b_gate", "b_mag", "threshold")
    return replace(weights, **{name: tensor * factor for name, tensor in weights.items() if name in scaled})

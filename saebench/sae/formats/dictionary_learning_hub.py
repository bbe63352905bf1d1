"""The fork of dictionary_learning for model diffing (Minder, Dumas et al.): BatchTopK SAEs as it puts them on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, number, take, text
from saebench.sae.reading.mapped import wide
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS = "model.safetensors"
_SETTINGS, _TRAINER = "config.json", "trainer_config.json"
_OWN = frozenset({"encoder.weight", "decoder.weight", "b_dec", "threshold"})
_NORM = frozenset({"activation_mean", "activation_std", "activation_global_scale"})
_CLASS = "BatchTopKSAE"
_NAME = re.compile(r"(?:[\w-]+/)?SAE(?:-(?P<target>base|chat|ft))?-(?P<model>[\w.-]+?)-L(?P<layer>\d+)(?:-.+)?")
_DIFFERENCE = re.compile(r"SAE[-_]?diff", re.IGNORECASE)
_EPS = 1e-8


@FORMATS.register("dictionary_learning_hub")
class DictionaryLearningHub:
    """config.json + model.safetensors with encoder.*, decoder.weight, b_dec and threshold: BatchTopK SAEs of a fork."""

    looked_for = "config.json + model.safetensors with encoder.*, decoder.weight, b_dec, threshold (dictionary_learning's fork)"
    rank = 19

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it has these tensors."""
        there = source.has(_WEIGHTS) and (_OWN <= (keys := source.keys(_WEIGHTS)) or _NORM | {"encoder.weight"} <= keys)
        return _WEIGHTS if there and len(source.headers(_WEIGHTS)["encoder.weight"].shape) == 2 else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings.

        With z = (x − mean) · s where statistics are set (they are NaN where not): f = p where p = relu((z − b_dec) Eᵀ + e) is
        above the threshold, x̂ = (f Dᵀ + b_dec) / (s + 1e-8) + mean. Both maps are folded into the weights.

        Raises:
            InputError: A tensor is missing, sizes disagree, it is of another class or was trained on the difference of two
                models, or its threshold was never estimated.

        Source: dictionary_learning/dictionary.py of github.com/science-of-finetuning/crosscoder_learning, classes
        NormalizableMixin and BatchTopKSAE.
        """
        if not source.has(_WEIGHTS):
            raise InputError(f"{source.path} has no {_WEIGHTS}; it is not an SAE of dictionary_learning's fork")
        file, shapes, notes = source.at(_WEIGHTS), source.headers(_WEIGHTS), Notes()
        trainer, name = _trainer(source), _name(source)
        _refuse_others(source, trainer, _NORM <= set(shapes))
        d_sae, d_in = header(shapes, "encoder.weight", file, ndim=2).shape
        if header(shapes, "decoder.weight", file, ndim=2).shape != (d_in, d_sae):
            raise InputError(f"{file}: decoder.weight is {list(shapes['decoder.weight'].shape)}, expected {[d_in, d_sae]}")
        _check_threshold(source, file)
        notes.left_out(_WEIGHTS, set(shapes) - _OWN - _NORM - {"encoder.bias", "k", "target_rms"})
        config = SAEConfig(
            activation="jumprelu",
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            architecture="batchtopk",
            format="dictionary_learning_hub",
            path=str(source.path),
            site=_site(source, trainer, name, notes),
            model_id=_model(source, trainer, name, notes),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: _weights(source, file))


def _trainer(source: Source) -> dict[str, Any]:
    found = source.json(_TRAINER).get("trainer") if source.has(_TRAINER) else None
    return found if isinstance(found, dict) else {}


def _name(source: Source) -> re.Match[str] | None:
    return next((found for word in source.words if (found := _NAME.fullmatch(word))), None)


def _refuse_others(source: Source, trainer: dict[str, Any], normalisable: bool) -> None:
    if any(_DIFFERENCE.search(str(name)) for name in (*source.words, trainer.get("wandb_name"))):
        raise InputError(
            f"{source.path} was trained on the difference between two models' acts, its name says, so it cannot be scored on one "
            "model; take one that was trained on the acts of a single model"
        )
    kind = trainer.get("dict_class")
    if kind is None and source.has(_SETTINGS):
        kind = source.json(_SETTINGS).get("dict_class")
    if kind is None and not normalisable:
        kind = source.given.get("class")
        if kind is None:
            raise InputError(f"{source.path} does not say of which class it is; if it is one, give --set class={_CLASS}")
    if kind not in (None, _CLASS):  # of the classes without layers of their own, only this one has statistics of acts
        raise InputError(f"{source.path} is a {kind}; in this layout only {_CLASS} is supported")


def _site(source: Source, trainer: dict[str, Any], name: re.Match[str] | None, notes: Notes) -> str | None:
    if trainer.get("layer") is not None:
        layer, told = number(trainer, "layer", source.at(_TRAINER)), f"layer in {_TRAINER}"
    elif name is not None:
        layer, told = int(name["layer"]), f"the name {name[0]!r}"
    else:
        return None
    site = f"blocks.{layer}.hook_resid_post"
    notes.assumptions.append(f"site taken as {site} from {told}: these SAEs are trained on outputs of blocks")
    return site


def _model(source: Source, trainer: dict[str, Any], name: re.Match[str] | None, notes: Notes) -> str | None:
    """Return the one of the two models that the name says; ``lm_name`` is ``TUNED-BASE``, both with their owners."""
    both = text(trainer, "lm_name", source.at(_TRAINER)) or ""
    run = name or _NAME.fullmatch(str(trainer.get("wandb_name")))
    owner = both.partition("/")[0]
    tuned, found, base = both.rpartition(f"-{owner}/")
    if not found or run is None or run["target"] is None:
        return None
    model = f"{owner}/{base}" if run["target"] == "base" else tuned
    notes.assumptions.append(f"model taken as {model}: the name {run[0]!r} says {run['target']}, and lm_name is {both!r}")
    return model


def _check_threshold(source: Source, file: Path) -> None:
    threshold = source.number(_WEIGHTS, "threshold")
    if threshold < 0:
        raise InputError(
            f"{file}: threshold is {threshold:g}, never estimated, as training ended too early; every latent would fire, so it "
            "cannot be scored"
        )


def _weights(source: Source, file: Path) -> SAEWeights:
    tensors = source.tensors(_WEIGHTS)
    w_enc = source.turned(take(tensors, "encoder.weight", file, ndim=(2,)))
    w_dec = source.turned(take(tensors, "decoder.weight", file, ndim=(2,)))
    b_in = b_dec = take(tensors, "b_dec", file, ndim=(1,))
    if tensors.keys() & _NORM:
        mean, std = (take(tensors, key, file, ndim=(1,)) for key in ("activation_mean", "activation_std"))
        scale = take(tensors, "activation_global_scale", file, ndim=(1, 0))
        if mean.shape != b_dec.shape or std.shape != b_dec.shape or scale.numel() != 1:
            raise InputError(
                f"{file}: the statistics of acts are not one number for each of {len(b_dec)} dimensions and one scale"
            )
        if not bool(mean.isnan().any() | std.isnan().any()):
            s = float(scale)
            w_enc = wide(w_enc).mul_(s)
            w_dec = wide(w_dec).div_(s + _EPS)
            b_in, b_dec = mean + b_dec / s, b_dec / (s + _EPS) + mean
    return SAEWeights(
        W_enc=w_enc, b_enc=take(tensors, "encoder.bias", file), W_dec=w_dec, b_dec=b_dec, b_in=b_in,
        threshold=take(tensors, "threshold", file),
    )  # fmt: skip

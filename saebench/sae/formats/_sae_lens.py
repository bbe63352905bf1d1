"""What surrounds the weights of sae_lens: configurations before version 6, and scales of training that are not folded in yet."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from saebench.errors import InputError
from saebench.sae.reading.files import header, real, shown, text
from saebench.sae.site import may_be_in_stream
from saebench.sae.source import Notes, Source

WHITENING = "activation_whitening.safetensors"
_SCALER, _STORE = "activation_scaler.json", "activations_store_state.safetensors"
_STORED = "estimated_norm_scaling_factor"
_AVERAGE, _COVARIANCE = "expected_average_only_in", "covariance_whitening"
_NORMALISATIONS = {
    "none": "none", _AVERAGE: "none", _COVARIANCE: "none", "constant_norm_rescale": "unit_norm", "layer_norm": "layer_norm",
}  # fmt: skip
_RENAMED = {
    "hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn",
}  # fmt: skip
_METADATA = (
    "hook_name", "hook_name_out", "hook_head_index", "model_name", "model_class_name", "context_size", "prepend_bos",
    "model_from_pretrained_kwargs", "seqpos_slice",
)  # fmt: skip


class Normalising(NamedTuple):
    """What acts went through in training."""

    name: str
    """What is still to be done to each token, in the words of :class:`saebench.sae.sae.SAEConfig`."""
    factor: float | None = None
    """What acts were multiplied by, if it is not in the weights."""
    whitened: bool = False
    """Whether they were whitened by what lies beside the weights, and that is not in the weights."""


def modern(cfg: dict[str, Any], file: Path, notes: Notes) -> dict[str, Any]:
    """Return the configuration in the layout of version 6, whatever wrote it.

    Args:
        cfg: As it was read.
        file: Its file, for messages.
        notes: Gets what older versions took for granted.

    Raises:
        InputError: It names an activation function that was dropped, or values of other kinds.
    """
    if isinstance(cfg.get("metadata"), dict):
        return cfg
    old = {key: value for key, value in cfg.items() if key not in _RENAMED}
    old = {after: cfg[before] for before, after in _RENAMED.items() if before in cfg} | old
    kwargs, function = old.get("activation_fn_kwargs") or {}, str(old.get("activation_fn", "relu")).lower()
    if not isinstance(kwargs, dict):
        raise InputError(f"{file}: 'activation_fn_kwargs' should hold key: value pairs, found {kwargs!r}")
    if function not in ("relu", "topk"):
        raise InputError(f"{file}: unknown activation_fn {function!r}; known: relu, topk")
    old.setdefault("architecture", "standard")
    if function == "topk":
        old["architecture"], old["k"] = "topk", kwargs.get("k", old.get("k"))
    normalise = old.get("normalize_activations")
    if isinstance(normalise, bool | None):
        old["normalize_activations"] = _AVERAGE if normalise else "none"
    if old.get("prepend_bos") is None:
        notes.assumptions.append("prepend_bos taken as true: the configuration does not say, and sae_lens went by that")
        old["prepend_bos"] = True
    old["early"] = "hook_point" in cfg
    old["metadata"] = {key: old.get(key) for key in _METADATA}
    return old


def residual(cfg: dict[str, Any], meta: dict[str, Any], notes: Notes) -> Any:
    """Return which residual stream it expects: its model may have been loaded with ``center_writing_weights``."""
    kwargs = meta.get("model_from_pretrained_kwargs")
    processed = isinstance(kwargs, dict) and bool(kwargs.get("fold_value_biases"))
    centred = False
    if isinstance(kwargs, dict) and "center_writing_weights" in kwargs:
        centred = bool(kwargs["center_writing_weights"])
    elif cfg.get("early") and kwargs is None:
        notes.assumptions.append(
            "residual stream taken as centred: the configuration is from early 2024 (it says hook_point), when sae_lens loaded "
            "models with center_writing_weights on"
        )
        centred = processed = True
    elif "early" in cfg and may_be_in_stream(meta.get("hook_name"), meta.get("hook_name_out")):
        notes.assumptions.append(
            "residual stream taken as raw: the configuration does not say how its model was loaded; sae_lens 2.0 to 3.19.1 (May "
            "to September 2024) had center_writing_weights on unless told otherwise: for one of that time give --residual centred"
        )
    if str(meta.get("hook_name")).endswith("attn.hook_z") and (processed or ("early" in cfg and kwargs is None)):
        how = "was" if processed else "may have been (sae_lens 2.0 to 3.19.1 did it)"
        notes.warnings.append(
            f"its model {how} loaded with fold_value_biases: where a model has value biases, hook_z lacked them, here it does not"
        )
    return "centred" if centred else "raw"


def warn_of_positions(meta: dict[str, Any], file: Path, notes: Notes) -> None:
    """Warn of an SAE that was trained on a part of each context: ``seqpos_slice``, the arguments of a ``slice`` of positions.

    Raises:
        InputError: It is something else.
    """
    told = meta.get("seqpos_slice")
    if told is None:
        return
    parts = told if isinstance(told, list) else [told]
    if not 1 <= len(parts) <= 3 or not all(part is None or type(part) is int for part in parts) or parts[2:] == [0]:
        raise InputError(f"{file}: 'seqpos_slice' should be up to three whole numbers or nulls, found {shown(told)}")
    start, stop, step = slice(*parts).start, slice(*parts).stop, slice(*parts).step
    if (start or 0, step or 1) == (0, 1) and stop in (None, meta.get("context_size")):
        return
    written = f"{'' if start is None else start}:{'' if stop is None else stop}" + ("" if step is None else f":{step}")
    notes.warnings.append(
        f"trained on the positions [{written}] of each context alone (seqpos_slice); scores are of all positions, and the others "
        "it never saw"
    )


def normalising(source: Source, cfg: dict[str, Any], file: Path, notes: Notes, *, d_in: int, transcodes: bool) -> Normalising:
    """Return what acts went through in training, and say what of it is to be folded in.

    ``expected_average_only_in`` and ``covariance_whitening`` do nothing when sae_lens runs an SAE: when training ends they are
    folded into the weights, and the configuration says ``none``. A checkpoint from before has the factor or the matrix beside it.

    Args:
        source: The files.
        cfg: The configuration in the layout of version 6.
        file: Its file, for messages.
        notes: Gets what is folded, and a warning where it would have to be and is not known.
        d_in: What it reads.
        transcodes: Whether it is a transcoder; sae_lens trains none, so nothing is left to fold.

    Raises:
        InputError: An unknown kind, or a factor that is no positive number.
    """
    name = text(cfg, "normalize_activations", file) or "none"
    if name not in _NORMALISATIONS:
        raise InputError(f"{file}: unknown normalize_activations {name!r}; known: {', '.join(_NORMALISATIONS)}")
    factor, where = _stored(source)
    if factor is not None and name != _AVERAGE:
        notes.warnings.append(f"{where} holds a factor, but normalize_activations is {name}: the factor is not applied")
    if transcodes and name in (_AVERAGE, _COVARIANCE):
        notes.warnings.append(f"normalize_activations is {name}, which sae_lens does not apply: acts are taken as they are")
        return Normalising("none")
    if name == _COVARIANCE:
        return _whitening(source, notes, d_in)
    if name != _AVERAGE:
        return Normalising(_NORMALISATIONS[name])
    if factor is not None:
        notes.assumptions.append(
            f"a checkpoint from the middle of training: acts were multiplied by {factor:g} ({where}), which is folded into the "
            "weights, as sae_lens does when training ends"
        )
        return Normalising("none", factor)
    factor = source.given.get("norm_scale", float)
    if factor is None:
        notes.warnings.append(
            f"normalize_activations is {name}: sae_lens folds that factor in when training ends, so it is not applied; a "
            "checkpoint from the middle of training would score wrongly, unless --set norm_scale=X gives the factor"
        )
        return Normalising("none")
    if not 0 < factor < math.inf:
        raise InputError(f"--set norm_scale={factor}: acts are multiplied by it; give a positive number")
    notes.assumptions.append(f"acts are multiplied by {factor:g}, as told, which is folded in: normalize_activations is {name}")
    return Normalising("none", factor)


def _stored(source: Source) -> tuple[float | None, str]:
    """Return the factor that lies beside the weights of a checkpoint, and the file's name."""
    if source.has(_SCALER):
        settings, file = source.json(_SCALER), source.at(_SCALER)
        factor = None if settings.get("scaling_factor") is None else real(settings, "scaling_factor", file)
        if factor is not None and factor <= 0:
            raise InputError(f"{file}: 'scaling_factor' should be a positive number, found {factor:g}")
        return factor, _SCALER
    if not (source.folder / _STORE).is_file() or _STORED not in source.keys(_STORE):
        return None, ""
    told = {_STORED: source.number(_STORE, _STORED)}  # before version 6 was whole
    return real(told, _STORED, source.at(_STORE)), _STORE


def _whitening(source: Source, notes: Notes, d_in: int) -> Normalising:
    told = source.json(_SCALER).get("has_whitening", True) if source.has(_SCALER) else True
    if not told or not (source.folder / WHITENING).is_file():
        notes.warnings.append(
            f"normalize_activations is {_COVARIANCE} and no {WHITENING} lies beside the weights: acts are taken as they are; a "
            "checkpoint from the middle of training would score wrongly"
        )
        return Normalising("none")
    shapes, file = source.headers(WHITENING), source.at(WHITENING)
    for key, want in {"mean": (d_in,), "matrix": (d_in, d_in), "inverse_matrix": (d_in, d_in)}.items():
        if header(shapes, key, file, ndim=len(want)).shape != want:
            raise InputError(f"{file}: {key!r} is {list(shapes[key].shape)}, but the SAE reads {d_in} dimensions; fetch it again")
    notes.assumptions.append(
        f"a checkpoint from the middle of training: acts were whitened ({WHITENING}), which is folded into the weights, as "
        "sae_lens does when training ends"
    )
    return Normalising("none", None, True)

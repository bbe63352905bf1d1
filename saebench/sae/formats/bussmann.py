"""Bussmann's BatchTopK and matryoshka_sae: ``sae.pt`` + ``config.json`` with ``sae_type``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, n_tokens, number, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import may_be_in_stream
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS, _SETTINGS = "sae.pt", "config.json"
_ARCHITECTURES = {
    "vanilla": "standard",
    "topk": "topk",
    "batchtopk": "batchtopk",
    "jumprelu": "jumprelu",
    "globalmatryoshkatopk": "matryoshka_batchtopk",
}
"""By ``sae_type`` without its hyphens, which scripts write in two ways."""
_ACTIVATIONS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"} | dict.fromkeys(
    ("batchtopk", "matryoshka_batchtopk"), "jumprelu"
)
_KNOWN = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold", "jumprelu.log_threshold", "num_batches_not_active"}
_POOLED = ("batchtopk", "matryoshka_batchtopk")


@FORMATS.register("bussmann")
class Bussmann:
    """sae.pt + config.json with sae_type, as BatchTopK and matryoshka_sae save checkpoints.

    ``input_unit_norm``: x is centred and divided by its deviation before, and the recon is brought back after. The topk family
    keeps p = max((x − b_dec) W_enc, 0) without b_enc, which is saved all the same: the k largest (topk), or p > threshold
    (batchtopk and matryoshka, at inference). vanilla: max((x − b_dec) W_enc + b_enc, 0). jumprelu: p = x W_enc + b_enc where
    p > exp(log_threshold), b_dec taken off x only with ``use_pre_enc_bias``.

    Source: github.com/bartbussmann/BatchTopK and /matryoshka_sae, ``sae.py``; Bussmann et al. 2024, arXiv 2412.06410, and 2025,
    arXiv 2503.17547.
    """

    looked_for = "sae.pt + config.json with sae_type and act_size (bussmann)"
    rank = 14

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if the settings beside it name an sae_type."""
        there = source.has(_WEIGHTS, _SETTINGS)
        return _WEIGHTS if there and {"sae_type", "act_size"} <= set(source.json(_SETTINGS)) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        if not source.has(_WEIGHTS, _SETTINGS):
            raise InputError(f"{source.path} needs {_WEIGHTS} and {_SETTINGS} side by side; one of them is missing")
        file, path, notes = source.at(_SETTINGS), source.at(_WEIGHTS), Notes()
        cfg = source.json(_SETTINGS)
        kind = str(cfg.get("sae_type"))
        architecture = _ARCHITECTURES.get(kind.lower().replace("-", "").replace("_", ""))
        if architecture is None:
            raise InputError(
                f"{file}: unknown sae_type {kind!r}; known: vanilla, topk, batchtopk, jumprelu, global-matryoshka-topk"
            )
        d_in, d_sae = _sizes(source, cfg, architecture, file, path)
        _early(cfg, architecture, file)
        unit_norm = _flag(cfg, "input_unit_norm", None, file)
        if unit_norm is None:
            unit_norm = True
            notes.assumptions.append("input_unit_norm taken as true, the default of the scripts: config.json does not say")
        threshold = _threshold(source, architecture, path, notes)
        notes.left_out(_WEIGHTS, set(source.headers(_WEIGHTS)) - _KNOWN)
        site = _site(cfg, file)
        if not unit_norm and may_be_in_stream(site):
            notes.assumptions.append(
                "residual stream taken as raw: config.json does not say whether the model was loaded with center_writing_weights"
            )
        activation = _ACTIVATIONS[architecture]
        config = SAEConfig(
            activation=activation,  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=_k(source, cfg, file) if activation == "topk" else None,
            normalisation="layer_norm" if unit_norm else "none",
            architecture=architecture,
            format="bussmann",
            path=str(source.path),
            site=site,
            model_id=text(cfg, "model_name", file),
            context_length=n_tokens(_plain(cfg, "seq_len"), "seq_len", file),
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        biased = architecture in ("standard", "jumprelu") or bool(_flag(cfg, "use_encoder_bias", False, file))
        shifts = architecture != "jumprelu" or bool(_flag(cfg, "use_pre_enc_bias", False, file))

        def load() -> SAEWeights:
            tensors = source.tensors(_WEIGHTS)
            b_enc, b_dec = take(tensors, "b_enc", path, ndim=(1,)), take(tensors, "b_dec", path, ndim=(1,))
            return SAEWeights(
                W_enc=take(tensors, "W_enc", path, ndim=(2,)),
                b_enc=b_enc if biased else torch.zeros_like(b_enc),
                W_dec=take(tensors, "W_dec", path, ndim=(2,)),
                b_dec=b_dec,
                b_in=b_dec if shifts else None,
                threshold=threshold(tensors) if threshold else None,
            )

        return Entry(config=config, weights=load)


def _sizes(source: Source, cfg: dict[str, Any], architecture: str, file: Path, path: Path) -> tuple[int, int]:
    shapes = source.headers(_WEIGHTS)
    d_in, d_sae = header(shapes, "W_enc", path, ndim=2).shape
    decoder, bias = header(shapes, "W_dec", path, ndim=2).shape, header(shapes, "b_enc", path, ndim=1).numel
    if decoder != (d_sae, d_in) or bias != d_sae:
        raise InputError(
            f"{path}: W_enc is {[d_in, d_sae]}, W_dec {list(decoder)} and b_enc {[bias]}; expected [d, F], [F, d] and [F]; the "
            "file is damaged"
        )
    if number(_plain(cfg, "act_size"), "act_size", file) != d_in:
        raise InputError(f"{file}: act_size is {cfg['act_size']}, but W_enc reads {d_in}")
    groups = _groups(cfg, file) if architecture == "matryoshka_batchtopk" else None  # dict_size is not what it has then
    if groups is not None and sum(groups) != d_sae:
        raise InputError(f"{file}: group_sizes {groups} sum to {sum(groups)}, but W_enc has {d_sae} latents")
    if groups is None and "dict_size" in cfg and number(_plain(cfg, "dict_size"), "dict_size", file) != d_sae:
        raise InputError(f"{file}: dict_size is {cfg['dict_size']}, but W_enc has {d_sae} latents")
    return d_in, d_sae


def _groups(cfg: dict[str, Any], file: Path) -> list[int] | None:
    """Return ``group_sizes``, which is saved as the text of a list."""
    value = cfg.get("group_sizes")
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = value
    if found is not None and not (isinstance(found, list) and found and all(type(one) is int and one > 0 for one in found)):
        raise InputError(f"{file}: 'group_sizes' should be a list of whole numbers, found {value!r}")
    return found


def _early(cfg: dict[str, Any], architecture: str, file: Path) -> None:
    """Refuse what only the first scripts had, and only for some kinds."""
    if _flag(cfg, "tied_weights", False, file):
        raise InputError(f"{file}: tied_weights is set, which later scripts ignore: which matrix decodes is not known")
    activation = str(cfg.get("activation", "relu"))
    if architecture in ("topk", "batchtopk") and activation != "relu":
        raise InputError(f"{file}: activation {activation!r} before topk is not supported; known: relu")


def _threshold(source: Source, architecture: str, path: Path, notes: Notes) -> Any:
    """Return a function from the tensors to the threshold; ``None`` where there is none."""
    shapes = source.headers(_WEIGHTS)
    if architecture == "jumprelu":
        header(shapes, "jumprelu.log_threshold", path, ndim=1)
        return _exp
    if architecture not in _POOLED:
        return None
    if "threshold" not in shapes:
        raise InputError(
            f"{path} has no threshold: scripts from before there was one pick latents over a whole batch, so the same token gets "
            "other latents in other company; it cannot be scored"
        )
    value = source.number(_WEIGHTS, "threshold")
    if not value >= 0:
        raise InputError(f"{path}: 'threshold' should be 0 or more, found {value:g}")
    if value == 0:
        notes.warnings.append("threshold is 0, where training starts it: it was never estimated, and every positive latent fires")
    return _one


def _exp(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors["jumprelu.log_threshold"].float().exp()


def _one(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return tensors["threshold"]


def _site(cfg: dict[str, Any], file: Path) -> str | None:
    name = text(cfg, "hook_point", file)
    if name is None and cfg.get("site") in ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out"):
        return f"blocks.{number(_plain(cfg, 'layer'), 'layer', file)}.hook_{cfg['site']}"
    return name


def _k(source: Source, cfg: dict[str, Any], file: Path) -> int:
    if cfg.get("top_k") is not None:
        return number(_plain(cfg, "top_k"), "top_k", file)
    told = source.given.get("k", int)
    if told is None:
        raise InputError(f"{file} does not say top_k; give it with --set k=NUMBER")
    return told


def _plain(cfg: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the setting ``key`` alone, a number in text made a number: scripts save what JSON does not know as text."""
    value = cfg.get(key)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            pass
    return {key: value}


def _flag(cfg: dict[str, Any], key: str, default: bool | None, file: Path) -> bool | None:
    value = cfg.get(key, default)
    found = {"True": True, "False": False}.get(value) if isinstance(value, str) else value
    if not isinstance(found, bool | None) or (found is None and key in cfg):
        raise InputError(f"{file}: {key!r} should be true or false, found {value!r}")
    return found

"""Apollo Research's e2e_sae: ``samples_<n>.pt``, the SAEs of several sites in one state dict, + ``final_config.yaml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from saebench.errors import InputError, did_you_mean
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, n_tokens, take, text
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import in_stream
from saebench.sae.source import Entry, Notes, Source

_SETTINGS = "final_config.yaml"
_FILE = r".+\.pth?"
_ENCODER = re.compile(r"([\w-]*hook_\w+)\.encoder\.0\.weight")
_EPS = 1e-12
"""What ``torch.nn.functional.normalize`` takes for the norm of shorter columns."""


@FORMATS.register("apollo")
class Apollo:
    """A torch file with blocks-L-hook_….encoder.0.weight and the like, as e2e_sae writes them."""

    looked_for = "samples_*.pt with blocks-L-HOOK.encoder.0.weight + final_config.yaml (e2e_sae)"
    rank = 15
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the one torch file, if each of its tensors is of an encoder or decoder at a hook point."""
        file = source.only(_FILE)
        return file if _hooks(source.keys(file)) else None

    @staticmethod
    def parts(source: Source) -> list[str]:
        """Return the hook names of the SAEs of the file."""
        file = source.only(_FILE)
        return [hook.replace("-", ".") for hook in _hooks(source.keys(file))]

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the model from the settings, the site from the names of the tensors."""
        name = source.only(_FILE)
        if name is None:
            raise InputError(f"{source.path} holds no one torch file; name the file")
        file, shapes, notes = source.at(name), source.headers(name), Notes()
        site = _chosen(source, [hook.replace("-", ".") for hook in _hooks(frozenset(shapes))], file)
        own = site.replace(".", "-")
        d_sae, d_in = header(shapes, f"{own}.encoder.0.weight", file, ndim=2).shape
        found = header(shapes, f"{own}.decoder.weight", file, ndim=2).shape
        if found != (d_in, d_sae):
            raise InputError(
                f"{file}: {own}.decoder.weight has shape {list(found)}, expected {[d_in, d_sae]} after the encoder's"
            )
        settings = source.yaml(_SETTINGS) if source.has(_SETTINGS) else {}
        data = settings.get("train_data")
        config = SAEConfig(
            activation="relu",
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            format="apollo",
            path=f"{source.path}#{site}",
            site=site,
            model_id=text(settings, "tlens_model_name", source.at(_SETTINGS)),
            residual=_residual(settings, site, notes),
            context_length=n_tokens(data, "n_ctx", source.at(_SETTINGS)) if isinstance(data, dict) else None,
            assumptions=tuple(notes.assumptions),
        )
        _check_ratio(settings, d_in, d_sae, source.at(_SETTINGS))
        return Entry(config=config, weights=lambda: _weights(source, name, own, file))


def _hooks(keys: frozenset[str]) -> list[str]:
    """Return the hook names as the keys write them, with hyphens for dots; none if other tensors are among them."""
    hooks = [found[1] for key in sorted(keys) if (found := _ENCODER.fullmatch(key))]
    tails = ("encoder.0.weight", "encoder.0.bias", "decoder.weight", "decoder.bias")
    rest = keys - {f"{hook}.{tail}" for hook in hooks for tail in tails}
    return [] if rest else sorted(hooks, key=lambda hook: [int(part) if part.isdigit() else -1 for part in hook.split("-")])


def _chosen(source: Source, sites: list[str], file: Path) -> str:
    """Return the site that was asked for, with dots; hyphens are taken for them."""
    if not sites:
        raise InputError(
            f"{file} has no SAE at a hook point; e2e_sae names tensors as in blocks-6-hook_resid_pre.encoder.0.weight"
        )
    if source.part is None:
        if len(sites) > 1:
            raise InputError(f"{file} holds {len(sites)} SAEs; name one as {source.path}#{sites[0]}")
        return sites[0]
    site = source.part.replace("-", ".")
    if site not in sites:
        raise InputError(f"{file} has no SAE {source.part!r}.{did_you_mean(site, sites)} It has {', '.join(sites)}")
    return site


def _residual(settings: dict[str, Any], site: str, notes: Notes) -> Any:
    if not in_stream(site):
        return "raw"
    if settings.get("tlens_model_name") is None and settings.get("tlens_model_path") is not None:
        notes.assumptions.append(
            f"residual stream taken as raw: {_SETTINGS} gives a checkpoint as the model, which e2e_sae loads without processing"
        )
        return "raw"
    notes.assumptions.append(
        "residual stream taken as centred: e2e_sae loads models by name with TransformerLens' default processing, which has "
        "center_writing_weights on"
    )
    return "centred"


def _check_ratio(settings: dict[str, Any], d_in: int, d_sae: int, file: Path) -> None:
    saes = settings.get("saes")
    ratio = saes.get("dict_size_to_input_ratio") if isinstance(saes, dict) else None
    if ratio is None:
        return
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1e9:
        raise InputError(f"{file}: dict_size_to_input_ratio should be a positive number, found {ratio!r}")
    if abs(ratio * d_in - d_sae) >= 1:
        raise InputError(f"{file}: dict_size_to_input_ratio is {ratio}, but the weights have {d_sae} latents for {d_in} inputs")


def _weights(source: Source, name: str, own: str, file: Path) -> SAEWeights:
    """Encode f = relu(x Eᵀ + e), decode x̂ = f D̂ᵀ + d; the columns of D̂ are those of D, as saved, over their norms."""
    tensors = source.tensors(name)
    decoder = source.turned(take(tensors, f"{own}.decoder.weight", file, ndim=(2,)))
    norm = torch.linalg.vector_norm(decoder, dim=1, keepdim=True, dtype=torch.promote_types(decoder.dtype, torch.float32))
    return SAEWeights(
        W_enc=source.turned(take(tensors, f"{own}.encoder.0.weight", file, ndim=(2,))),
        b_enc=take(tensors, f"{own}.encoder.0.bias", file),
        W_dec=decoder.div_(norm.clamp_min_(_EPS)),
        b_dec=take(tensors, f"{own}.decoder.bias", file),
    )

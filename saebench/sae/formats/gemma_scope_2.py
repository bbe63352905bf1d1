"""Gemma Scope 2 (Google DeepMind, Gemma 3): ``params.safetensors`` and, for most, ``config.json`` with modules' names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats import _gemma as gemma
from saebench.sae.formats._names import find_name
from saebench.sae.reading.files import number, text
from saebench.sae.sae import SAEConfig
from saebench.sae.site import Site
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS, _CONFIG = "params.safetensors", "config.json"
_LAYER_FILE = r"(params_)?(layer_)?\d+\.safetensors"
_BEFORE, _BEHIND = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
_HOOKS = {
    "output": "hook_resid_post",
    "self_attn.o_proj.input": "attn.hook_z",
    _BEFORE: "mlp.hook_in",
    _BEHIND: "hook_mlp_out",
}
"""Module of Hugging Face's Gemma 3 block -> hook name. ``pre_feedforward_layernorm.output`` has the norm's gain 1 + w in it, so
it is what the MLP is given, ``mlp.hook_in``; ``ln2.hook_normalized`` stands before the gain, ``hook_mlp_in`` before the norm."""
_NAMED = {
    "resid_post": ("output", None),
    "attn_out": ("self_attn.o_proj.input", None),
    "mlp_out": (_BEHIND, None),
    "transcoder": (_BEFORE, _BEHIND),
}
_KIND = r"(?:^|_)(resid_post|attn_out|mlp_out|transcoder)(?:_all)?(?:_|$)"
_LAYER = r"(?:^|_)layer_(\d+)(?:_|$)"
_SEVERAL = {"clt": "cross-layer transcoder", "crosscoder": "crosscoder"}


@FORMATS.register("gemma_scope_2")
class GemmaScope2:
    """params.safetensors [+ config.json], as Gemma Scope 2 was published: SAEs and transcoders of one layer."""

    looked_for = "params.safetensors with w_enc and w_dec (Gemma Scope 2)"
    rank = 5

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it has tensors of these names; of several layers' files, the first."""
        if source.has(_WEIGHTS):
            keys = source.keys(_WEIGHTS)
            return _WEIGHTS if not keys or keys & gemma.MATRICES else None
        for name in source.names:
            if re.fullmatch(_LAYER_FILE, name) and source.keys(name) >= gemma.MATRICES:
                return name
        return None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read settings, sizes and names.

        Raises:
            InputError: It reads or writes several layers; a tensor is missing; sizes or settings disagree; or it is a transcoder
                and nothing says of which layer.
        """
        weights = GemmaScope2.detect(source)
        if weights is None:
            raise InputError(f"{source.path} has no {_WEIGHTS} with w_enc and w_dec, in which Gemma Scope 2 keeps an SAE")
        file, notes = source.at(_CONFIG), Notes()
        cfg = source.json(_CONFIG) if source.has(_CONFIG) else {}
        _one_layer(source, weights, cfg)
        d_in, d_sae, d_out = gemma.sizes(source, weights, notes)
        skips = "affine_skip_connection" in gemma.stored(source.headers(weights))
        _agrees(cfg, file, d_sae=d_sae, skips=skips)
        site, site_out = _sites(source, cfg, file, notes)
        transcodes = d_in != d_out or skips or cfg.get("type") == "transcoder"
        silent = site is None and cfg.get("type") is None and cfg.get("hf_hook_point_in") is None
        if site_out is None and (transcodes or silent):
            told = source.given.get("site_out")
            if told is None and transcodes:
                raise InputError(
                    f"{source.path} is a transcoder, but nothing says where it writes; say it with --set "
                    "site_out=blocks.L.hook_mlp_out, and what it reads with --site blocks.L.mlp.hook_in"
                )
            if told is None:
                notes.assumptions.append(
                    f"taken as an SAE, not as a transcoder: there is no {_CONFIG} and no name in its path that says which; if it "
                    "is one, say where it writes with --set site_out=HOOK"
                )
            site_out = None if told is None else Site.parse(told).name
        kind = ("jumprelu_skip_transcoder" if skips else "jumprelu_transcoder") if site_out else "jumprelu"
        config = SAEConfig(
            activation="jumprelu",
            d_in=d_in,
            d_out=d_out,
            d_sae=d_sae,
            architecture=kind,
            format="gemma_scope_2",
            path=str(source.path),
            site=site,
            site_out=site_out,
            model_id=_model(source, cfg, file, notes),
            context_length=gemma.CONTEXT,
            prepend_bos=True,
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: gemma.load(source, weights))


def _one_layer(source: Source, weights: str, cfg: dict[str, Any]) -> None:
    """Refuse cross-layer transcoders and crosscoders: w_dec is ``[S, layers, O]`` in each layer's file; stacks have more."""
    kind, named = _SEVERAL.get(str(cfg.get("type"))), find_name(source.words, r"(?:^|_)(clt|crosscoder)(?:_|$)")
    shapes = source.headers(weights)
    deep = [key for key in sorted(gemma.MATRICES) if key in shapes and shapes[key].ndim > 2]
    if kind is None and not deep:
        return
    kind = kind or (_SEVERAL[named[1]] if named else "cross-layer transcoder or crosscoder")
    why = f" ({deep[0]} is {list(shapes[deep[0]].shape)})" if deep else ""
    raise InputError(
        f"{source.at(weights)} is of a {kind}{why}, which is not supported: its latents read or write several layers at once, "
        "and what is scored here reads one site and writes one"
    )


def _agrees(cfg: dict[str, Any], file: Path, *, d_sae: int, skips: bool) -> None:
    architecture = text(cfg, "architecture", file)
    if architecture not in (None, "jump_relu"):
        raise InputError(f"{file}: unknown architecture {architecture!r}; known: jump_relu")
    if cfg.get("width") is not None and number(cfg, "width", file) != d_sae:
        raise InputError(f"{file}: width is {cfg['width']}, but the weights have {d_sae} latents")
    affine = cfg.get("affine_connection")
    if affine is not None and bool(affine) != skips:
        raise InputError(
            f"{file}: affine_connection is {affine}, but the weights have {'an' if skips else 'no'} affine_skip_connection"
        )


def _sites(source: Source, cfg: dict[str, Any], file: Path, notes: Notes) -> tuple[str | None, str | None]:
    """Return (site, site_out): from the settings, else from the folders' names."""
    reads, writes = text(cfg, "hf_hook_point_in", file), text(cfg, "hf_hook_point_out", file)
    if reads is None:
        kind, layer = find_name(source.words, _KIND), find_name(source.words, _LAYER)
        if kind is None or layer is None:
            return None, None
        reads, writes = (None if m is None else f"model.layers.{layer[1]}.{m}" for m in _NAMED[kind[1]])
        names = " and ".join(repr(name) for name in dict.fromkeys((kind.string, layer.string)))
        notes.assumptions.append(f"module taken from the folders' names {names}, as SAELens does; there is no {_CONFIG} with it")
    site, site_out = _hook(reads, notes), None if writes in (None, reads) else _hook(writes, notes)
    if site is not None and site_out is not None:
        notes.assumptions.append(
            f"{reads} taken as {site}, behind the norm's gain, and {writes} as {site_out}, behind the norm that follows the MLP"
        )
    return site, site_out


def _hook(module: str | None, notes: Notes) -> str | None:
    found = re.fullmatch(r"(?:[\w.]+\.)?layers\.(\d+)\.([\w.]+)", module or "")
    if found is None or found[2] not in _HOOKS:
        notes.warnings.append(f"no hook name is known for the module {module!r}; name the site with --site")
        return None
    return f"blocks.{found[1]}.{_HOOKS[found[2]]}"


def _model(source: Source, cfg: dict[str, Any], file: Path, notes: Notes) -> str | None:
    """Return the model; the hub calls the smallest pretrained one ``gemma-3-270m``, without the ``-pt`` of the others."""
    name = text(cfg, "model_name", file)
    if name is None:
        repo = find_name(source.words, r"gemma-scope-2-(270m|1b|4b|12b|27b)-(pt|it)")
        if repo is None:
            return None
        name = f"google/gemma-3-{repo[1]}-{repo[2]}"
        notes.assumptions.append(f"model taken from the name {repo[0]!r}")
    name = name.replace("gemma-v3", "gemma-3")
    name = name if "/" in name else f"google/{name}"
    return name.removesuffix("-pt") if name.endswith("gemma-3-270m-pt") else name

"""Gemma Scope 1 (Google DeepMind, Gemma 2): ``params.npz`` and no settings; what it belongs to stands in the names above it."""

from __future__ import annotations

import itertools
import math
import re
from typing import NamedTuple

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats import _gemma as gemma
from saebench.sae.formats._names import find_name
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import Site
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS = "params.npz"
_REPO = r"gemma-scope-(2b|9b|27b)-(pt|it)-(?:(?:res|mlp|att)-(?=transcoders))?(res|mlp|att|transcoders)"
_LAYER = r"(?:^|_)layer_(\d+)(?:_|$)"
_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z", "transcoders": "ln2.hook_normalized"}


class _Place(NamedTuple):
    """What an SAE belongs to, as far as names say it."""

    site: str | None = None
    site_out: str | None = None
    model_id: str | None = None
    embedding: bool = False


@FORMATS.register("gemma_scope")
class GemmaScope:
    """params.npz, as Gemma Scope for Gemma 2 was published: SAEs and transcoders, told apart by the repository's name."""

    looked_for = "params.npz (Gemma Scope)"
    rank = 4

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it has tensors of this name, or is damaged and shows none."""
        if not source.has(_WEIGHTS):
            return None
        keys = {key.lower() for key in source.keys(_WEIGHTS)}
        return _WEIGHTS if not keys or keys & gemma.MATRICES else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes and names.

        Raises:
            InputError: A tensor is missing, sizes disagree, or it is a transcoder and no name says of which layer.
        """
        if not source.has(_WEIGHTS):
            raise InputError(f"{source.path} has no {_WEIGHTS}, in which Gemma Scope keeps an SAE")
        notes = Notes()
        d_in, d_sae, d_out = gemma.sizes(source, _WEIGHTS, notes)
        place = _place(source, notes, square=d_in == d_out)
        config = SAEConfig(
            activation="jumprelu",
            d_in=d_in,
            d_out=d_out,
            d_sae=d_sae,
            architecture="jumprelu" if place.site_out is None else "jumprelu_transcoder",
            format="gemma_scope",
            path=str(source.path),
            site=place.site,
            site_out=place.site_out,
            model_id=place.model_id,
            context_length=gemma.CONTEXT,
            prepend_bos=True,
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )

        def weights() -> SAEWeights:
            loaded = gemma.load(source, _WEIGHTS)
            if place.embedding:  # x = √D e: p = e W_enc + b_enc and x̂ = √D (f W_dec + b_dec)
                root = math.sqrt(d_in)
                loaded.W_enc.div_(root)
                loaded.W_dec.mul_(root)
                loaded.b_dec.mul_(root)
            return loaded

        return Entry(config=config, weights=weights)


def _place(source: Source, notes: Notes, *, square: bool) -> _Place:
    repo, layer = find_name(source.words, _REPO), find_name(source.words, _LAYER)
    if repo is None:
        return _nameless(source, notes, layer, square=square)
    model_id = f"google/gemma-2-{repo[1]}" + ("-it" if repo[2] == "it" else "")
    if repo[3] == "res" and _is_embedding(source):
        return _embedding(notes, model_id)
    told = f"the name {repo[0]!r}" if layer is None else f"the names {repo[0]!r} and {layer.string!r}"
    notes.assumptions.append(f"model{'' if layer is None else ' and site'} taken from {told}; the file does not say")
    if repo[3] == "transcoders":
        return _transcoder(source, notes, layer)._replace(model_id=model_id)
    return _Place(site=None if layer is None else f"blocks.{layer[1]}.{_SITES[repo[3]]}", model_id=model_id)


def _nameless(source: Source, notes: Notes, layer: re.Match[str] | None, *, square: bool) -> _Place:
    """Return what is known where no name is a repository's of Gemma Scope."""
    if _is_embedding(source):
        return _embedding(notes, None)
    if find_name(source.words, r"(?:^|[-_])transcoders?$"):
        return _transcoder(source, notes, layer)
    site_out = source.given.get("site_out")
    if site_out is None and not square:
        raise InputError(f"{source.path} is a transcoder; say what it reads and writes with --site and --set site_out=HOOK")
    if site_out is None:
        notes.assumptions.append(
            "taken as an SAE, not as a transcoder, for no name in its path is a repository's of Gemma Scope "
            "(gemma-scope-2b-pt-res and the like); if it is one, say where it writes with --set site_out=HOOK"
        )
    return _Place(site_out=None if site_out is None else Site.parse(site_out).name)


def _transcoder(source: Source, notes: Notes, layer: re.Match[str] | None) -> _Place:
    """Return where a transcoder reads and writes.

    The norm's gain is folded into the MLP's input matrices and the transcoder trained just behind the norm, so it reads what has
    no gain yet; it writes what is added to the stream, which in Gemma 2 stands behind another norm. Source: arXiv 2408.05147v2,
    "Language model technical details", and the model card of ``google/gemma-scope-2b-pt-transcoders``.
    """
    if layer is None:
        site_out = source.given.get("site_out")
        if site_out is None:
            raise InputError(
                f"{source.path} is a transcoder, but no name in its path says of which layer; keep the folder's name (layer_20), "
                "or give --site blocks.L.ln2.hook_normalized --set site_out=blocks.L.hook_mlp_out"
            )
        return _Place(site_out=Site.parse(site_out).name)
    site, site_out = f"blocks.{layer[1]}.{_SITES['transcoders']}", f"blocks.{layer[1]}.hook_mlp_out"
    notes.assumptions.append(
        f"a transcoder, as names in its path say: it reads {site}, before the norm's gain, and writes {site_out}, behind the "
        "norm that follows the MLP (arXiv 2408.05147v2 and the model card)"
    )
    return _Place(site=site, site_out=site_out)


def _is_embedding(source: Source) -> bool:
    return any(a == "embedding" and b.startswith("width_") for a, b in itertools.pairwise(source.words))


def _embedding(notes: Notes, model_id: str | None) -> _Place:
    site = "blocks.0.hook_resid_pre"
    notes.assumptions.append(
        "an SAE of the embedding matrix, as the folder's name says, trained on rows e before the model multiplies them by √D; "
        f"for {site}, which is √D e, W_enc is divided by √D, W_dec and b_dec are multiplied by it (SAELens leaves b_dec as it is)"
    )
    return _Place(site=site, model_id=model_id, embedding=True)

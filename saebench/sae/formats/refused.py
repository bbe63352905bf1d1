"""What is published and cannot be scored latent by latent at one site: recognised, so that the refusal says what it is.

Each row of the table becomes a format whose ``read`` raises. Files are recognised by names, settings and headers; pickles by
the classes that they would import, none of which is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.pickle_imports import foreign_class
from saebench.sae.reading.stored import Header
from saebench.sae.source import WEIGHTS, Source

_ANY = r".+\.(pt|pth|safetensors)"
_CLT = r"W_(enc|dec)_\d+\.safetensors"
_CT_SETTINGS = "config.yaml"
Shapes = Mapping[str, Header]


class Kind(NamedTuple):
    """One kind of files that are refused."""

    name: str
    rank: float
    """As a format's: below that of every format that might take the same file for its own."""
    what: str
    why: str
    instead: str
    """What the user can do."""
    find: Callable[[Source], str | None]


class Recognised:
    """A format that is recognised only: reading it says why it is not supported."""

    own_files = True

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rank = kind.rank
        self.__doc__ = f"Recognised only, not supported: {kind.what}."

    def detect(self, source: Source) -> str | None:
        """Return the file by which it is recognised."""
        return self.kind.find(source)

    def read(self, source: Source) -> NoReturn:
        """Refuse it.

        Raises:
            InputError: Always; one line says what it is, why it is not supported, and what to do.
        """
        raise InputError(f"{source.path} is {self.kind.what}, which is not supported: {self.kind.why}; {self.kind.instead}")


def _tensors(files: str, known: Callable[[Shapes], bool]) -> Callable[[Source], str | None]:
    """Return a search for the one file of this name whose tensors are known."""

    def find(source: Source) -> str | None:
        file = source.only(files)
        try:
            return file if file is not None and known(source.headers(file)) else None
        except InputError:
            return None

    return find


def _pickle(package: str) -> Callable[[Source], str | None]:
    """Return a search for the one torch file that would import something of a package first; nothing is imported."""

    def find(source: Source) -> str | None:
        file = source.only(r".+\.pth?")
        if file is None:
            return None
        try:
            return file if (foreign_class(source.at(file)) or "").startswith(package) else None
        except InputError:
            return None

    return find


def _ndim(shapes: Shapes, key: str) -> int:
    found = shapes.get(key) or shapes.get(f"_orig_mod.{key}")
    return 0 if found is None else found.ndim


def _is_crosscoder(shapes: Shapes) -> bool:
    several = _ndim(shapes, "W_enc") == 3 and _ndim(shapes, "W_dec") == 3 and _ndim(shapes, "b_dec") == 2
    layers = _ndim(shapes, "encoder.weight") == 3 and _ndim(shapes, "decoder.weight") == 3
    return several or layers or _ndim(shapes, "encoder.projections.0.weight") == 2


def _is_crosslayer_coding(shapes: Shapes) -> bool:
    encoders = any(re.fullmatch(r"(encoder_module\.)?encoders\.\d+\.weight", key) for key in shapes)
    return encoders and any(re.fullmatch(r"(decoder_module\.)?decoders\.\d+(->\d+)?\.weight", key) for key in shapes)


def _is_temporal(shapes: Shapes) -> bool:
    return {"D", "b"} <= {key.removeprefix("sae/") for key in shapes} and any("attn_layers." in key for key in shapes)


def _clt(source: Source) -> str | None:
    """Find circuit-tracer's cross-layer transcoder: by its files, or by settings without any."""
    file = next((name for name in source.names if re.fullmatch(_CLT, name)), None)
    return file or _settings_alone(source, lambda cfg: cfg.get("model_kind") == "cross_layer_transcoder")


def _links(source: Source) -> str | None:
    """Find settings of circuit-tracer that only say where transcoders lie."""
    return _settings_alone(
        source, lambda cfg: cfg.get("model_kind") == "transcoder_set" and isinstance(cfg.get("transcoders"), list)
    )


def _settings_alone(source: Source, known: Callable[[dict[str, object]], bool]) -> str | None:
    if not source.has(_CT_SETTINGS) or any(name.endswith(WEIGHTS) for name in source.names):
        return None
    try:
        return _CT_SETTINGS if known(source.yaml(_CT_SETTINGS)) else None
    except InputError:
        return None


_STATE_DICT = "where you trust the file, save the object's state_dict() with the library that wrote it"
_KINDS = (
    Kind(
        name="circuit_tracer_clt", rank=15.5, find=_clt,
        what="a cross-layer transcoder (CLT) as circuit-tracer reads them",
        why="its latents write to the MLP outputs of all later layers at once, so there is no one site to score them at",
        instead="take a set of per-layer transcoders of the same model",
    ),
    Kind(
        name="circuit_tracer_links", rank=15.6, find=_links,
        what="a config.yaml of circuit-tracer that only says where its transcoders lie",
        why="there are no weights here",
        instead="fetch the files that its 'transcoders' name, and give one of them",
    ),
    Kind(
        name="crosslayer_coding", rank=15.7, find=_tensors(_ANY, _is_crosslayer_coding),
        what="a cross-layer transcoder of crosslayer-coding (Tigges)",
        why="its latents write to all later layers at once, and the scale of its inputs lies with its training acts only",
        instead="take per-layer transcoders of the same model",
    ),
    Kind(
        name="crosscoder", rank=1.5, find=_tensors(_ANY, _is_crosscoder),
        what="a crosscoder",
        why="each of its latents reads and writes several models or layers at once, so there is no one site to score it at",
        instead="take an SAE of one model and one site",
    ),
    Kind(
        name="temporal_sae", rank=0.8, find=_tensors(r"latest_ckpt\.(pt|pth|safetensors)", _is_temporal),
        what="a temporal SAE (conf.yaml + latest_ckpt)",
        why="its latents depend on the tokens before by attention of its own, not on one token's acts",
        instead="take an SAE that encodes one token at a time",
    ),
    Kind(
        name="switch_sae", rank=2.5, find=_tensors(_ANY, lambda shapes: {"router.weight", "b_router", "decoder"} <= set(shapes)),
        what="a switch SAE (Mudide et al.)",
        why="a router lets the latents of one expert through and scales them, which is more than one encoder pass",
        instead="take one of the topk SAEs that are published beside it",
    ),
    Kind(
        name="prefix_matryoshka", rank=1.6,
        find=_tensors(_ANY, lambda shapes: {"W_enc", "W_dec", "normalizer.running_avg"} <= set(shapes)),
        what="a Matryoshka SAE of matryoshka-saes (Nabeshima)",
        why="the layout of its files was never fixed, and its latents are in units of a running norm",
        instead="fold √d_in / normalizer.running_avg into its weights and save it in saebench's own format (save_native)",
    ),
    Kind(
        name="overcomplete_module", rank=0.5, find=_pickle("overcomplete."),
        what="a pickled module of overcomplete",
        why="opening it would run its code; refused, nothing was executed",
        instead=f"{_STATE_DICT} and give that with --set class=NAME and --set k=N",
    ),
    Kind(
        name="ai_safety_foundation", rank=0.6, find=_pickle("sparse_autoencoder.autoencoder."),
        what="a pickled SparseAutoencoderState of ai-safety-foundation/sparse_autoencoder",
        why="opening it would run its code; refused, nothing was executed",
        instead="where you trust it, open it with that library and save the tensors in saebench's own format (save_native)",
    ),
    Kind(
        name="learned_dicts", rank=0.7, find=_pickle("autoencoders."),
        what="a pickled list of learned dictionaries (HoagyC/sparse_coding, learned_dicts.pt)",
        why="opening it would run its code; refused, nothing was executed",
        instead="where you trust it, open it with that library and save each dictionary in saebench's own format (save_native)",
    ),
)  # fmt: skip

for _kind in _KINDS:
    FORMATS.register(_kind.name)(Recognised(_kind))

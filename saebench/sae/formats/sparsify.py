"""sparsify (EleutherAI): ``cfg.json`` + ``sae.safetensors``, one folder a hook point.

f = the k largest of relu((x − b_dec) Eᵀ + e), x̂ = f W_dec + b_dec [+ x W_skipᵀ]; transcoders take nothing off their input.
``groupmax`` keeps the largest latent of each of k groups; ``signed``, an option of 2024, the k of largest size with their signs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._asked import stated_k
from saebench.sae.formats._modules import module_sites, transcodes_to
from saebench.sae.reading.files import header, n_tokens, number, take
from saebench.sae.reading.stored import Header
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_WEIGHTS = "sae.safetensors"
_SHAPES = {"encoder.weight": "SD", "encoder.bias": "S", "W_dec": "SD", "b_dec": "D", "W_skip": "DD"}
_OPTIONAL = ("W_skip",)
_ROOT_KEYS = ("model", "ctx_len", "hookpoints", "sae", "transcode")
_ACROSS = "it predicts the outputs of several layers at once"


@FORMATS.register("sparsify")
class Sparsify:
    """cfg.json + sae.safetensors, as sparsify writes them."""

    looked_for = "cfg.json + sae.safetensors (sparsify)"
    rank = 2

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if both files are there."""
        return _WEIGHTS if source.has("cfg.json", _WEIGHTS) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        file, weights, notes = source.at("cfg.json"), source.at(_WEIGHTS), Notes()
        cfg, root = source.json("cfg.json"), _root(source)
        _refuse_other_kinds(cfg, source.headers(_WEIGHTS), weights)
        d_in, d_sae = _sizes(cfg, source.headers(_WEIGHTS), file, weights)
        place = _place(cfg, root, source, notes)
        activation = _activation(cfg, file)
        config = SAEConfig(
            activation="abstopk" if cfg.get("signed") else activation,  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=stated_k(cfg, source, file),
            architecture="transcoder" if place.transcodes else "abstopk" if cfg.get("signed") else activation,
            format="sparsify",
            path=str(source.path),
            site=place.site,
            site_out=place.site_out,
            context_length=n_tokens(root.settings, "ctx_len", root.file),
            model_id=root.model,
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: _weights(source, weights, bool(cfg.get("transcode"))))


class _Root(NamedTuple):
    """Settings of the run, beside the folders of its hook points."""

    settings: dict[str, Any]
    file: Path

    @property
    def model(self) -> str | None:
        """The model's name, where there is one."""
        name = self.settings.get("model")
        return name if isinstance(name, str) else None


class _Place(NamedTuple):
    site: str | None
    site_out: str | None
    transcodes: bool


def _root(source: Source) -> _Root:
    for name in ("../config.json", "../../config.json"):  # two above in folders of several seeds
        if (source.folder / name).is_file():
            settings = source.json(name)
            if any(key in settings for key in _ROOT_KEYS):
                return _Root(settings, source.at(name))
    return _Root({}, source.at("cfg.json"))


def _refuse_other_kinds(cfg: dict[str, Any], shapes: dict[str, Header], weights: Path) -> None:
    if any(key.startswith(("W_decs.", "post_encs.")) for key in shapes):
        raise InputError(f"{weights} is a cross-layer transcoder, which is not supported: {_ACROSS}")
    if cfg.get("n_targets") or cfg.get("coalesce_topk", "none") not in (None, "none"):
        raise InputError(f"{weights.parent / 'cfg.json'} is of a cross-layer transcoder, which is not supported: {_ACROSS}")
    if cfg.get("normalize_io"):
        raise InputError(
            f"{weights.parent / 'cfg.json'} has normalize_io, an option of a variant of sparsify that is not supported"
        )
    if "W_dec" not in shapes and "encoder.weight" in shapes:
        raise InputError(
            f"{weights} lacks the tensor 'W_dec': an encoder alone reconstructs nothing; fetch the file with its decoder"
        )
    odd = sorted(set(shapes) - set(_SHAPES))
    if odd and "encoder.weight" in shapes:
        raise InputError(f"{weights} has {', '.join(odd)[:200]}, which no SAE of sparsify has; it is of a variant, not supported")
    if "W_skip" in shapes and cfg.get("skip_connection") is False:
        raise InputError(f"{weights} has W_skip, but cfg.json says skip_connection is false; fetch both again")


def _sizes(cfg: dict[str, Any], shapes: dict[str, Header], file: Path, weights: Path) -> tuple[int, int]:
    """Return (d_in, d_sae) as the tensors have them; ``num_latents`` is 0 where ``expansion_factor`` gave the width."""
    d_sae, d_in = header(shapes, "encoder.weight", weights, ndim=2).shape
    size = {"S": d_sae, "D": d_in}
    for key, letters in _SHAPES.items():
        if key in _OPTIONAL and key not in shapes and not cfg.get("skip_connection"):
            continue
        found, want = header(shapes, key, weights, ndim=len(letters)).shape, tuple(size[one] for one in letters)
        if found != want:
            raise InputError(f"{weights}: {key!r} is {list(found)}, expected {list(want)} after encoder.weight; fetch it again")
    if "d_in" in cfg and number(cfg, "d_in", file) != d_in:
        raise InputError(f"{file}: d_in is {cfg['d_in']}, but encoder.weight reads {d_in}")
    if cfg.get("num_latents") and number(cfg, "num_latents", file) != d_sae:
        raise InputError(f"{file}: num_latents is {cfg['num_latents']}, but encoder.weight has {d_sae}")
    return d_in, d_sae


def _activation(cfg: dict[str, Any], file: Path) -> str:
    activation = str(cfg.get("activation", "topk"))
    if activation not in ("topk", "groupmax"):
        raise InputError(f"{file}: unknown activation {activation!r}; known: topk, groupmax")
    if cfg.get("signed") and activation != "topk":
        raise InputError(f"{file}: signed goes with topk, not with {activation}; the settings contradict each other")
    return activation


def _place(cfg: dict[str, Any], root: _Root, source: Source, notes: Notes) -> _Place:
    """Return where it reads and writes, from the folder's name, which is the module's path in the model."""
    older = "transcode" not in cfg and root.settings.get("transcode") is True
    transcodes = bool(cfg.get("transcode")) or older
    if older:
        notes.warnings.append(
            "cfg.json does not say that it is a transcoder, the run's config.json does: it is taken for one, and b_dec is taken "
            "off what it reads, as sparsify does with such a cfg.json"
        )
    words = source.words[:-1] if source.file else source.words
    for name in reversed(words[-3:]):  # the last may be a seed's
        module = module_sites(name, root.model)
        if module is None:
            continue
        why = f" ({module.why})" if module.why else ""
        if not transcodes:
            notes.assumptions.append(f"site taken from the folder name {name!r}: SAEs of sparsify read a module's output{why}")
            return _Place(module.back, None, False)
        if module.across is not None:
            notes.assumptions.append(
                f"sites taken from the folder name {name!r}: what that module is given and what it gives back"
            )
            return _Place(*module.across, True)
    return _Place(None, transcodes_to(None, source) if transcodes else None, transcodes)


def _weights(source: Source, weights: Path, transcode: bool) -> SAEWeights:
    tensors = source.tensors(_WEIGHTS)
    b_dec = take(tensors, "b_dec", weights)
    return SAEWeights(
        W_enc=source.turned(take(tensors, "encoder.weight", weights)),
        b_enc=take(tensors, "encoder.bias", weights),
        W_dec=take(tensors, "W_dec", weights),
        b_dec=b_dec,
        b_in=None if transcode else b_dec,
        W_skip=source.turned(take(tensors, "W_skip", weights)) if "W_skip" in tensors else None,
    )

"""OpenAI's sparse_autoencoder: one torch file a layer, a state dict with the name and the settings of its activation in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.reading.files import header, number, one_number, take
from saebench.sae.reading.stored import StoredTensor
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.site import may_be_in_stream
from saebench.sae.source import Entry, Notes, Source

_ENCODER = frozenset({"pre_bias", "latent_bias", "encoder.weight"})
_DECODER, _TIED = "decoder.weight", "decoder.linear.weight"
_BESIDES = ("stats_", "latents_", "activation.", "activation_state_dict/")
"""What the names of statistics, and of the activation's settings, start with."""
_SITES = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
"""Locations in the paths of the library's files, as its README maps them."""
_GPT2_WIDTHS = (768, 3072)
_POSTACT = {"ReLU": "topk", "Identity": "signed_topk"}


@FORMATS.register("openai")
class OpenAI:
    """A torch file with pre_bias, latent_bias and encoder.weight, as sparse_autoencoder.Autoencoder saves itself."""

    looked_for = "a torch file with pre_bias, latent_bias and encoder.weight (OpenAI's sparse_autoencoder)"
    rank = 8
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the one torch file, if it has the encoder's and a decoder's tensors."""
        file = source.only(r".+\.pth?")
        keys = source.keys(file)
        return file if keys >= _ENCODER and (_DECODER in keys or _TIED in keys) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the activation's settings from the file, the site from its path."""
        name = source.only(r".+\.pth?")
        if name is None:
            raise InputError(f"{source.path} holds no one torch file; name the file")
        file, state, shapes, notes = source.at(name), source.mapping(name), source.headers(name), Notes()
        d_sae, d_in = header(shapes, "encoder.weight", file, ndim=2).shape
        tied = _DECODER not in shapes and _TIED in shapes
        found = header(shapes, _TIED if tied else _DECODER, file, ndim=2).shape
        if found != ((d_sae, d_in) if tied else (d_in, d_sae)):
            raise InputError(f"{file}: encoder.weight has shape {[d_sae, d_in]}, which the decoder's {list(found)} does not fit")
        activation, k, normalises = _activation(state, source, file, notes)
        notes.left_out(name, (key for key in set(shapes) - _ENCODER - {_DECODER, _TIED} if not key.startswith(_BESIDES)))
        site, model = _site(source, name, notes), _model(source, name, d_in, notes)
        if not normalises and may_be_in_stream(site):  # else the mean over D is taken off anyway
            notes.assumptions.append(
                "residual stream taken as raw: the library's README loads the model with center_writing_weights off"
            )
        config = SAEConfig(
            activation=activation,  # pyright: ignore[reportArgumentType]
            d_in=d_in,
            d_out=d_in,
            d_sae=d_sae,
            k=k,
            normalisation="layer_norm" if normalises else "none",
            architecture="topk" if normalises else "standard",
            format="openai",
            path=str(source.path),
            site=site,
            model_id=model,
            assumptions=tuple(notes.assumptions),
            warnings=tuple(notes.warnings),
        )
        return Entry(config=config, weights=lambda: _weights(source, name, tied, file))


def _activation(state: dict[str, Any], source: Source, file: Path, notes: Notes) -> tuple[str, int | None, bool]:
    """Return (activation, k, whether the input is normalised), as ``Autoencoder.from_state_dict`` takes them from the file."""
    name = state.get("activation", "ReLU")
    if "activation" not in state:
        notes.assumptions.append("activation taken as ReLU: the file does not name one, and the library's own loader does so")
    if name == "ReLU":
        return "relu", None, False
    if name == "Identity":
        raise InputError(f"{file} has no activation (Identity): every latent is always on, so it is no sparse autoencoder")
    if name != "TopK":
        raise InputError(f"{file}: unknown activation {str(name)[:80]!r}; known: ReLU, TopK")
    own = state.get("activation_state_dict", {})
    if not isinstance(own, dict):
        raise InputError(f"{file}: activation_state_dict is a {type(own).__name__}, expected k and postact_fn")
    told = {key: own.get(key, state.get(f"activation.{key}")) for key in ("k", "postact_fn")}
    postact = told["postact_fn"]
    if postact is None:
        notes.assumptions.append(
            "kept latents go through a ReLU: the file does not name a postact_fn, and that is TopK's default"
        )
        postact = "ReLU"
    if not isinstance(postact, str) or postact not in _POSTACT:
        raise InputError(f"{file}: unknown postact_fn {str(postact)[:80]!r}; known: {', '.join(_POSTACT)}")
    notes.assumptions.append("input normalised as by LayerNorm: the library does so wherever the activation is TopK")
    return _POSTACT[postact], _k(told["k"], source, file), True


def _k(stored: Any, source: Source, file: Path) -> int:
    if isinstance(stored, StoredTensor):
        stored = one_number(stored.array(), "k", file)
    if stored is not None:
        return number({"k": stored}, "k", file)
    k = source.given.get("k", int)
    if k is None:
        raise InputError(f"{file} has the activation TopK and does not say k; give it with --set k=N")
    return k


def _site(source: Source, name: str, notes: Notes) -> str | None:
    """Return the site that ``…/LOCATION[_VERSION]/autoencoders/LAYER.pt`` names, or another path with both in it."""
    words = _words(source, name)
    location = next((known for word in words for known in _SITES if known in word), None)
    found = re.fullmatch(r"(\d+)", words[0]) or next((f for word in words if (f := re.search(r"layer[_-]?(\d+)", word))), None)
    if location is None or found is None:
        return None
    site = f"blocks.{int(found[1])}.{_SITES[location]}"
    notes.assumptions.append(f"site taken as {site}: the path says {location} and layer {int(found[1])}, the file nothing")
    return site


def _words(source: Source, name: str) -> list[str]:
    """Return the file's name without its ending, then the folders' and the repository's, outwards."""
    return [name.rsplit(".", 1)[0], *reversed(source.words[:-1] if source.file else source.words)]


def _model(source: Source, name: str, d_in: int, notes: Notes) -> str | None:
    if any(re.search(r"gpt2(?!-(?:medium|large|xl))", word, re.IGNORECASE) for word in _words(source, name)):
        notes.assumptions.append("model taken as gpt2: the path says so")
        return "gpt2"
    if d_in in _GPT2_WIDTHS:
        notes.assumptions.append(
            f"model taken as gpt2: all SAEs that OpenAI published are of it, and {d_in} is a width of its own"
        )
        return "gpt2"
    return None


def _weights(source: Source, name: str, tied: bool, file: Path) -> SAEWeights:
    """Encode f = act((x − pre_bias) Eᵀ + latent_bias); decode x̂ = f Dᵀ + pre_bias, where a tied decoder's Dᵀ is E."""
    tensors = source.tensors(name)
    bias = take(tensors, "pre_bias", file)
    return SAEWeights(
        W_enc=source.turned(take(tensors, "encoder.weight", file, ndim=(2,))),
        b_enc=take(tensors, "latent_bias", file),
        W_dec=take(tensors, _TIED, file, ndim=(2,)) if tied else source.turned(take(tensors, _DECODER, file, ndim=(2,))),
        b_dec=bias,
        b_in=bias,
    )

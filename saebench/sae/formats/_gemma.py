"""What both releases of Gemma Scope share: JumpReLU in one file of parameters, its sizes and how it was trained.

p = x W_enc + b_enc, f = max(p, 0) where p > θ, x̂ = f W_dec + b_dec [+ x A]. ``b_dec`` is not taken off the input, and nothing is
normalised: the factor of training is folded into the weights.

Source: Lieberum et al. 2024, arXiv 2408.05147, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

from saebench.errors import InputError
from saebench.sae.reading.files import header, take
from saebench.sae.reading.stored import Header
from saebench.sae.sae import SAEWeights
from saebench.sae.source import Notes, Source

CONTEXT = 1024
MATRICES = frozenset({"w_enc", "w_dec"})
_VECTORS = ("b_enc", "b_dec", "threshold")
_SKIP = "affine_skip_connection"


class Sizes(NamedTuple):
    """Widths of a file of parameters."""

    d_in: int
    d_sae: int
    d_out: int


def stored(shapes: dict[str, Header]) -> dict[str, str]:
    """Return the tensors' names in the file, by their names in lower case: the first release writes some in capitals."""
    return {key.lower(): key for key in shapes}


def sizes(source: Source, weights: str, notes: Notes) -> Sizes:
    """Return the widths that the file's header says.

    Args:
        source: The files.
        weights: The file's name.
        notes: Gets how Gemma Scope was trained, and a warning of tensors that mean nothing here.

    Raises:
        InputError: A tensor is missing, or sizes disagree.
    """
    file, shapes = source.at(weights), source.headers(weights)
    name = stored(shapes)
    d_in, d_sae = header(shapes, name.get("w_enc", "W_enc"), file, ndim=2).shape
    rows, d_out = header(shapes, name.get("w_dec", "W_dec"), file, ndim=2).shape
    if rows != d_sae:
        raise InputError(f"{file}: the encoder makes {d_sae} latents, but the decoder takes {rows}; the file is damaged")
    for key, width in zip(_VECTORS, (d_sae, d_out, d_sae), strict=True):
        found = header(shapes, name.get(key, key), file, ndim=1)
        if found.numel != width:
            raise InputError(f"{file}: {name[key]!r} has {found.numel} entries, expected {width}; the file is damaged")
    if _SKIP in name and header(shapes, name[_SKIP], file, ndim=2).shape != (d_in, d_out):
        raise InputError(f"{file}: {_SKIP} is {list(shapes[name[_SKIP]].shape)}, expected {[d_in, d_out]}; the file is damaged")
    notes.left_out(weights, (key for lower, key in name.items() if lower not in (*MATRICES, *_VECTORS, _SKIP)))
    notes.assumptions.append(
        f"trained on contexts of {CONTEXT} tokens with BOS in front, as all of Gemma Scope; its files do not say"
    )
    return Sizes(d_in, d_sae, d_out)


def load(source: Source, weights: str) -> SAEWeights:
    """Return the tensors; they are stored as this project has them, encoder ``[D, S]`` and decoder ``[S, O]``."""
    file, tensors = source.at(weights), source.tensors(weights)
    one = {key.lower(): take(tensors, key, file) for key in tensors}
    return SAEWeights(
        W_enc=one["w_enc"], b_enc=one["b_enc"], W_dec=one["w_dec"], b_dec=one["b_dec"], threshold=one["threshold"],
        W_skip=one.get(_SKIP),
    )  # fmt: skip

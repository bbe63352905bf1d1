"""SAEs that are two ``nn.Linear`` and a ReLU: some releases publish nothing but their four tensors."""

from __future__ import annotations

from saebench.errors import InputError
from saebench.sae.formats._names import model_and_site
from saebench.sae.reading.files import header, take
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source


def two_linears(source: Source, weights: str, *, encoder: str, decoder: str, format: str, notes: Notes) -> Entry:
    """Return the SAE f = relu(x Eᵀ + e), x̂ = f Dᵀ + d of ``encoder.{weight,bias}`` and ``decoder.{weight,bias}``.

    The weights are stored as ``nn.Linear`` has them, E ``[S, D]`` and D ``[D, S]``. Nothing is taken off the input.

    Args:
        source: The files.
        weights: The file's name.
        encoder: What the encoder's tensors start with.
        decoder: What the decoder's tensors start with.
        format: Name of the format.
        notes: What is known of it; model and site are looked for in the path.

    Raises:
        InputError: A tensor is missing, or sizes disagree.
    """
    file, shapes = source.at(weights), source.headers(weights)
    d_sae, d_in = header(shapes, f"{encoder}.weight", file, ndim=2).shape
    decodes = header(shapes, f"{decoder}.weight", file, ndim=2).shape
    for key, width in ((f"{encoder}.bias", d_sae), (f"{decoder}.bias", d_in)):
        if header(shapes, key, file, ndim=1).shape != (width,):
            raise InputError(f"{file}: {key} has {shapes[key].numel} entries, but {encoder}.weight is {[d_sae, d_in]}")
    if decodes != (d_in, d_sae):
        raise InputError(f"{file}: {decoder}.weight is {list(decodes)}, but {encoder}.weight is {[d_sae, d_in]}")
    notes.left_out(weights, set(shapes) - {f"{one}.{kind}" for one in (encoder, decoder) for kind in ("weight", "bias")})
    model_id, site = model_and_site((*source.words, weights), notes)
    config = SAEConfig(
        activation="relu", d_in=d_in, d_out=d_in, d_sae=d_sae, architecture="standard", format=format, path=str(source.path),
        site=site, model_id=model_id, assumptions=tuple(notes.assumptions), warnings=tuple(notes.warnings),
    )  # fmt: skip

    def load() -> SAEWeights:
        tensors = source.tensors(weights)
        return SAEWeights(
            W_enc=source.turned(take(tensors, f"{encoder}.weight", file)), b_enc=take(tensors, f"{encoder}.bias", file),
            W_dec=source.turned(take(tensors, f"{decoder}.weight", file)), b_dec=take(tensors, f"{decoder}.bias", file),
        )  # fmt: skip

    return Entry(config=config, weights=load)

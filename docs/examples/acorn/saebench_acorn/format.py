"""The format: ``acorn.json`` + ``weights.npz``."""

from __future__ import annotations

from saebench.errors import InputError, did_you_mean
from saebench.sae import SAEConfig, SAEWeights
from saebench.sae.reading.files import header, n_tokens, number, take, text
from saebench.sae.source import Entry, Source

_ABOUT, _WEIGHTS = "acorn.json", "weights.npz"
_STREAMS = {"before": "hook_resid_pre", "after": "hook_resid_post"}


class Acorn:
    """acorn.json + weights.npz, as Acorn writes them.

    With s = ``act_scale``: f = TopK(ReLU((s·x − offset) upᵀ + up_bias)), x̂ = (f down + offset) / s.
    """

    looked_for = "acorn.json + weights.npz (acorn)"
    # no rank: nobody else has an acorn.json, so this format never has to give way

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights. Names first, then settings; never a tensor, never an error on files of others."""
        return _WEIGHTS if source.has(_ABOUT, _WEIGHTS) and "acorn" in source.json(_ABOUT) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read what it is from the settings and the arrays' headers; weights are read when ``load`` is called."""
        file, weights = source.at(_ABOUT), source.at(_WEIGHTS)
        about, shapes = source.json(_ABOUT), source.headers(_WEIGHTS)
        if about.get("acorn") != 1:
            raise InputError(f"{file}: version {about.get('acorn')!r} of the format is not known here; upgrade saebench-acorn")
        up, down = (header(shapes, name, weights, ndim=2) for name in ("up", "down"))
        d_sae, d_in = up.shape
        scale = about.get("act_scale")
        config = SAEConfig(
            activation="topk",
            d_in=d_in,
            d_out=down.shape[1],
            d_sae=d_sae,
            k=_k(source),
            normalisation="none" if scale is None else "constant_scale",
            norm_scale=scale,
            architecture="topk",
            format="acorn",
            path=str(source.path),
            site=_site(source),
            model_id=text(about, "model", file),
            context_length=n_tokens(about, "context", file),
        )

        def load() -> SAEWeights:
            tensors = source.tensors(_WEIGHTS)
            offset = take(tensors, "offset", weights)
            return SAEWeights(
                W_enc=source.turned(take(tensors, "up", weights, ndim=(2,))),
                b_enc=take(tensors, "up_bias", weights),
                W_dec=take(tensors, "down", weights, ndim=(2,)),
                b_dec=offset,
                b_in=offset,
            )

        return Entry(config=config, weights=load)


def _k(source: Source) -> int:
    """Return k: the file's, else what ``--set k=`` says; it is never guessed."""
    if "k" in source.json(_ABOUT):
        return number(source.json(_ABOUT), "k", source.at(_ABOUT))
    told = source.given.get("k", int)
    if told is None:
        raise InputError(f"{source.at(_ABOUT)} does not say k, as files of early versions; give it with --set k=N")
    return told


def _site(source: Source) -> str | None:
    about, file = source.json(_ABOUT), source.at(_ABOUT)
    stream = text(about, "stream", file)
    if stream is None or "layer" not in about:
        return None
    if stream not in _STREAMS:
        raise InputError(f"{file}: unknown stream {stream!r}.{did_you_mean(stream, _STREAMS)} Known: {', '.join(_STREAMS)}.")
    return f"blocks.{number(about, 'layer', file)}.{_STREAMS[stream]}"

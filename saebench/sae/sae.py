"""The one inference class: encode, decode, and undo the input normalisation, a bounded chunk of tokens at a time.

Letters: ``N`` tokens, ``n`` tokens of one chunk, ``D`` d_in, ``O`` d_out, ``S`` d_sae.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float

from saebench.errors import InputError
from saebench.sae import activations
from saebench.sae.latents import Latents
from saebench.sae.pursuit import Pursuit, matching_pursuit
from saebench.sae.reading.mapped import all_finite, slabs

Activation = Literal["relu", "topk", "signed_topk", "abstopk", "groupmax", "jumprelu", "gated", "matching_pursuit"]
Normalisation = Literal["none", "constant_scale", "unit_norm", "layer_norm"]
Residual = Literal["raw", "centred"]

_CHUNK_BYTES = 64 << 20
_DENSE_SHARE = 0.04
_LN_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What an SAE is. The first block changes its arithmetic, the rest says where it belongs."""

    activation: Activation
    d_in: int
    d_out: int
    d_sae: int
    k: int | None = None
    """Active latents per token, for topk, signed_topk, abstopk and groupmax."""
    normalisation: Normalisation = "none"
    norm_scale: float | None = None
    """The factor of ``constant_scale``."""
    pursuit: Pursuit | None = None
    """When the pursuit of ``matching_pursuit`` ends."""

    architecture: str = "standard"
    """What the field calls it: standard, topk, batchtopk, jumprelu, gated, transcoder …"""
    name: str = "sae"
    path: str = ""
    format: str = "native"
    site: str | None = None
    site_out: str | None = None
    """Where it writes, for transcoders; the site it reads if ``None``."""
    model_id: str | None = None
    residual: Residual = "raw"
    """Whether it expects the mean over D taken out of the residual stream (``center_writing_weights``)."""
    context_length: int | None = None
    prepend_bos: bool | None = None
    assumptions: tuple[str, ...] = ()
    """What the files do not say and was taken from convention, each with its reason."""
    warnings: tuple[str, ...] = ()


_ARITHMETIC = ("activation", "d_in", "d_out", "d_sae", "k", "normalisation", "norm_scale", "residual")
_OPTIONAL = ("b_in", "threshold", "b_gate", "b_mag", "r_mag", "W_skip", "rank")
_COUNTED = ("topk", "signed_topk", "abstopk", "groupmax")


@dataclass(frozen=True, kw_only=True)
class SAEWeights:
    """Tensors of an SAE, encoder in, decoder out: p = (x − b_in) W_enc + b_enc, x̂ = f W_dec + b_dec [+ x W_skip].

    They come from files, so their shapes are checked against the configuration when an :class:`SAE` is made of them.

    Args:
        W_enc: Encoder ``[D, S]``.
        b_enc: Encoder bias ``[S]``.
        W_dec: Decoder ``[S, O]``.
        b_dec: Decoder bias ``[O]``.
        b_in: What the encoder takes off its input ``[D]``; for most SAEs this is ``b_dec``.
        threshold: θ of JumpReLU ``[S]``, or one for all ``[]`` (BatchTopK and Matryoshka at inference).
        b_gate: Bias of a gated SAE's gate ``[S]``.
        b_mag: Bias of its magnitude ``[S]``.
        r_mag: Log scale of its magnitude ``[S]``.
        W_skip: Straight from input to output ``[D, O]``.
        rank: What topk multiplies pre-activations by where it compares them, not where it keeps them ``[S]``, positive.
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    b_in: torch.Tensor | None = None
    threshold: torch.Tensor | None = None
    b_gate: torch.Tensor | None = None
    b_mag: torch.Tensor | None = None
    r_mag: torch.Tensor | None = None
    W_skip: torch.Tensor | None = None
    rank: torch.Tensor | None = None

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (name, tensor) for every tensor present."""
        for name in ("W_enc", "b_enc", "W_dec", "b_dec", *_OPTIONAL):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


class Chunk(NamedTuple):
    """Some tokens, encoded and decoded."""

    latents: Latents
    recon: Float[torch.Tensor, "n O"]


class SAE:
    """A sparse autoencoder (or transcoder) for inference.

    f = activation((norm(x) − b_in) W_enc + b_enc); x̂ = norm⁻¹(f W_dec + b_dec [+ norm(x) W_skip]).

    Args:
        config: What it is.
        weights: Its tensors.

    Raises:
        InputError: Shapes disagree, a weight is NaN or infinite, or a setting that the activation needs is missing.
    """

    def __init__(self, config: SAEConfig, weights: SAEWeights) -> None:
        self.config = config
        self.weights = weights
        self.centres = False
        """Whether x − mean_D(x) takes the place of x, and the recon gets that mean back (see :meth:`that_centres`)."""
        _check(config, weights)

    @property
    def W_enc(self) -> Float[torch.Tensor, "D S"]:
        """Encoder, one column a latent."""
        return self.weights.W_enc

    @property
    def W_dec(self) -> Float[torch.Tensor, "S O"]:
        """Decoder, one row a latent."""
        return self.weights.W_dec

    @property
    def b_enc(self) -> Float[torch.Tensor, " S"]:
        """Encoder bias (for gated SAEs the gate's)."""
        return self.weights.b_enc if self.weights.b_gate is None else self.weights.b_gate

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and recon."""
        return self.weights.W_enc.dtype

    @functools.cached_property
    def sha256(self) -> str:
        """Content hash: tensors (name, dtype, shape, bytes) and the settings that change the arithmetic."""
        settings = {key: getattr(self.config, key) for key in _ARITHMETIC}
        if self.config.pursuit is not None:  # a key of its own, so that all other SAEs keep their hash
            settings["pursuit"] = asdict(self.config.pursuit)
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, tensor in self.weights.items():
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            for slab in slabs(tensor.detach()):
                digest.update(slab.cpu().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SAE:
        """Return the same SAE on another device or in another dtype; the content hash stays that of the original."""
        moved = SAEWeights(**{name: tensor.to(device=device, dtype=dtype) for name, tensor in self.weights.items()})
        other = SAE.__new__(SAE)
        other.config, other.weights, other.centres = self.config, moved, self.centres
        other.__dict__["sha256"] = self.sha256
        return other

    def with_config(self, **changes: object) -> SAE:
        """Return the same weights under a changed configuration."""
        return SAE(replace(self.config, **changes), self.weights).that_centres(self.centres)  # pyright: ignore[reportArgumentType]

    def that_centres(self, centres: bool = True) -> SAE:
        """Return the same SAE for acts of the model as it is.

        An SAE of the centred stream then takes the mean over D off by itself and adds it to the recon. The recon of a
        transcoder is left as it is: what it lacks is the mean over D of other acts, which LayerNorm does not see.

        Args:
            centres: What ``residual`` is worth depends on model and site: see :func:`saebench.stream.centring`.
        """
        other = SAE.__new__(SAE)
        vars(other).update(vars(self))
        other.centres = centres
        return other

    def run(self, acts: Float[torch.Tensor, "N D"]) -> Iterator[Chunk]:
        """Yield latents and recon of consecutive chunks; nothing of size tokens × d_sae outlives one chunk.

        Args:
            acts: Activations in the model's own space (centred, if ``residual`` is ``centred`` and ``centres`` is not set).
        """
        size = max(1, _CHUNK_BYTES // (self.dtype.itemsize * self.config.d_sae))
        for start in range(0, len(acts), size):
            yield self._chunk(acts, slice(start, start + size))

    def _chunk(self, acts: Float[torch.Tensor, "N D"], rows: slice) -> Chunk:
        with torch.inference_mode():  # no decorator: those are called when the module is imported, which needs no torch
            x, scale, shift = self._normalise(acts[rows].to(self.dtype))
            latents = self._activate(x)
            return Chunk(latents, self._undo(self._decode(latents, x), scale, shift))

    def encode(self, acts: Float[torch.Tensor, "N D"]) -> Latents:
        """Return the sparse latents of all tokens."""
        parts = [chunk.latents for chunk in self.run(acts)]
        counts = torch.cat([p.l0() for p in parts]) if parts else torch.zeros(0, dtype=torch.long)
        empty = acts.new_zeros(0)
        return Latents(
            values=torch.cat([p.values for p in parts]) if parts else empty,
            indices=torch.cat([p.indices for p in parts]) if parts else empty.long(),
            offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            d_sae=self.config.d_sae,
        )

    def pre_activations(self, acts: Float[torch.Tensor, "N D"], latents: slice) -> Float[torch.Tensor, "N s"]:
        """Return (norm(x) − b_in) W_enc + b_enc of some latents: what the activation takes (of a gated SAE, its gate).

        Args:
            acts: As :meth:`run` takes them.
            latents: Which ones, so that tokens × d_sae need not be held at once.

        Raises:
            InputError: ``matching_pursuit`` has none.
        """
        if self.config.pursuit is not None:
            raise InputError(f"{self.config.name}: matching pursuit has no pre-activations; ask for its latents")
        with torch.inference_mode():
            x, _, _ = self._normalise(acts.to(self.dtype))
            inner = x if self.weights.b_in is None else x - self.weights.b_in
            return torch.addmm(self.b_enc[latents], inner, self.W_enc[:, latents])

    def reconstruct(self, acts: Float[torch.Tensor, "N D"]) -> Float[torch.Tensor, "N O"]:
        """Return the recon of all tokens, in the model's own space."""
        parts = [chunk.recon for chunk in self.run(acts)]
        return torch.cat(parts) if parts else acts.new_zeros(0, self.config.d_out)

    def decode(self, latents: Latents, acts: Float[torch.Tensor, "N D"] | None = None) -> Float[torch.Tensor, "N O"]:
        """Return the recon of given latents.

        Args:
            latents: As ``encode`` gives them, or changed.
            acts: The activations they came from; needed where the input is normalised per token or skips to the output.

        Raises:
            InputError: ``acts`` is needed and missing.
        """
        per_token = self.config.normalisation in ("unit_norm", "layer_norm") or self.weights.W_skip is not None
        if acts is None:
            if per_token or (self.centres and not self.is_transcoder):
                what = "the centring" if self.centres else self.config.normalisation
                raise InputError(f"{self.config.name}: decode needs the acts, to undo {what}; give them as decode(latents, acts)")
            acts = self.W_enc.new_zeros(len(latents), self.config.d_in)
        x, scale, shift = self._normalise(acts.to(self.dtype))
        return self._undo(self._decode(latents, x), scale, shift)

    def contributions(
        self, acts: Float[torch.Tensor, "N D"], latents: torch.Tensor, values: Float[torch.Tensor, " N"]
    ) -> Float[torch.Tensor, "N O"]:
        """Return what one latent of each token adds to its recon, f W_dec[latent] with the input's scale undone.

        Args:
            acts: As :meth:`run` takes them.
            latents: One index a token ``[N]``.
            values: Its activation f.
        """
        _, scale, _ = self._normalise(acts.to(self.dtype))
        return self._undo(values[:, None] * self.W_dec[latents], scale, 0.0)

    def output_scale(self, acts: Float[torch.Tensor, "N D"]) -> Float[torch.Tensor, "N one"]:
        """Return what f W_dec of each token is multiplied by in its recon: the input's scale, undone."""
        x = acts.to(self.dtype)
        return self._undo(x.new_ones(len(x), 1), self._normalise(x)[1], 0.0)

    def _normalise(
        self, x: Float[torch.Tensor, "n D"]
    ) -> tuple[Float[torch.Tensor, "n D"], torch.Tensor | float, torch.Tensor | float]:
        """Return (normalised x, scale, shift), so that x = normalised · scale + shift."""
        if not self.centres:
            return self._scaled(x)
        mean = x.mean(1, keepdim=True)
        normalised, scale, shift = self._scaled(x - mean)
        return normalised, scale, shift + mean

    def _scaled(
        self, x: Float[torch.Tensor, "n D"]
    ) -> tuple[Float[torch.Tensor, "n D"], torch.Tensor | float, torch.Tensor | float]:
        kind = self.config.normalisation
        if kind == "constant_scale":
            scale = self.config.norm_scale or 1.0
            return x * scale, 1.0 / scale, 0.0
        if kind == "unit_norm":
            factor = self.config.d_in**0.5 / x.norm(dim=1, keepdim=True)
            return x * factor, 1.0 / factor, 0.0
        if kind == "layer_norm":  # as OpenAI's code: unbiased deviation, eps inside the division only
            shift = x.mean(1, keepdim=True)
            centred = x - shift
            scale = centred.std(1, keepdim=True)
            return centred / (scale + _LN_EPS), scale, shift
        return x, 1.0, 0.0

    def _undo(
        self, y: Float[torch.Tensor, "n O"], scale: torch.Tensor | float, shift: torch.Tensor | float
    ) -> Float[torch.Tensor, "n O"]:
        if (self.config.normalisation == "none" and not self.centres) or self.is_transcoder:
            return y  # a transcoder's output lives in a space of its own
        return y * scale + shift

    @property
    def is_transcoder(self) -> bool:
        """Whether it writes elsewhere than it reads."""
        return self.config.site_out not in (None, self.config.site) or self.config.d_in != self.config.d_out

    def _activate(self, x: Float[torch.Tensor, "n D"]) -> Latents:
        w, c = self.weights, self.config
        inner = x if w.b_in is None else x - w.b_in
        if c.pursuit is not None:
            return matching_pursuit(inner, w.W_dec, c.pursuit)
        if c.activation == "gated":
            assert w.b_gate is not None and w.b_mag is not None and w.r_mag is not None
            pre = inner @ w.W_enc
            return activations.gated(pre + w.b_gate, pre * w.r_mag.exp() + w.b_mag)
        pre = torch.addmm(w.b_enc, inner, w.W_enc)
        if c.activation == "relu":
            return activations.relu(pre)
        if c.activation == "jumprelu":
            assert w.threshold is not None
            return activations.jumprelu(pre, w.threshold)
        assert c.k is not None
        if w.rank is not None:
            return activations.ranked_topk(pre, w.rank, c.k)
        return _KEEP[c.activation](pre, c.k)

    def _decode(self, latents: Latents, x: Float[torch.Tensor, "n D"]) -> Float[torch.Tensor, "n O"]:
        w = self.weights
        if len(latents.values) > _DENSE_SHARE * len(latents) * latents.d_sae:
            out = latents.to_dense() @ w.W_dec
        else:
            out = torch.nn.functional.embedding_bag(
                latents.indices.long(), w.W_dec, latents.offsets, mode="sum",
                per_sample_weights=latents.values, include_last_offset=True,
            )  # fmt: skip
        out = out + w.b_dec
        return out if w.W_skip is None else out + x @ w.W_skip

    def describe(self) -> dict[str, object]:
        """Return configuration, dtype, hash and tensor shapes as plain data."""
        shapes = {name: list(tensor.shape) for name, tensor in self.weights.items()}
        about = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.config).items()}
        return about | {"dtype": str(self.dtype).removeprefix("torch."), "sha256": self.sha256, "tensors": shapes}


_KEEP = {
    "topk": activations.topk, "signed_topk": activations.signed_topk, "abstopk": activations.abstopk,
    "groupmax": activations.groupmax,
}  # fmt: skip


def _check(c: SAEConfig, w: SAEWeights) -> None:
    want: dict[str, list[tuple[int, ...]]] = {
        "W_enc": [(c.d_in, c.d_sae)], "b_enc": [(c.d_sae,)], "W_dec": [(c.d_sae, c.d_out)], "b_dec": [(c.d_out,)],
        "b_in": [(c.d_in,)], "threshold": [(), (1,), (c.d_sae,)], "b_gate": [(c.d_sae,)], "b_mag": [(c.d_sae,)],
        "r_mag": [(c.d_sae,)], "W_skip": [(c.d_in, c.d_out)], "rank": [(c.d_sae,)],
    }  # fmt: skip
    where = c.path or c.name
    for name, tensor in w.items():
        if tuple(tensor.shape) not in want[name]:
            raise InputError(
                f"{where}: {name} has shape {list(tensor.shape)}, expected {list(want[name][-1])}; "
                "the file is damaged or of another format"
            )
        if not all_finite(tensor):
            raise InputError(f"{where}: {name} holds NaN or infinite values; the SAE's training or its file is broken")
    if c.activation in _COUNTED and not (c.k and 0 < c.k <= c.d_sae):
        raise InputError(f"{where}: {c.activation} needs k between 1 and d_sae={c.d_sae}, got {c.k}")
    if (c.activation == "matching_pursuit") != (c.pursuit is not None) or (c.pursuit is not None and c.d_in != c.d_out):
        raise InputError(f"{where}: matching_pursuit, and nothing else, needs pursuit, and a decoder as wide as its input")
    if c.activation == "groupmax" and c.d_sae % (c.k or 1):
        raise InputError(f"{where}: groupmax needs k to divide d_sae={c.d_sae}, got k={c.k}")
    if w.rank is not None and (c.activation != "topk" or not bool((w.rank > 0).all())):
        raise InputError(f"{where}: rank is for topk and must be positive")
    if c.activation == "jumprelu" and w.threshold is None:
        raise InputError(f"{where}: jumprelu needs a threshold tensor, and there is none")
    if c.activation == "gated" and (w.b_gate is None or w.b_mag is None or w.r_mag is None):
        raise InputError(f"{where}: a gated SAE needs b_gate, b_mag and r_mag")
    if c.normalisation == "constant_scale" and not (c.norm_scale and c.norm_scale > 0):
        raise InputError(f"{where}: constant_scale needs a positive norm_scale, got {c.norm_scale}")

"""Qwen-Scope: one torch file a layer, ``layer5.sae.pt``; how many latents are kept stands in the repository's name alone."""

from __future__ import annotations

import re

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._names import find_name
from saebench.sae.reading.files import header, take
from saebench.sae.sae import SAEConfig, SAEWeights
from saebench.sae.source import Entry, Notes, Source

_FILE = r"layer(\d+)\.sae\.pt"
_REPO = r"SAE-Res-(.+)-W(\d+)K-L0_(\d+)(?!\d)"
_MATRICES = frozenset({"W_enc", "W_dec"})


@FORMATS.register("qwen_scope")
class QwenScope:
    """layer<n>.sae.pt with W_enc, W_dec, b_enc and b_dec, as Qwen-Scope was published."""

    looked_for = "layer<n>.sae.pt with W_enc and W_dec (Qwen-Scope)"
    rank = 12
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is the only one of this name and has tensors of these names."""
        file = source.only(_FILE)
        if file is None:
            return None
        keys = source.keys(file)
        return file if not keys or keys & _MATRICES else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes; k and the model come from a name such as ``SAE-Res-Qwen3-8B-Base-W64K-L0_50``, the site from the file's.

        p = x W_encᵀ + b_enc, f = max(p, 0) of the k largest, x̂ = f W_decᵀ + b_dec; the matrices are stored as ``nn.Linear`` has
        them, ``[S, D]`` and ``[D, S]``, and b_dec is not taken off the input.

        Raises:
            InputError: A tensor is missing, sizes disagree with each other or with the name, or nothing says k.
        """
        weights = source.only(_FILE)
        if weights is None:
            raise InputError(f"{source.path} has no layer<n>.sae.pt, or several; name the one that is the SAE")
        file, shapes, notes = source.at(weights), source.headers(weights), Notes()
        d_sae, d_in = header(shapes, "W_enc", file, ndim=2).shape
        for key, want in {"W_dec": (d_in, d_sae), "b_enc": (d_sae,), "b_dec": (d_in,)}.items():
            if header(shapes, key, file, ndim=len(want)).shape != want:
                raise InputError(
                    f"{file}: {key} is {list(shapes[key].shape)}, expected {list(want)} by W_enc, {[d_sae, d_in]}, latents first"
                )
        notes.left_out(weights, set(shapes) - {"W_enc", "W_dec", "b_enc", "b_dec"})
        layer = re.fullmatch(_FILE, weights)
        assert layer is not None
        notes.assumptions.append(f"site taken from the file's name {weights!r}: the residual stream behind block {layer[1]}")
        k, model_id = _k_and_model(source, d_sae, notes)
        config = SAEConfig(
            activation="topk", d_in=d_in, d_out=d_in, d_sae=d_sae, k=k, architecture="topk", format="qwen_scope",
            path=str(source.path), site=f"blocks.{layer[1]}.hook_resid_post", model_id=model_id,
            assumptions=tuple(notes.assumptions), warnings=tuple(notes.warnings),
        )  # fmt: skip

        def load() -> SAEWeights:
            tensors = source.tensors(weights)
            return SAEWeights(
                W_enc=source.turned(take(tensors, "W_enc", file)), b_enc=take(tensors, "b_enc", file),
                W_dec=source.turned(take(tensors, "W_dec", file)), b_dec=take(tensors, "b_dec", file),
            )  # fmt: skip

        return Entry(config=config, weights=load)


def _k_and_model(source: Source, d_sae: int, notes: Notes) -> tuple[int, str | None]:
    repo = find_name(source.words, _REPO)
    if repo is None:
        k = source.given.get("k", int)
        if k is None:
            raise InputError(
                f"{source.path}: the file does not say how many latents are kept, and no name in its path does "
                "(SAE-Res-…-L0_50); say it with --set k=50"
            )
        return k, None
    if int(repo[2]) * 1024 != d_sae:
        raise InputError(
            f"{source.path} has {d_sae} latents, but the name {repo[0]!r} says {int(repo[2]) * 1024}; it is not of this release"
        )
    notes.assumptions.append(f"k = {repo[3]} and the model taken from the name {repo[0]!r}; the file does not say")
    return int(repo[3]), f"Qwen/{repo[1]}"

"""Goodfire: one torch file with ``encoder_linear`` and ``decoder_linear``; its SAEs of DeepSeek-R1 are recognised and refused."""

from __future__ import annotations

import re

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._linear import two_linears
from saebench.sae.source import Entry, Notes, Source

_LINEAR = frozenset({"encoder_linear.weight", "decoder_linear.weight"})
_TIED = frozenset({"W", "b_enc", "b_dec"})
_FILE = r"Llama-[\w.-]+-SAE-l\d+\.pth?|DeepSeek-R1-SAE-l\d+\.pt"


@FORMATS.register("goodfire")
class Goodfire:
    """A .pt or .pth file with encoder_linear.* and decoder_linear.*, as Goodfire publishes SAEs of Llama 3."""

    looked_for = "a .pt or .pth file with encoder_linear.* and decoder_linear.* (Goodfire)"
    rank = 10
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is the only torch file and has tensors of these names."""
        file = source.only(r".+\.pth?")
        if file is None:
            return None
        keys = source.keys(file)
        return file if keys & _LINEAR or keys == _TIED or (not keys and re.fullmatch(_FILE, file)) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes; model and site come from a name such as ``Llama-3.1-8B-Instruct-SAE-l19``.

        f = relu(x Eᵀ + e), x̂ = f Dᵀ + d; ``decoder_linear.bias`` is not taken off the input.

        Raises:
            InputError: A tensor is missing, sizes disagree, or it is one of the SAEs of DeepSeek-R1.
        """
        weights = source.only(r".+\.pth?")
        if weights is None:
            raise InputError(f"{source.path} has no torch file, or several; name the one that is the SAE")
        if frozenset(source.headers(weights)) == _TIED:
            raise InputError(
                f"{source.at(weights)} is an SAE of DeepSeek-R1 with tied weights, which is not supported: it keeps the largest "
                "latents of a whole batch, so what a token's latents are depends on the other tokens; its file has no threshold"
            )
        notes = Notes()
        return two_linears(source, weights, encoder="encoder_linear", decoder="decoder_linear", format="goodfire", notes=notes)

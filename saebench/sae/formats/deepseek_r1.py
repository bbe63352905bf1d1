"""qresearch's SAE of DeepSeek-R1-Distill-Llama-8B: a torch file with the four tensors of two ``nn.Linear``, and no settings."""

from __future__ import annotations

import re

from saebench.errors import InputError
from saebench.registry import FORMATS
from saebench.sae.formats._linear import two_linears
from saebench.sae.source import Entry, Notes, Source

_KEYS = frozenset({"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"})
_FILE = r"DeepSeek-R1-Distill-[\w.-]+-SAE-l\d+\.pth?"
_SETTINGS = ("config.json", "cfg.json", "config.yaml", "conf.yaml", "hyperparams.json")


@FORMATS.register("deepseek_r1")
class DeepSeekR1:
    """A .pt or .pth file with encoder.* and decoder.* and no settings beside it: qresearch's, or the like."""

    looked_for = "a .pt or .pth file with encoder.* and decoder.* of two nn.Linear, and no settings (qresearch DeepSeek-R1)"
    rank = 20
    own_files = True

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if it is called as qresearch's is, or has exactly these tensors and no settings near it."""
        file = source.only(r".+\.pth?")
        if file is None:
            return None
        keys = source.keys(file)
        if re.fullmatch(_FILE, file):
            return file if not keys or keys & _KEYS else None
        return file if keys == _KEYS and not _has_settings(source) else None

    @staticmethod
    def fits(source: Source) -> bool:
        """Return whether it has these tensors, whatever stands beside it."""
        return source.keys(source.only(r".+\.pth?")) == _KEYS

    @staticmethod
    def read(source: Source) -> Entry:
        """Read sizes; model and site come from a name such as ``DeepSeek-R1-Distill-Llama-8B-SAE-l19``.

        f = relu(x Eᵀ + e), x̂ = f Dᵀ + d; ``decoder.bias`` is not taken off the input.

        Raises:
            InputError: A tensor is missing, or sizes disagree.
        """
        weights = source.only(r".+\.pth?")
        if weights is None:
            raise InputError(f"{source.path} has no torch file, or several; name the one that is the SAE")
        notes = Notes()
        notes.assumptions.append(
            "a ReLU and no shift of the input: the file has no settings, and in all known files with these four tensors and none "
            "(qresearch's of DeepSeek-R1, AutoEncoderNew of dictionary_learning) it is so"
        )
        return two_linears(source, weights, encoder="encoder", decoder="decoder", format="deepseek_r1", notes=notes)


def _has_settings(source: Source) -> bool:
    return source.has("config.json") or any(
        (folder / name).is_file() for folder in (source.folder, source.folder.parent) for name in _SETTINGS
    )

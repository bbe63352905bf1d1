"""OpenMOSS Language-Model-SAEs of 2025 (Llama Scope R1 Distill): ``config.json`` with ``sae_type``, tensors as in version 1."""

from __future__ import annotations

from saebench.registry import FORMATS
from saebench.sae.formats._openmoss import BELOW, LINEAR, Files, keys_of, locate
from saebench.sae.formats._openmoss_scaled import read_scaled
from saebench.sae.source import Entry, Source

_SETTINGS = "config.json"


@FORMATS.register("openmoss_v2")
class OpenMossV2:
    """config.json with sae_type + sae_weights.safetensors with encoder.weight, as Language-Model-SAEs wrote them in 2025.

    Equations: :func:`saebench.sae.formats._openmoss_scaled.read_scaled`.
    """

    looked_for = "config.json with sae_type + sae_weights.safetensors with encoder.weight (openmoss_v2: Llama Scope R1 Distill)"
    rank = 7
    below = BELOW

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if settings and tensors are of this version."""
        files = settled(source)
        return files.weights if files is not None and LINEAR.W_enc in keys_of(source, files.weights) else None

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        return read_scaled(source, locate(source, _SETTINGS), _SETTINGS, LINEAR, "openmoss_v2")


def settled(source: Source) -> Files | None:
    """Return where weights and settings are, if the settings name an ``sae_type`` as those of versions 2 and 3 do."""
    files = locate(source, _SETTINGS)
    if files is None or "sae_type" not in source.json(files.settings):
        return None
    return files

"""OpenMOSS Language-Model-SAEs since late 2025 (llamascopium): ``config.json`` with ``sae_type``, tensors ``W_E``, ``W_D``."""

from __future__ import annotations

from saebench.registry import FORMATS
from saebench.sae.formats._openmoss import BELOW, LINEAR, Layout, keys_of, locate
from saebench.sae.formats._openmoss_scaled import read_scaled
from saebench.sae.formats.openmoss_v2 import settled
from saebench.sae.source import Entry, Source

_SETTINGS = "config.json"
LAYOUT = Layout("W_E", "b_E", "W_D", "b_D", linear=False, extra=("W_E_glu", "b_E_glu"))


@FORMATS.register("openmoss_v3")
class OpenMossV3:
    """config.json with sae_type + sae_weights.safetensors with W_E and W_D, as Language-Model-SAEs writes them now.

    Equations: :func:`saebench.sae.formats._openmoss_scaled.read_scaled`.
    """

    looked_for = "config.json with sae_type + sae_weights.safetensors with W_E (openmoss_v3: llamascopium)"
    rank = 7
    below = BELOW

    @staticmethod
    def detect(source: Source) -> str | None:
        """Return the file of weights, if settings and tensors are of this version; what cannot be read is taken for it too."""
        files = settled(source)
        if files is None:
            return None
        keys = keys_of(source, files.weights)
        return None if LINEAR.W_enc in keys or (source.file and LAYOUT.W_enc not in keys) else files.weights

    @staticmethod
    def read(source: Source) -> Entry:
        """Read the settings."""
        return read_scaled(source, locate(source, _SETTINGS), _SETTINGS, LAYOUT, "openmoss_v3")

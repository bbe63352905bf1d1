"""Sites: TransformerLens hook names that an SAE may read or write. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saebench.errors import InputError, did_you_mean

_KINDS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_mlp_out": "mlp_out",
    "hook_attn_out": "attn_out",
    "attn.hook_z": "z",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
    "ln1.hook_normalized": "ln1_normalized",
    "ln2.hook_normalized": "ln2_normalized",
}


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hook name taken apart."""

    name: str
    kind: str
    """One of the kinds above, e.g. ``resid_pre``."""
    layer: int

    @classmethod
    def parse(cls, name: str) -> Site:
        """Return the site called ``name``, e.g. ``blocks.3.hook_resid_pre``.

        Raises:
            InputError: Not the name of a site that can be spliced; the message suggests near ones.
        """
        found = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if found is None or found[2] not in _KINDS:
            layer = found[1] if found else "0"
            known = [f"blocks.{layer}.{tail}" for tail in _KINDS]
            hint = did_you_mean(name, known) or f" Sites look like {known[0]}."
            raise InputError(f"unknown site {name!r}.{hint} Known in each block: {', '.join(_KINDS)}.")
        return cls(name=name, kind=_KINDS[found[2]], layer=int(found[1]))

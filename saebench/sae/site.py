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
    "mlp.hook_in": "mlp_module_in",
    "mlp.hook_out": "mlp_module_out",
    "attn.hook_out": "attn_module_out",
    "attn.hook_z": "z",
    "mlp.hook_pre": "mlp_pre",
    "mlp.hook_post": "mlp_post",
    "ln1.hook_normalized": "ln1_normalized",
    "ln2.hook_normalized": "ln2_normalized",
}
"""``mlp.hook_in`` is what the MLP module is given, behind the norm's weight and bias; ``lnN.hook_normalized`` stands before
them. ``mlp.hook_out`` and ``attn.hook_out`` are what the modules give back: ``hook_mlp_out`` and ``hook_attn_out`` too, except
where the family has another norm behind them (Gemma 2 and 3)."""
_WRITTEN = ("resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out", "mlp_module_out", "attn_module_out")


@dataclass(frozen=True, kw_only=True)
class Site:
    """A hook name taken apart."""

    name: str
    kind: str
    """One of the kinds above, e.g. ``resid_pre``."""
    layer: int

    @property
    def written_to_stream(self) -> bool:
        """Whether it is the residual stream or a term of it: what ``center_writing_weights`` takes the mean over D out of."""
        return self.kind in _WRITTEN

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


def is_known(name: str) -> bool:
    """Return whether this is the name of a site."""
    try:
        Site.parse(name)
    except InputError:
        return False
    return True


def may_be_in_stream(site: str | None, site_out: str | None = None) -> bool:
    """Return whether centring matters there, or may, because nothing says yet which site is read."""
    return site is None or in_stream(site, site_out)


def in_stream(*names: str | None) -> bool:
    """Return whether one of these is a known site of the residual stream or of a term of it, so that centring matters there."""
    return any(name is not None and is_known(name) and Site.parse(name).written_to_stream for name in names)

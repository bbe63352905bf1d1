"""Which sites a module of a Hugging Face model is given and gives back: libraries that hook modules name SAEs by them."""

from __future__ import annotations

import re
from typing import NamedTuple

from saebench.errors import InputError
from saebench.sae.site import Site
from saebench.sae.source import Source

_BLOCK = re.compile(r"(?:\w+\.)*?(?:layers|h)\.(\d+)(?:\.(\w+))?")
_OLD_BLOCK = re.compile(r"layer_(\d+)(?:\.(\w+))?")
_ATTENTION = ("self_attn", "attention", "attn")
_TWO_NORMS = re.compile(r"gemma[-_]?[23](?![a-z0-9])", re.IGNORECASE)
_PLAIN_EMBEDDING = re.compile(r"llama|smollm|qwen|mistral", re.IGNORECASE)


class Module(NamedTuple):
    """The sites of one module, each ``None`` where no site has it."""

    given: str | None
    """What it is given."""
    back: str | None
    """What it gives back."""
    why: str
    """What the choice of ``back`` rests on, where it is not the usual one; else empty."""

    @property
    def across(self) -> tuple[str, str] | None:
        """(read, written) of a transcoder that predicts what the module gives back from what it is given."""
        if self.given is None or self.back is None:
            return None
        inner = self.given.endswith("mlp.hook_in")
        return self.given, self.given.removesuffix("hook_in") + "hook_out" if inner else self.back


def module_sites(name: str, model_id: str | None) -> Module | None:
    """Return the sites of the module called ``name``, ``None`` if it is no block, MLP, attention or embedding that is known.

    ``layers.N`` gives back ``hook_resid_post``; its ``.mlp`` and ``.self_attn``, ``.attention`` or ``.attn`` give back
    ``hook_mlp_out`` and ``hook_attn_out``, or ``mlp.hook_out`` and ``attn.hook_out`` in Gemma 2 and 3, where another norm comes
    between the module and the residual stream. An embedding gives back what the first block reads where positions are rotated
    into queries and keys and nothing is scaled: in GPT-NeoX (``embed_in``), Llama, SmolLM, Qwen and Mistral.

    Args:
        name: Its path in the model or in the model's base, e.g. ``model.layers.3.mlp``; or ``layer_3``.
        model_id: The model, where it is known.
    """
    last = name.rpartition(".")[2]
    if last == "embed_in" or (last == "embed_tokens" and _PLAIN_EMBEDDING.search(model_id or "")):
        return Module(None, "blocks.0.hook_resid_pre", "the first block reads the embedding as it is")
    found = _BLOCK.fullmatch(name) or _OLD_BLOCK.fullmatch(name)
    if found is None:
        return None
    block, part = f"blocks.{found[1]}", found[2] or ""
    if not part:
        return Module(f"{block}.hook_resid_pre", f"{block}.hook_resid_post", "")
    two_norms = _TWO_NORMS.search(model_id or "") is not None
    why = f"{model_id} has another norm behind it" if two_norms else ""
    if part == "mlp":
        return Module(f"{block}.mlp.hook_in", f"{block}.mlp.hook_out" if two_norms else f"{block}.hook_mlp_out", why)
    if part in _ATTENTION:
        return Module(None, f"{block}.attn.hook_out" if two_norms else f"{block}.hook_attn_out", why)
    return None


def transcodes_to(site_out: str | None, source: Source) -> str:
    """Return where a transcoder writes: as its files say, else as the user does.

    Raises:
        InputError: Nobody says it, and its recon would be compared with what it reads; or the user gave a name that is no site.
    """
    if site_out is not None:
        return site_out
    told = source.given.get("site_out")
    if told is None:
        raise InputError(f"{source.path} is a transcoder and nothing says where it writes; give it with --set site_out=HOOK")
    return Site.parse(told).name

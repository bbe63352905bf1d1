"""What names of repositories, folders and files say of an SAE: releases put into names what their files leave out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saebench.sae.source import Notes

_OWNERS = {"DeepSeek-R1-Distill-": "deepseek-ai", "Llama-": "meta-llama"}
"""Who publishes the models that names of the kind ``MODEL-SAE-l19`` speak of, by how the model's name starts."""


def find_name(words: Sequence[str], pattern: str) -> re.Match[str] | None:
    """Return where a regular expression is found: in the file's name, else in the folder's, and so on outwards.

    Args:
        words: As ``Source.words`` gives them, the innermost last.
        pattern: It may match a part of a name; ``match.string`` is the whole name.
    """
    return next((found for word in reversed(words) if (found := re.search(pattern, word))), None)


def model_and_site(words: Sequence[str], notes: Notes) -> tuple[str | None, str | None]:
    """Return (model, site) of a name such as ``Llama-3.1-8B-Instruct-SAE-l19``: the residual stream behind block 19.

    Args:
        words: As ``Source.words`` gives them, and the file's name.
        notes: Gets a line on what was taken from the name.
    """
    found = find_name(words, r"([\w.-]+)-SAE-l(\d+)(?!\d)")
    if found is None:
        return None, None
    site = f"blocks.{found[2]}.hook_resid_post"
    owner = next((owner for start, owner in _OWNERS.items() if found[1].startswith(start)), None)
    what = "site" if owner is None else "model and site"
    notes.assumptions.append(f"{what} taken from the name {found[0]!r}: the residual stream behind block {found[2]}")
    return (None if owner is None else f"{owner}/{found[1]}"), site

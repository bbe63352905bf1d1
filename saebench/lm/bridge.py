"""The TransformerBridge over a loaded model: TransformerLens' names for the places inside a block."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from typing import Any

from saebench.errors import InputError, first_line


def make_bridge(hf: Any, tokenizer: Any, *, name: str, source: str) -> Any:
    """Return a ``TransformerBridge`` that shares every weight with ``hf`` and leaves its modules alone.

    The bridge rewires the modules it is given and forces eager attention, so it gets a copy of the module tree; parameters
    and buffers are shared, not copied.

    Args:
        hf: The Hugging Face causal language model.
        tokenizer: Its tokenizer.
        name: The model as the user named it, for messages.
        source: Hub id or folder by which TransformerLens finds the architecture.

    Raises:
        InputError: TransformerLens has no adapter for this architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge

    shared = {id(t): t for t in (*hf.parameters(), *hf.buffers())}
    twin = copy.deepcopy(hf, memo=shared)
    twin.config = copy.deepcopy(hf.config)
    weight = next(hf.parameters())
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("transformer_lens").setLevel(logging.ERROR)
            return TransformerBridge.boot_transformers(
                source, hf_model=twin, tokenizer=tokenizer, device=str(weight.device), dtype=weight.dtype
            )
    except Exception as error:  # the adapter raises many kinds
        raise InputError(
            f"TransformerLens cannot bridge {name} ({first_line(error)}); only hook_resid_pre and hook_resid_post work for it"
        ) from error

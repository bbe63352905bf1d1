"""The TransformerBridge over a loaded model: TransformerLens' names for the places inside a block."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

from saebench.errors import InputError

if TYPE_CHECKING:
    from saebench.lm.model import LanguageModel


def make_bridge(model: LanguageModel) -> Any:
    """Return a ``TransformerBridge`` that shares every weight with ``model`` and leaves its modules alone.

    The bridge rewires the modules it is given and forces eager attention, so it gets a copy of the module tree; parameters
    and buffers are shared, not copied.

    Raises:
        InputError: TransformerLens has no adapter for this architecture.
    """
    from transformer_lens.model_bridge import TransformerBridge

    shared = {id(t): t for t in (*model.hf.parameters(), *model.hf.buffers())}
    twin = copy.deepcopy(model.hf, memo=shared)
    twin.config = copy.deepcopy(model.hf.config)
    source = model.id if model.sha256 else model.hf.config._name_or_path or model.id
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            logging.getLogger("transformer_lens").setLevel(logging.ERROR)
            return TransformerBridge.boot_transformers(
                source, hf_model=twin, tokenizer=model.tokenizer, device=str(model.device), dtype=model.dtype
            )
    except Exception as error:  # the adapter raises many kinds
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"TransformerLens cannot bridge {model.id} ({first}); only hook_resid_pre and hook_resid_post sites work for it"
        ) from error

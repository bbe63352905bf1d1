"""The residual stream in front of a site at some positions only: what the last block before it does elsewhere is left out.

Of the last block that runs, keys and values are needed at every position, since they are looked at, and all else where the site
is read. :mod:`saebench.lm.positions` does the same at the other end of the model, and says when it can be done.

Letters: ``B`` rows, ``L`` positions, ``P`` positions that are asked for, ``M`` d_model.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.lm.port import Port
from saebench.lm.positions import attending

_TOLERANCE = 1e-3


class _Seen(Exception):
    """Raised in the last block's attention, when it has been given what is wanted."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


@torch.inference_mode()
def stream_at(
    port: Port,
    tokens: Int[Tensor, "B L"],
    at: Int[Tensor, "B P"],
    position: Int[Tensor, "B P"],
    sees: Bool[Tensor, "B P L"],
    rows: contextlib.AbstractContextManager[None],
) -> Float[Tensor, "B P M"] | None:
    """Return the residual stream that enters block ``port.layer`` at the wanted positions.

    Args:
        port: A site for which :func:`gives_ends` says yes.
        tokens: Token ids.
        at: The wanted positions of each row.
        position: Where each of them stands in its own text.
        sees: Which positions of its row each of them sees.
        rows: Lets forwards run on these rows (:func:`saebench.lm.branches.seeing`), if they are not plain texts.

    Returns:
        ``None`` if the attention is of another kind.
    """
    stack, last = port.stack, port.layer - 1
    own = set(stack.blocks[last].modules())
    enters: list[Tensor] = []

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        enters.append(args[0] if args else kwargs["hidden_states"])

    def stop(attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if module in own:
            raise _Seen(key, value)
        return attend(module, query, key, value, *args, **kwargs)

    seen: _Seen | None = None
    handle = stack.blocks[last].register_forward_pre_hook(note, with_kwargs=True)
    try:
        with rows, attending(stop):
            stack.prefix(tokens, port.layer)
    except _Seen as found:
        seen = found
    finally:
        handle.remove()
    if seen is None:
        return None
    keys, values = seen.keys, seen.values

    def look_back(
        attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if module not in own:
            return attend(module, query, key, value, mask, *args, **kwargs)
        return attend(module, query, keys, values, sees[:, None], *args, **kwargs)

    def place(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None, "position_ids": position}

    stream = enters[0].gather(1, at[..., None].expand(-1, -1, enters[0].shape[2]))
    handle = stack.base.register_forward_pre_hook(place, with_kwargs=True)
    try:
        with attending(look_back):
            return stack.advance(tokens.gather(1, at), stream, last, port.layer)
    finally:
        handle.remove()


@torch.inference_mode()
def gives_ends(port: Port, length: int) -> bool:
    """Return whether :func:`stream_at` gives for this site what a whole forward gives; it is tried.

    Sites inside a block run through TransformerLens' own attention, and whole; so does a model whose attention has a window
    shorter than the texts.

    Args:
        port: The site.
        length: Positions of the longest text.
    """
    model = port.model
    window = getattr(model.config, "sliding_window", None)
    if port.needs_bridge or port.stack is not model.stack or port.layer < 1 or (window is not None and length > window):
        return False
    tokens = torch.arange(length, device=model.device).remainder(model.d_vocab)[None]
    at = torch.tensor([sorted({0, length // 2, length - 1})], device=model.device)
    sees = torch.arange(length, device=model.device) <= at[..., None]
    try:
        found = stream_at(port, tokens, at, at, sees, contextlib.nullcontext())
    except Exception:  # whatever a model that is put together otherwise raises
        return False
    if found is None:
        return False
    whole = port.clean(tokens, final=False).acts[:, at[0]].float()
    room = _TOLERANCE * (1 if model.dtype == torch.float32 else 30) * max(1.0, whole.abs().max().item())
    return found.shape == whole.shape and (found.float() - whole).abs().max().item() <= room

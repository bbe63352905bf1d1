"""Several continuations of one text in one forward: the text once, then the continuations side by side.

Ten candidates for a blank share everything before it. A row holds that trunk once and each continuation (branch) after it; an
attention mask lets a branch see the trunk and itself, and its positions go on from the trunk's end. The numbers are those of
one forward per continuation, for a fraction of the work. Models that take no such mask are found by trying.

Letters: ``B`` rows, ``L`` positions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.lm.port import Port

PADDING, TRUNK = -1, 0
"""Values of ``branch`` besides 1, 2, …, the branches."""
_TOLERANCE = 1e-3


def branch_mask(branch: Int[Tensor, "B L"], dtype: torch.dtype) -> Float[Tensor, "B one L L"]:
    """Return what is added to attention scores: 0 where a position sees another, the lowest number elsewhere.

    A position sees itself, and of what stands before it in the row the trunk and its own branch.

    Args:
        branch: 0 in the trunk, 1, 2, … in the branches, −1 on padding.
        dtype: The model's.
    """
    length = branch.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    of, to = branch[:, :, None], branch[:, None, :]
    sees = before & ((to == TRUNK) | (to == of)) & (to != PADDING)
    sees |= torch.eye(length, dtype=torch.bool, device=branch.device)
    mask = torch.zeros(sees.shape, dtype=dtype, device=branch.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


@contextlib.contextmanager
def branched(port: Port, branch: Int[Tensor, "B L"], position: Int[Tensor, "B L"]) -> Iterator[None]:
    """Let every forward of ``port`` inside the block run on rows with branches.

    Args:
        port: The site.
        branch: As :func:`branch_mask` takes it.
        position: Position of each token in its own text.
    """
    with seeing(port, branch_mask(branch, port.model.dtype), position):
        yield


@contextlib.contextmanager
def seeing(port: Port, mask: Float[Tensor, "B one L L"] | None, position: Int[Tensor, "B L"]) -> Iterator[None]:
    """Let every forward of ``port`` inside the block attend by ``mask``, with the given positions.

    Args:
        port: The site.
        mask: What is added to attention scores: 0 where a position sees another, the lowest number elsewhere. ``None`` if
            attention is done by somebody who needs none: no mask is made then.
        position: Position of each token in its own text.
    """
    # transformers hands on a mask of four dimensions as it is
    given = torch.zeros(1, 1, 1, 1, dtype=port.model.dtype, device=position.device) if mask is None else mask

    def give(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": given, "position_ids": position}

    handle = port.stack.base.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def takes_branches(port: Port, alone: int, together: int) -> bool:
    """Return whether ``port`` gives for rows with branches what it gives for each text by itself.

    It is tried: a trunk and branches of two tokens, as long as the texts that are to come, once in one row and the last branch
    once more by itself. A model whose attention has a shorter window than the texts does not take them: in a row, what stands
    between a branch and its trunk would count.

    Args:
        port: The site.
        alone: Positions of the longest text.
        together: Positions of the longest row, at least ``alone``.
    """
    model = port.model
    window = getattr(model.config, "sliding_window", None)
    if alone < 3 or (window is not None and alone > window):
        return False
    n_branches = max(2, (together - alone) // 2 + 1)
    trunk = alone - 2
    tokens = torch.arange(trunk + 2 * n_branches, device=model.device).remainder(model.d_vocab)[None]
    numbers = torch.arange(1, n_branches + 1, device=model.device).repeat_interleave(2)
    branch = torch.cat([numbers.new_full((trunk,), TRUNK), numbers])[None]
    position = torch.cat([torch.arange(trunk), torch.tensor([trunk, trunk + 1]).repeat(n_branches)])[None].to(model.device)
    try:
        with branched(port, branch, position):
            row = port.clean(tokens).final
    except Exception:  # whatever a model that knows no such mask raises
        return False
    own = (branch[0] == TRUNK) | (branch[0] == n_branches)
    text = port.clean(tokens[:, own]).final
    assert row is not None and text is not None
    gap = (row[:, own].float() - text.float()).abs().max().item()
    return gap <= _TOLERANCE * (1 if model.dtype == torch.float32 else 30) * max(1.0, text.float().abs().max().item())

"""A tree of texts in one forward, every token of it once, wherever the texts branch.

What a block does to a token by itself (norms, projections, MLP) does not care what stands beside it, so the tree is laid out
flat, one place a token, without padding and without repeating a beginning. Attention alone needs to know which places a token
sees: it is done text by text, the places of a text's own tokens looking at those of the whole text, texts of about one length
together. Of the last block before the site only keys and values are made everywhere, the rest at the ends, which are all that
is asked for. The numbers are those of one forward a text.

It needs a model whose attention is torch's ``scaled_dot_product_attention`` by way of transformers' table of attention
functions, and which takes positions as they are given; :func:`runs_flat` tries it.

Letters: ``N`` places, ``T`` texts, ``R`` texts that go together, ``L`` their tokens, ``P`` those that look, ``M`` d_model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.lm.branches import seeing
from saebench.lm.narrow_heads import LENGTH, WIDTH, attend_narrow
from saebench.lm.port import Port
from saebench.lm.positions import Seen, attending
from saebench.lm.token_tree import Tree, grow

_TOLERANCE = 1e-3
_GATHERED, _GATHERED_GPU = 1 << 20, 1 << 24
"""Numbers of keys that are laid out at once."""
_COARSE = 16
"""Size above which texts are padded to sizes that lie nearer to each other."""


class _Group(NamedTuple):
    """Texts whose attention is done at once."""

    looks: Int[Tensor, "P R"]
    """Places that look; of texts with fewer, what comes behind them is padding."""
    keys: Int[Tensor, "L R"]
    """Places of the text; of shorter ones, what comes behind them is padding."""
    sees: Bool[Tensor, "P L same"]
    """Once for all of them if they are alike."""
    real: Int[Tensor, " W"]
    """Which of ``looks``, flat, are no padding."""
    places: Int[Tensor, " W"]
    """And the places they are."""


@torch.inference_mode()
def stream_at_ends(port: Port, tree: Tree) -> Float[Tensor, "T M"] | None:
    """Return the residual stream that enters block ``port.layer`` at the last token of every text: what a forward of it gives.

    Args:
        port: A site for which :func:`runs_flat` says yes; of another, the numbers may be wrong, or its model raises what it will.
        tree: The texts.

    Returns:
        A row a text, in their order in the tree, in the model's dtype. ``None`` if the attention is of another kind.

    Source: attention of a tree's tokens to those above them is that of Miao et al. 2024 (SpecInfer), section 4.
    """
    stack, last, device = port.stack, port.layer - 1, port.model.device
    tokens, depth = (torch.from_numpy(part)[None].to(device) for part in (tree.tokens, tree.depth))
    ends = torch.from_numpy(tree.ends).to(device)
    if last < 0:
        with seeing(port, None, depth):
            return stack.prefix(tokens, 0)[0, ends]
    own = set(stack.blocks[last].modules())
    groups = list(_groups(tree, tree.shared, port.model.d_model, device)) if last > 0 else []
    enters: list[Tensor] = []
    seen: Seen | None = None

    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        enters.append(args[0] if args else kwargs["hidden_states"])

    def by_text(attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Any, **kwargs: Any) -> Any:
        if module in own:
            raise Seen(key, value)
        return _attend(attend, module, query, key, value, groups, **kwargs)

    handle = stack.blocks[last].register_forward_pre_hook(note, with_kwargs=True)
    try:
        with seeing(port, None, depth), attending(by_text):
            stack.prefix(tokens, port.layer)
    except Seen as found:
        seen = found
    finally:
        handle.remove()
    if seen is None:
        return None
    keys, values = seen.keys, seen.values
    of_ends = list(_groups(tree, tree.length - 1, port.model.d_model, device))
    rank = torch.empty_like(tokens[0])
    rank[ends] = torch.arange(len(ends), device=device)
    of_ends = [group._replace(looks=rank[group.looks], places=rank[group.places]) for group in of_ends]

    def at_ends(attend: Any, module: nn.Module, query: Tensor, _key: Tensor, _value: Tensor, _mask: Any, **kwargs: Any) -> Any:
        return _attend(attend, module, query, keys, values, of_ends, **kwargs)

    with seeing(port, None, depth[:, ends]), attending(at_ends):
        return stack.advance(tokens[:, ends], enters[0][:, ends], last, port.layer)[0]


@torch.inference_mode()
def runs_flat(port: Port, longest: int) -> bool:
    """Return whether :func:`stream_at_ends` gives for this site what a forward a text gives; it is tried.

    It is not for sites inside a block, which run through TransformerLens' own attention, nor for models with an attention window
    shorter than the texts, in which a token does not see all that is before it.

    Args:
        port: The site.
        longest: Tokens of the longest text that is to come.
    """
    model = port.model
    window = getattr(model.config, "sliding_window", None)
    if port.needs_bridge or port.stack is not model.stack or longest < 3 or (window is not None and longest > window):
        return False
    # one text, its beginning, one that leaves it halfway and ends there, and one of a single token more than they share
    whole = tuple(i % model.d_vocab for i in range(longest))
    half, other = whole[: longest // 2], whole[0]
    texts = list(dict.fromkeys([whole, whole[:2], (*half, other, other), (*half[:-1], other)]))
    ((numbers, tree),) = grow(texts, 4 * longest)
    try:
        found = stream_at_ends(port, tree)
    except Exception:  # whatever a model that is put together otherwise raises
        return False
    if found is None:
        return False
    asked = (torch.tensor([texts[i]], device=model.device) for i in numbers)
    alone = torch.cat([port.clean(text, final=False).acts[:, -1] for text in asked]).float()
    room = _TOLERANCE * (1 if model.dtype == torch.float32 else 30) * max(1.0, alone.abs().max().item())
    return found.shape == alone.shape and (found.float() - alone).abs().max().item() <= room


def _groups(tree: Tree, first: Int[np.ndarray, " T"], width: int, device: torch.device) -> Iterator[_Group]:
    """Yield groups of texts in which the tokens from ``first`` on look."""
    size = _padded(tree.length) * (1 << 32) + _padded(tree.length - first)
    order = np.argsort(size, kind="stable")
    for some in np.split(order, 1 + np.flatnonzero(np.diff(size[order]))):
        n_keys = int(tree.length[some].max())
        at_once = max(1, (_GATHERED if device.type == "cpu" else _GATHERED_GPU) // (n_keys * width))
        for start in range(0, len(some), at_once):
            yield _group(tree, some[start : start + at_once], first, device)


def _group(tree: Tree, some: Int[np.ndarray, " R"], first: Int[np.ndarray, " T"], device: torch.device) -> _Group:
    length, first = tree.length[some], first[some]
    column = np.arange(int(length.max()))[:, None]
    keys = np.ascontiguousarray(tree.path[some, : len(column)].T)
    column_of = first + np.arange(int((length - first).max()))[:, None]
    flat = np.flatnonzero(column_of < length)
    column_of = np.minimum(column_of, length - 1)
    looks = np.take_along_axis(keys, column_of, 0)
    same = bool((first == first[0]).all() and (length == length[0]).all())
    sees = column <= column_of[:, None, : 1 if same else None]
    return _Group(*(torch.from_numpy(array).to(device) for array in (looks, keys, sees, flat, looks.ravel()[flat])))


def _padded(size: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """Return sizes rounded up to one of a few: powers of two up to ``_COARSE``, then four a doubling."""
    power = 2 ** np.ceil(np.log2(np.maximum(size, 1))).astype(np.int64)
    return np.where(size <= _COARSE, power, -(-size * 8 // power) * power // 8)


def _attend(
    attend: Any, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, groups: list[_Group], **kwargs: Any
) -> Any:
    """Attend text by text.

    Args:
        attend: Torch's attention as transformers calls it: ``[B, heads, L, width]`` in, ``[B, L, heads, width]`` out.
        module: Asks for it.
        query: ``[1, heads, …, width]`` of all places that look.
        key: ``[1, heads, N, width]``; of grouped heads, fewer.
        value: As ``key``.
        groups: Who looks at what.
        kwargs: Handed on.
    """
    out = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
    narrow = [group for group in groups if len(group.keys) <= LENGTH] if _are_narrow(query, key, value) else []
    if narrow:
        _attend_narrow(query, key, value, narrow, out, kwargs.get("scaling"))
        groups = [group for group in groups if len(group.keys) > LENGTH]
    if groups:
        q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
        for group in groups:
            parts = (part[index.T].transpose(1, 2) for part, index in ((q, group.looks), (k, group.keys), (v, group.keys)))
            found = attend(module, *parts, group.sees.permute(2, 0, 1).contiguous()[:, None], **kwargs)[0]
            out[group.places] = found.transpose(0, 1).flatten(0, 1)[group.real]
    return out[None], None


def _are_narrow(query: Tensor, key: Tensor, value: Tensor) -> bool:
    return (
        query.device.type == "cpu" and query.dtype == torch.float32 and max(query.shape[3], key.shape[3], value.shape[3]) <= WIDTH
    )


def _attend_narrow(query: Tensor, key: Tensor, value: Tensor, groups: list[_Group], out: Tensor, scale: float | None) -> None:
    heads, width = key.shape[1], key.shape[3]
    q, k, v = (part[0].transpose(1, 2).flatten(0, 1).contiguous() for part in (query, key, value))
    flat = torch.empty_like(q)
    for group in groups:
        asked = q.index_select(1, group.looks.ravel()).view(heads, -1, width, *group.looks.shape)
        index = group.keys.ravel()
        keys, values = (part.index_select(1, index).view(heads, width, *group.keys.shape) for part in (k, v))
        found = attend_narrow(asked, keys, values, group.sees, width**-0.5 if scale is None else scale).view(len(q), -1)
        flat[:, group.places] = found if len(group.real) == found.shape[1] else found.index_select(1, group.real)
    out.copy_(flat.T.unflatten(1, (-1, width)))

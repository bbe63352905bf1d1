"""From one position on: what a change at one position does to the next few, without running what comes before it again.

A model that looks back only cannot notice behind position p what p did to those before it. So the keys and values of a forward
are kept once, and a change at p runs ``width`` positions (p, p+1, …) through the blocks behind the site, which look back at the
kept ones. Changes at different positions of different contexts stand in one batch, each seeing its own past. The numbers are
those of a whole forward for each change. Models that take no such rows are found by trying; for them each change runs the whole
context from the block that contains the site.

Letters: ``B`` contexts, ``L`` positions, ``A`` changes, ``T`` positions from the changed one on, ``P`` positions before it, ``M``
d_model, ``O`` width of the site that is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from saebench.lm.port import Clean, Port

_TOLERANCE = 1e-3
_PAST_BYTES = 256 << 20
_ADDED_LAST = ("mlp_out", "mlp_module_out")
"""Sites that a block adds to the stream as the last thing it does: a change there is the same change of what leaves the block."""
KeysValues = dict[int, tuple[Tensor, Tensor]]
"""By layer, keys and values ``[B, heads, L, d_head]``."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """A forward that changes start from."""

    clean: Clean
    target: Float[Tensor, "B L O"]
    """What stands at the site that is written."""
    stream: Float[Tensor, "B L M"] | None
    """What enters the first block that runs, where changes run from their position on; else ``None``."""
    past: KeysValues


class Onward:
    """Final-norm outputs at ``width`` positions, the first of which has something added at the site.

    Args:
        port: The site.
        length: Positions of a context.
        width: ``T``.
    """

    def __init__(self, port: Port, length: int, width: int) -> None:
        self.port, self.width = port, width
        self._layer = _enters(port)
        window = getattr(port.model.config, "sliding_window", None)
        self._window = window if window is not None and window < length else None
        self.from_position = self._layer is not None and self._works(length)
        """Whether changes run from their position on; else whole contexts do."""

    @torch.inference_mode()
    def base(
        self,
        clean: Clean,
        replacement: Float[Tensor, "B L O"] | None = None,
        where: Bool[Tensor, "B L"] | None = None,
    ) -> Base:
        """Return the forward with ``replacement`` at the site wherever ``where`` is true, or the clean one without them.

        Args:
            clean: The clean forward; its ``final`` is not needed.
            replacement: New activations.
            where: The positions to replace.
        """
        return self._base(clean, replacement, where, from_position=self.from_position)

    @torch.inference_mode()
    def finals(
        self, base: Base, row: Int[Tensor, " A"], position: Int[Tensor, " A"], change: Float[Tensor, "A O"]
    ) -> Float[Tensor, "A T M"]:
        """Return the final-norm outputs from the changed position on; a change of 0 gives those of ``base``.

        Args:
            base: Where the changes start from.
            row: Context of each change.
            position: Position of each; ``width`` positions from there on must lie in the context.
            change: What is added at the site.
        """
        if base.stream is None:
            return self._whole(base, row, position, change)
        return self._continued(base, base.stream, row, position, change)

    def at_once(self, length: int, positions: int) -> int:
        """Return how many changes :meth:`finals` may be given, so that memory stays bounded.

        Args:
            length: Positions of a context.
            positions: Positions that go through the model at once.
        """
        if not self.from_position:
            return max(1, positions // length)
        model = self.port.model
        past = 2 * length * model.d_model * model.dtype.itemsize
        return max(1, min(positions // self.width, _PAST_BYTES // past))

    def _base(self, clean: Clean, replacement: Tensor | None, where: Tensor | None, *, from_position: bool) -> Base:
        target = clean.target
        if replacement is not None and where is not None:
            target = torch.where(where[..., None], replacement.to(target.dtype), target)
        if not from_position:
            return Base(clean=clean, target=target, stream=None, past={})
        assert self._layer is not None
        port, past = self.port, _Kept(self.port.model.n_layers - 1)
        if port.write.kind in _ADDED_LAST:
            stream = port.stack.advance(clean.tokens, clean.start, port.layer, self._layer) + (target - clean.target)
        else:
            stream = target
        with contextlib.suppress(_AllKept), _given(port.model.stack.base, past_key_values=past):
            port.model.stack.suffix(clean.tokens, stream, self._layer)
        return Base(clean=clean, target=target, stream=stream, past=past.kept)

    def _continued(self, base: Base, stream: Tensor, row: Tensor, position: Tensor, change: Tensor) -> Tensor:
        stack, device = self.port.model.stack, stream.device
        assert self._layer is not None
        steps = torch.arange(self.width, device=device)
        at = position[:, None] + steps
        here = stream[row[:, None], at]
        here[:, 0] += change.to(here.dtype)
        n_before = int(position.max())
        past = _Before({i: (k[row, :, :n_before], v[row, :, :n_before]) for i, (k, v) in base.past.items()})
        place = torch.cat([torch.arange(n_before, device=device).expand(len(row), -1), at], 1)
        known = torch.cat([place[:, :n_before] < position[:, None], torch.ones_like(at, dtype=torch.bool)], 1)
        sees = known[:, None, :] & (place[:, None, :] <= at[:, :, None])
        masks: Any = _added(sees, here.dtype)
        if self._window is not None:
            near = _added(sees & (place[:, None, :] > at[:, :, None] - self._window), here.dtype)
            kinds = getattr(self.port.model.config, "layer_types", None)
            masks = {"full_attention": masks, "sliding_attention": near} if kinds else near
        with _given(stack.base, past_key_values=past, attention_mask=masks, position_ids=at):
            return stack.suffix(base.clean.tokens[row[:, None], at], here, self._layer)

    def _whole(self, base: Base, row: Tensor, position: Tensor, change: Tensor) -> Tensor:
        c, stop = base.clean, int(position.max()) + self.width
        target = base.target[row, :stop].clone()
        number = torch.arange(len(row), device=row.device)
        target[number, position] += change.to(target.dtype)
        clean = Clean(c.tokens[row, :stop], c.start[row, :stop], c.acts[row, :stop], c.target[row, :stop], None)
        final = self.port.splice(clean, target, torch.ones_like(clean.tokens, dtype=torch.bool))
        return final[number[:, None], position[:, None] + torch.arange(self.width, device=row.device)]

    @torch.inference_mode()
    def _works(self, length: int) -> bool:
        """Return whether running from the position on gives what the whole context gives: three changes are tried."""
        model, last = self.port.model, length - self.width
        if last < 0:
            return False
        tokens = torch.arange(length, device=model.device).remainder(model.d_vocab)[None]
        position = torch.tensor(sorted({0, last // 2, last}), device=model.device)
        row = torch.zeros_like(position)
        try:
            clean = self.port.clean(tokens, final=False)
            change = clean.target[row, (position + 1).remainder(length)]
            fast = self.finals(self._base(clean, None, None, from_position=True), row, position, change)
        except Exception:  # whatever a model that takes no such rows raises
            return False
        whole = self.finals(self._base(clean, None, None, from_position=False), row, position, change)
        gap = (fast.float() - whole.float()).abs().max().item()
        return gap <= _TOLERANCE * (1 if model.dtype == torch.float32 else 30) * max(1.0, whole.float().abs().max().item())


def _enters(port: Port) -> int | None:
    """Return the block whose input a change at the written site changes by the same, or ``None`` if there is none."""
    kind, layer = port.write.kind, port.write.layer
    if kind in _ADDED_LAST or kind == "resid_post":
        return layer + 1
    return layer if kind == "resid_pre" else None


class _AllKept(Exception):
    """Raised in the last block: nobody asks what it makes of its keys and values."""


class _Kept(DynamicCache):
    """Keeps the keys and values of every block that runs, and ends the forward when it has those of block ``last``."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self._last = last
        self.kept: KeysValues = {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep them."""
        self.kept[layer_idx] = key_states, value_states
        if layer_idx == self._last:
            raise _AllKept
        return key_states, value_states


class _Before(DynamicCache):
    """Puts keys and values of what stands before in front of those of every block that runs."""

    def __init__(self, past: KeysValues) -> None:
        super().__init__()
        self._past = past

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return those of the past and the new ones, and forget the past: no block asks twice."""
        keys, values = self._past.pop(layer_idx)
        return torch.cat([keys, key_states], 2), torch.cat([values, value_states], 2)


def _added(sees: Bool[Tensor, "A T K"], dtype: torch.dtype) -> Float[Tensor, "A one T K"]:
    """Return what is added to attention scores: 0 where a position sees another, the lowest number elsewhere."""
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]


@contextlib.contextmanager
def _given(base: nn.Module, **more: Any) -> Iterator[None]:
    """Let every forward of ``base`` inside the block have these arguments."""

    def give(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, **more}

    handle = base.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

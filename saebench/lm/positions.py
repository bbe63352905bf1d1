"""The final norm's output at some positions only: what the last block does elsewhere is left out.

Where a few tokens at the end of a long text are scored, the last block is needed there alone: its keys and values are made at
every position, as everybody is looked at, and its queries, its MLP and the final norm at the positions that are asked for. The
numbers are those of the whole forward. It needs to know what the last block's attention is given, which is so for the models
whose attention is torch's ``scaled_dot_product_attention`` by way of transformers' table of attention functions. The others
are found by trying, and run whole.

Letters: ``B`` rows, ``L`` positions, ``P`` positions that are asked for, ``M`` d_model, ``O`` width of the site that is written,
``Q`` predictions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.lm.branches import PADDING, TRUNK
from saebench.lm.port import Port

_TOLERANCE = 1e-3
_WAITING_BYTES = 64 << 20
_KIND = "sdpa"
_Attend = Callable[..., Any]
"""An attention function of transformers: (module, query, key, value, mask, …)."""


class Seen(Exception):
    """Raised in the last block's attention, when it has been given what is wanted."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class _Reached(NamedTuple):
    """What one pass leaves for the last block."""

    stream: Float[Tensor, "B P M"]
    """The residual stream that enters it, at the wanted positions."""
    keys: Tensor
    values: Tensor


class Finals:
    """Final-norm outputs of a batch at the positions where something is predicted, clean and spliced.

    Where the last block runs at these positions only, it does so once for all passes, or whenever what they leave for it has
    come to 64 MB: ``tell`` is told of a pass when its outputs are there, at :meth:`finish` at the latest.

    Args:
        port: The site.
        tokens: Token ids.
        branch: As :func:`saebench.lm.branches.branch_mask` takes it; without branches 0, and −1 on padding.
        position: Position of each token in its own text.
        predicted: (row, position in it) of every prediction.
        tell: Takes the number of a pass, 0 for the clean one, and its outputs ``[Q, M]``.
        few: Whether the last block may be run at these positions only: what :func:`gives_few` says.
    """

    def __init__(
        self,
        port: Port,
        tokens: Int[Tensor, "B L"],
        branch: Int[Tensor, "B L"],
        position: Int[Tensor, "B L"],
        predicted: tuple[Int[Tensor, " Q"], Int[Tensor, " Q"]],
        tell: Callable[[int, Tensor], None],
        *,
        few: bool,
    ) -> None:
        self.clean = port.clean(tokens, final=not few)
        """The clean forward, without its end where ``few`` is true."""
        self._port, self._predicted, self._tell = port, predicted, tell
        self._end: _End | None = None
        self._waiting: list[_Reached] = []
        self._told = 0
        if not few:
            assert self.clean.final is not None
            self._say(self.clean.final[predicted])
            return
        wanted = torch.zeros_like(branch, dtype=torch.bool)
        wanted[predicted] = True
        width = int(wanted.sum(1).max())
        at = torch.argsort(~wanted, dim=1, stable=True)[:, :width]  # a row that wants fewer gets some that nobody reads
        self._slot = predicted[0], (wanted.cumsum(1) - 1)[predicted]
        self._end = _End(port, tokens, at, position.gather(1, at), _sees(branch, at))
        self._keep(self.clean.start)

    def splice(self, replacement: Float[Tensor, "m O"], where: Bool[Tensor, "B L"]) -> None:
        """Run the next pass, with ``replacement`` at the site wherever ``where`` is true."""
        if self._end is None:
            whole = torch.zeros_like(self.clean.target)
            whole[where] = replacement.to(whole.dtype)
            self._say(self._port.splice(self.clean, whole, where)[self._predicted])
            return
        stream = self.clean.start.clone()
        stream[where] = replacement.to(stream.dtype)
        self._keep(stream)

    def finish(self) -> None:
        """Tell of the passes that are still waiting."""
        if self._end is not None and self._waiting:
            waiting, self._waiting = self._waiting, []
            for found in self._end.outputs(waiting):
                self._say(found[self._slot])

    def _keep(self, stream: Float[Tensor, "B L M"]) -> None:
        assert self._end is not None
        reached = self._end.reach(stream)
        if reached is None:
            raise RuntimeError("the last block's attention is not torch's own; gives_few says so before")
        self._waiting.append(reached)
        if sum(tensor.nbytes for one in self._waiting for tensor in one) > _WAITING_BYTES:
            self.finish()

    def _say(self, found: Float[Tensor, "Q M"]) -> None:
        self._tell(self._told, found)
        self._told += 1


class _End:
    """The blocks from the site on, the last of them at some positions only.

    Args:
        port: The site.
        tokens: Token ids.
        at: The wanted positions of each row.
        position: Where each of them stands in its own text.
        sees: Which positions of its row each of them sees.
    """

    def __init__(
        self,
        port: Port,
        tokens: Int[Tensor, "B L"],
        at: Int[Tensor, "B P"],
        position: Int[Tensor, "B P"],
        sees: Bool[Tensor, "B one P L"],
    ) -> None:
        self._stack, self._layer = port.stack, port.layer
        self._tokens, self._at, self._position, self._sees = tokens, at, position, sees
        self._last = len(self._stack.blocks) - 1
        self._own = set(self._stack.blocks[self._last].modules())
        self._given: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def reach(self, stream: Float[Tensor, "B L M"]) -> _Reached | None:
        """Return what is left for the last block when ``stream`` enters the first of these blocks.

        The first time the whole model is asked to run them, and what it gives each block besides the stream (masks, rotations)
        is kept; after that they are run one after the other. ``None``: the last block's attention is of another kind.
        """
        enters = [stream]

        def stop(_attend: _Attend, module: nn.Module, _query: Tensor, key: Tensor, value: Tensor, *a: Any, **k: Any) -> Any:
            if module in self._own:
                raise Seen(key, value)
            return _attend(module, _query, key, value, *a, **k)

        try:
            with attending(stop):
                if not self._given:
                    with contextlib.ExitStack() as hooks:
                        for layer in range(self._layer, self._last + 1):
                            hooks.enter_context(_hook(self._stack.blocks[layer], self._noted(layer, enters)))
                        self._stack.suffix(self._tokens, stream, self._layer)
                    return None
                for layer in range(self._layer, self._last + 1):
                    args, kwargs = self._given[layer]
                    out = self._stack.blocks[layer](enters[-1], *args, **kwargs)
                    enters.append(out[0] if isinstance(out, tuple) else out)
                return None
        except Seen as seen:
            at = self._at[..., None].expand(-1, -1, stream.shape[2])
            return _Reached(enters[-1].gather(1, at), seen.keys, seen.values)

    def _noted(self, layer: int, enters: list[Tensor]) -> Callable[..., None]:
        def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if layer > self._layer:  # what the first of them is given besides the stream does not depend on it
                enters.append(args[0] if args else kwargs["hidden_states"])
            self._given[layer] = args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}

        return note

    def outputs(self, passes: Sequence[_Reached]) -> list[Float[Tensor, "B P M"]]:
        """Return the final norm's outputs at the wanted positions, of all passes in one forward."""
        n, rows = len(passes), len(self._at)

        def look_back(
            attend: _Attend, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any
        ) -> Any:
            if module not in self._own:
                return attend(module, query, key, value, mask, **kwargs)
            parts = zip(query.split(rows), passes, strict=True)
            return torch.cat([attend(module, q, one.keys, one.values, self._sees, **kwargs)[0] for q, one in parts]), None

        def place(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "attention_mask": None, "position_ids": self._position.repeat(n, 1)}

        stream = torch.cat([one.stream for one in passes])
        with _hook(self._stack.base, place), attending(look_back):
            return list(self._stack.suffix(self._tokens.gather(1, self._at).repeat(n, 1), stream, self._last).split(rows))


@torch.inference_mode()
def gives_few(port: Port, length: int) -> bool:
    """Return whether :class:`Finals` may run the last block of this model at the wanted positions only.

    It is tried on a text as long as those that are to come. Sites inside a block run through TransformerLens' own attention,
    and whole, and so does a model whose attention has a window shorter than the texts.

    Args:
        port: The site.
        length: Positions of the longest text.
    """
    model, stack = port.model, port.stack
    window = getattr(model.config, "sliding_window", None)
    at_edge = port.read.name == port.write.name and port.write.kind in ("resid_pre", "resid_post")
    if not at_edge or stack is not model.stack or port.layer >= model.n_layers or (window is not None and length > window):
        return False
    tokens = torch.arange(length, device=model.device).remainder(model.d_vocab)[None]
    at = torch.tensor([sorted({0, length // 2, length - 1})], device=model.device)
    try:
        clean = stack.prefix(tokens, port.layer)
        streams = [clean, clean.flip(1)]
        end = _End(port, tokens, at, at, _sees(torch.zeros_like(tokens), at))
        passes = [reached for reached in map(end.reach, streams) if reached is not None]
        few = end.outputs(passes) if passes else []
    except Exception:  # whatever a model that is put together otherwise raises
        return False
    if len(few) < len(streams):
        return False
    found = torch.stack(few).float()
    whole = torch.stack([stack.suffix(tokens, stream, port.layer)[:, at[0]] for stream in streams]).float()
    room = _TOLERANCE * (1 if model.dtype == torch.float32 else 30) * max(1.0, whole.abs().max().item())
    return (found - whole).abs().max().item() <= room


def _sees(branch: Int[Tensor, "B L"], at: Int[Tensor, "B P"]) -> Bool[Tensor, "B one P L"]:
    """Return which positions of its row each of ``at`` sees: itself, and before it the trunk and its own branch."""
    place = torch.arange(branch.shape[1], device=branch.device)
    to, of = branch[:, None, :], branch.gather(1, at)[..., None]
    sees = (place <= at[..., None]) & ((to == TRUNK) | (to == of)) & (to != PADDING)
    return (sees | (place == at[..., None]))[:, None]


@contextlib.contextmanager
def attending(instead: _Attend) -> Iterator[None]:
    """Let ``instead(attend, module, query, key, value, mask, …)`` stand for torch's own attention in every model."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as table

    attend = table[_KIND]

    def ours(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return instead(attend, module, *args, **kwargs)

    table[_KIND] = ours
    try:
        yield
    finally:
        table[_KIND] = attend


@contextlib.contextmanager
def _hook(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()

"""A port: one SAE site on one model, where acts are read on the clean forward and a replacement is spliced in.

Residual-stream sites at a block's edge need no hook at all: the act *is* the state between prefix and suffix. Sites inside a
block are reached through the bridge's hook points, and run from the block that contains them.

Letters: ``B`` contexts, ``L`` positions, ``D`` width of the site, ``M`` d_model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.errors import InputError, did_you_mean
from saebench.lm.model import BlockStack, LanguageModel
from saebench.sae.site import Site


class Clean(NamedTuple):
    """What one clean forward gives. Every later splice starts from it, so acts are always read with no splice alive."""

    tokens: Int[Tensor, "B L"]
    start: Float[Tensor, "B L M"]
    """The residual stream that enters the block where the suffix starts."""
    acts: Float[Tensor, "B L D"]
    """Activations at the site the SAE reads."""
    target: Float[Tensor, "B L O"]
    """Activations at the site the SAE writes (the same tensor, unless the SAE is a transcoder)."""
    final: Float[Tensor, "B L M"] | None
    """Output of the final norm, from which the head makes logits; ``None`` if it was not asked for."""


class Port:
    """Reads and splices one site of one model.

    Args:
        model: The language model.
        site: TransformerLens name of the site that is read.
        site_out: Name of the site that is written, for transcoders; the same site if ``None``.
        through_bridge: Whether forwards run through the bridge's blocks even where the site needs no hook point, so that
            several ports can share one forward.

    Raises:
        InputError: The model lacks the site; the message suggests near ones.
    """

    def __init__(self, model: LanguageModel, site: str, site_out: str | None = None, *, through_bridge: bool = False) -> None:
        self.model = model
        self.read = Site.parse(site)
        self.write = Site.parse(site_out or site)
        for place in (self.read, self.write):
            _check_layer(model, place)
        if self.write.kind == "resid_mid" and self.read.layer != self.write.layer:
            raise InputError(f"an SAE that writes {self.write.name} must read in the same block, not {self.read.name}")
        self.layer = min(_start_layer(self.read), _start_layer(self.write))
        edges = all(place.kind in _EDGES for place in (self.read, self.write)) and site == (site_out or site)
        self._edge = edges
        self._stack = model.stack if edges and not through_bridge else _bridge_stack(model)
        self.widths: tuple[int, int] | None = None
        self._points = {} if edges else {place.name: _hook_point(model, place) for place in (self.read, self.write)}

    @property
    def stack(self) -> BlockStack:
        """The blocks that every forward of this port runs through."""
        return self._stack

    @property
    def needs_bridge(self) -> bool:
        """Whether the site lies inside a block, where only the bridge's hook points reach."""
        return not self._edge

    @property
    def carries_stream(self) -> bool:
        """Whether everything behind the site sees the earlier model through the write site alone."""
        return self.write.kind in (*_EDGES, "resid_mid")

    @torch.inference_mode()
    def clean(self, tokens: Int[Tensor, "B L"], *, final: bool = True) -> Clean:
        """Run the clean forward.

        Args:
            tokens: Token ids.
            final: Whether the final-norm output is wanted; without it nothing behind the site's block runs.
        """
        start = self._stack.prefix(tokens, self.layer)
        if self._edge:
            end = self._stack.suffix(tokens, start, self.layer) if final else None
            return Clean(tokens, start, start, start, end)
        seen: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for name, point in self._points.items():
                hooks.enter_context(_captured(point, name, seen))
            if final:
                end = self._stack.suffix(tokens, start, self.layer)
            else:
                end = None
                self._stack.blocks_between(tokens, start, self.layer, _start_layer(self.write) + 1)
        return Clean(tokens, start, *self.acts_in(seen), end)

    @contextlib.contextmanager
    def watched(self) -> Iterator[dict[str, Tensor]]:
        """Keep what passes the sites in a forward through :attr:`stack`, for :meth:`acts_in`."""
        seen: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            if self._edge:
                hooks.enter_context(self._stack.watched(self.layer, seen, self.read.name))
            for name, point in self._points.items():
                hooks.enter_context(_captured(point, name, seen))
            yield seen

    def acts_in(self, seen: Mapping[str, Tensor]) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L O"]]:
        """Return (acts read, acts written) of what was seen; raises ``InputError`` if the forward did not pass a site."""
        for name in (self.read.name, self.write.name):
            if name not in seen:
                raise InputError(f"{self.model.family} does not pass through {name}; choose another site")
        return seen[self.read.name].flatten(2), seen[self.write.name].flatten(2)

    @torch.inference_mode()
    def acts_behind(self, tokens: Int[Tensor, "B L"], start: Float[Tensor, "B L M"]) -> Float[Tensor, "B L D"]:
        """Return the acts at the site that is read, given the residual stream that enters block ``layer``.

        Args:
            tokens: Token ids.
            start: As :meth:`saebench.lm.model.BlockStack.prefix` returns it for ``layer``.
        """
        if self._edge:
            return start
        seen: dict[str, Tensor] = {}
        with _captured(self._points[self.read.name], self.read.name, seen):
            self._stack.blocks_between(tokens, start, self.layer, _start_layer(self.read) + 1)
        return seen[self.read.name].flatten(2)

    @torch.inference_mode()
    def splice(self, clean: Clean, replacement: Float[Tensor, "B L O"], where: Bool[Tensor, "B L"]) -> Float[Tensor, "B L M"]:
        """Return the final-norm output when ``replacement`` stands at the write site wherever ``where`` is true.

        Args:
            clean: The clean forward of the same tokens.
            replacement: New activations; elsewhere the clean ones stay.
            where: The positions to replace.
        """
        new = torch.where(where[..., None], replacement.to(clean.target.dtype), clean.target)
        if self._edge:
            return self._stack.suffix(clean.tokens, new, self.layer)
        kind = self.write.kind
        point = self._points[self.write.name]
        if kind in _EDGES:
            # read inside a block, written at an edge: run to the edge is not needed, the state there is known
            return self._stack.suffix(clean.tokens, new, _start_layer(self.write))
        if kind == "resid_mid":
            # the hook point of resid_mid feeds the norm only; the stream itself is start + attn_out
            new = new - clean.start
            point = _hook_point(self.model, Site.parse(f"blocks.{self.write.layer}.hook_attn_out"))
        with _replaced(point, new):
            return self._stack.suffix(clean.tokens, clean.start, self.layer)


_EDGES = ("resid_pre", "resid_post")


def _start_layer(site: Site) -> int:
    assert site.layer is not None  # _check_layer has refused the others
    return site.layer + 1 if site.kind == "resid_post" else site.layer


def _check_layer(model: LanguageModel, site: Site) -> None:
    if site.layer is None:
        raise InputError(f"{site.name} lies before the first block and cannot be spliced; use blocks.0.hook_resid_pre")
    if site.layer >= model.n_layers:
        near = site.name.replace(f"blocks.{site.layer}.", f"blocks.{model.n_layers - 1}.")
        raise InputError(f"{model.id} has no site {site.name}: its blocks are 0 to {model.n_layers - 1}. Did you mean {near!r}?")


def _hook_point(model: LanguageModel, site: Site) -> nn.Module:
    points = model.bridge.hook_dict
    if site.name not in points:
        here = [n for n in points if n.startswith(f"blocks.{site.layer}.")]
        raise InputError(f"{model.id} ({model.family}) has no site {site.name}.{did_you_mean(site.name, here)}")
    return points[site.name]


def _bridge_stack(model: LanguageModel) -> BlockStack:
    stack = getattr(model.bridge, "_saebench_stack", None)
    if stack is None:
        stack = BlockStack(model.bridge.original_model.base_model, model.n_layers)
        stack.learn_return_type(torch.zeros(1, 2, dtype=torch.long, device=model.device))
        object.__setattr__(model.bridge, "_saebench_stack", stack)
    return stack


@contextlib.contextmanager
def _captured(point: nn.Module, name: str, seen: dict[str, Tensor]) -> Iterator[None]:
    def look(_module: nn.Module, _args: Any, out: Tensor) -> None:
        seen[name] = out

    with _hooked(point, look):
        yield


@contextlib.contextmanager
def _replaced(point: nn.Module, new: Float[Tensor, "B L O"]) -> Iterator[None]:
    def put(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        return new.reshape(out.shape)

    with _hooked(point, put):
        yield


@contextlib.contextmanager
def _hooked(point: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = point.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()

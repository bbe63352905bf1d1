"""Several sites of one model in one forward: all are read clean; a splice at one is read at those behind it.

One clean forward serves all sites, and one suffix a splice serves every site behind it and the model's output.

Letters: ``B`` contexts, ``L`` positions, ``D`` width of a site that is read, ``O`` of one that is written, ``M`` d_model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.errors import InputError
from saebench.lm.port import Clean, Port
from saebench.sae.site import Site

_STAGES = (
    ("resid_pre",),
    ("ln1_normalized",),
    ("z",),
    ("attn_module_out", "attn_out"),
    ("resid_mid",),
    ("ln2_normalized",),
    ("mlp_module_in",),
    ("mlp_pre",),
    ("mlp_post",),
    ("mlp_module_out", "mlp_out"),
)
"""The kinds of sites in the order in which a block passes them."""
_STAGE = {kind: stage for stage, kinds in enumerate(_STAGES) for kind in kinds}


def depth(site: Site) -> tuple[int, int]:
    """Return (block, stage in it), which grows along the forward; ``resid_post`` is the next block's ``resid_pre``."""
    return (site.layer + 1, 0) if site.kind == "resid_post" else (site.layer, _STAGE[site.kind])


class Behind(NamedTuple):
    """What a splice does further on."""

    acts: dict[int, tuple[Float[Tensor, "B L D"], Float[Tensor, "B L O"]]]
    """(acts read, acts written) at each port behind the splice, by its number."""
    final: Float[Tensor, "B L M"]
    """Output of the final norm."""


class Chain:
    """The sites of several SAEs on one model.

    All forwards run through the same blocks, so that a splice that changes nothing gives what the clean forward gives, bit
    for bit (at ``resid_mid``, which is reached through what attention adds, up to rounding): through the bridge's if any of the
    sites needs them.

    Args:
        ports: The sites, all of one model.

    Raises:
        InputError: They are of different models.
    """

    def __init__(self, ports: Sequence[Port]) -> None:
        if len({id(port.model) for port in ports}) != 1:
            raise InputError("a chain needs ports of one model")
        self.model = ports[0].model
        bridge = any(port.needs_bridge for port in ports)
        self.ports = [Port(p.model, p.read.name, p.write.name, through_bridge=bridge) for p in ports]

    def behind(self, number: int) -> list[int]:
        """Return the numbers of the ports that read behind where port ``number`` writes."""
        written = depth(self.ports[number].write)
        return [i for i, port in enumerate(self.ports) if depth(port.read) > written]

    @torch.inference_mode()
    def clean(self, tokens: Int[Tensor, "B L"]) -> list[Clean]:
        """Return the clean forward as each port knows it; they share one forward and its output.

        Args:
            tokens: Token ids.
        """
        stack = self.ports[0].stack
        first = min(port.layer for port in self.ports)
        starts: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for layer in {port.layer for port in self.ports}:
                hooks.enter_context(stack.watched(layer, starts, str(layer)))
            seen = [hooks.enter_context(port.watched()) for port in self.ports]
            final = stack.suffix(tokens, stack.prefix(tokens, first), first)
        return [
            Clean(tokens, starts[str(port.layer)], *port.acts_in(acts), final)
            for port, acts in zip(self.ports, seen, strict=True)
        ]

    @torch.inference_mode()
    def splice(self, number: int, clean: Clean, replacement: Float[Tensor, "B L O"], where: Bool[Tensor, "B L"]) -> Behind:
        """Return the acts behind the site and the final-norm output, with ``replacement`` in it wherever ``where`` is true.

        Args:
            number: The port that is spliced.
            clean: Its part of :meth:`clean`.
            replacement: New activations; elsewhere the clean ones stay.
            where: The positions to replace.
        """
        with contextlib.ExitStack() as hooks:
            seen = {i: hooks.enter_context(self.ports[i].watched()) for i in self.behind(number)}
            final = self.ports[number].splice(clean, replacement, where)
        return Behind({i: self.ports[i].acts_in(acts) for i, acts in seen.items()}, final)

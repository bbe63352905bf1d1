"""Probes on numbers that are never 0: channels, principal components, pre-activations; a block of them at a time.

Letters: ``N`` examples, ``S`` latents, ``C`` columns of one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from saebench.studies.probes.newton import CONSTANT, L2, Bools, Columns, Fits, solve

_ON_CPU, _ELSEWHERE = 1 << 18, 1 << 24
"""Numbers of one block, in float64: what a processor's cache holds, and 128 MB."""

Block = Callable[[slice], Float[Tensor, "N C"]]
"""What gives some latents of all examples."""


class DenseColumns(Columns):
    """Columns of which every entry is held."""

    def __init__(self, x: Float[Tensor, "N C"], labels: Bool[Tensor, " N"]) -> None:
        x = x.double()
        self._y = labels.double()[:, None]
        mean = x.mean(0)
        x0 = x - mean
        deviation = x0.square().mean(0).sqrt()
        yes, no = x[labels], x[~labels]
        low, high = (no.amin(0), yes.amin(0)), (no.amax(0), yes.amax(0))
        flat = torch.minimum(*low) == torch.maximum(*high)
        constant = flat | ~(deviation > CONSTANT * x.abs().amax(0))
        separable = ~constant & ((high[0] <= low[1]) | (high[1] <= low[0]))
        self._u = x0 / torch.where(constant, 1.0, deviation)
        self.constant, self.separable = constant.cpu().numpy(), separable.cpu().numpy()
        self.mean, self.deviation = mean.cpu().numpy(), deviation.cpu().numpy()
        self.share = np.full(x.shape[1], float(labels.double().mean()))

    def sums(self, w: Float[np.ndarray, " C"], b: Float[np.ndarray, " C"]) -> Float[np.ndarray, "6 C"]:
        """Return the six means (see :meth:`Columns.sums`)."""
        u, y, n = self._u, self._y, len(self._u)
        z = torch.addcmul(torch.from_numpy(b).to(u.device), u, torch.from_numpy(w).to(u.device))
        loss = torch.nn.functional.softplus(z).sum(0) - (y * z).sum(0)
        p = z.sigmoid_()
        r = p - y
        h = p.mul_(1.0 - p)
        hu = h * u
        sums = [loss, (r * u).sum(0), r.sum(0), (hu * u).sum(0), hu.sum(0), h.sum(0)]
        return (torch.stack(sums) / n).cpu().numpy()

    def kept(self, which: Bool[np.ndarray, " C"]) -> DenseColumns:
        """Return some of the columns."""
        other = DenseColumns.__new__(DenseColumns)
        other._u, other._y = self._u[:, torch.from_numpy(which).to(self._u.device)], self._y
        for name in ("share", "mean", "deviation", "separable"):
            setattr(other, name, getattr(self, name)[which])
        return other


def fit_dense(
    block: Block,
    size: int,
    labellings: Sequence[Bools],
    *,
    n: int,
    device: torch.device | str = "cpu",
    l2: float = L2,
    at_once: int | None = None,
) -> list[Fits]:
    """Return the probes of all latents, by labelling; a constant latent gets the weight 0 and the share of yes.

    Args:
        block: Gives the latents of a slice for all examples; asked once for each slice.
        size: ``S``.
        labellings: Labels ``[N]``, one or several for the same examples.
        n: ``N``.
        device: Where the blocks lie.
        l2: The penalty, above 0.
        at_once: Numbers of one block; chosen from the device if ``None``. It moves no number.
    """
    out = [Fits.of_nothing(size, float(labels.mean())) for labels in labellings]
    most = at_once or (_ON_CPU if torch.device(device).type == "cpu" else _ELSEWHERE)
    step = max(1, most // max(n, 1))
    for start in range(0, size, step):
        x = block(slice(start, min(start + step, size)))
        for labels, fits in zip(labellings, out, strict=True):
            if labels.any() and not labels.all():
                _fit_block(x, labels, start, fits, l2)
    return out


def _fit_block(x: Float[Tensor, "N C"], labels: NDArray[np.bool_], start: int, fits: Fits, l2: float) -> None:
    columns = DenseColumns(x, torch.from_numpy(labels).to(x.device))
    informative = ~columns.constant
    if informative.any():
        found = solve(columns if informative.all() else columns.kept(informative), l2)
        fits.put(start + np.flatnonzero(informative), found)

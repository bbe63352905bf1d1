"""Checks of the tensors."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch
from torch import Tensor

from saebench.check.base import Outcome, check, failed, passed, skipped, warned
from saebench.check.case import Case
from saebench.errors import InputError
from saebench.sae import SAE, SAEWeights
from saebench.sae.reading.mapped import all_finite, slabs

_UNIT = 1e-3
_SPREAD = 100.0
_HALF = 0.5
_FLUSHED = 0.01


def _tensors(case: Case) -> SAEWeights:
    assert case.weights is not None
    return case.weights


@check("shapes", "weights")
def shapes(case: Case) -> Outcome:
    """Tensors fit each other, and settings (k, thresholds, norm_scale) are what its activation needs."""
    w = _tensors(case)
    if w.W_enc.ndim != 2 or w.W_dec.ndim != 2:
        return failed(f"W_enc and W_dec should be matrices, found shapes {list(w.W_enc.shape)} and {list(w.W_dec.shape)}")
    own = replace(case.config, d_in=w.W_enc.shape[0], d_sae=w.W_enc.shape[1], d_out=w.W_dec.shape[1], path="", name="it")
    one = torch.ones(())
    try:
        SAE(own, SAEWeights(**{name: one.expand(tensor.shape) for name, tensor in w.items()}))
    except InputError as error:
        return failed(str(error))
    return passed(", ".join(f"{name} {'×'.join(map(str, t.shape)) or 'one number'}" for name, t in w.items()))


@check("finite", "weights")
def finite(case: Case) -> Outcome:
    """No weight is NaN or infinite."""
    bad = [name for name, tensor in _tensors(case).items() if not all_finite(tensor)]
    if bad:
        return failed(f"NaN or infinite entries in {', '.join(bad)}")
    return passed("all of them are numbers")


@check("encoder", "sae")
def encoder(case: Case) -> Outcome:
    """Every latent sees the acts: no column of the encoder is all zero."""
    squares = sum((slab.float().square().sum(0) for slab in slabs(_tensors(case).W_enc)), torch.zeros(case.config.d_sae))
    blind = int((squares == 0).sum())
    if blind:
        return _share(blind, case.config.d_sae, "latents have an encoder column of zeros and fire on every token or on none")
    return passed(_norms(squares.sqrt()))


@check("decoder", "sae")
def decoder(case: Case) -> Outcome:
    """Every latent writes something: no row of the decoder is all zero, and their norms lie within a factor of 100."""
    norms = _row_norms(_tensors(case).W_dec)
    mute = int((norms == 0).sum())
    if mute:
        return _share(mute, len(norms), "latents have a decoder row of zeros and write nothing")
    middle = float(norms.median())
    low, high = float(norms.min()), float(norms.max())
    if high > _SPREAD * middle or low < middle / _SPREAD:
        return warned(f"{_norms(norms)}: what counts as a large latent depends on which one it is")
    return passed(_norms(norms))


@check("duplicates", "sae")
def duplicates(case: Case) -> Outcome:
    """No two latents write the same: no two rows of the decoder are identical."""
    seen: set[bytes] = set()
    same, rows = 0, 0
    for slab in slabs(_tensors(case).W_dec):
        for row, zero in zip(slab.view(torch.uint8).numpy(), (slab == 0).all(1).tolist(), strict=True):
            rows += 1
            if zero:
                continue
            key = hashlib.blake2b(row.tobytes(), digest_size=16).digest()
            same += key in seen
            seen.add(key)
    if same:
        return _share(same, rows, "latents have the decoder row of an earlier one")
    return passed(f"{len(seen):,} different rows")


@check("thresholds", "sae")
def thresholds(case: Case) -> Outcome:
    """Thresholds are above 0, as estimated or trained ones are."""
    theta = _tensors(case).threshold
    if case.config.activation != "jumprelu" or theta is None:
        return skipped(f"{case.config.activation} has none")
    theta = theta.float().reshape(-1)
    low, high, below = float(theta.min()), float(theta.max()), int((theta < 0).sum())
    span = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    if below == len(theta):
        return failed(f"{span}: below 0, so it was never estimated and every positive pre-activation passes")
    if below:
        return warned(f"{span}: {below:,} of {len(theta):,} below 0, which passes every positive pre-activation")
    if high == 0:
        return warned("all 0: every positive pre-activation passes, as in a ReLU SAE")
    return passed(f"{span}, median {float(theta.median()):.4g}")


@check("half_precision", "sae")
def half_precision(case: Case) -> Outcome:
    """Stored as bfloat16 or float16 its weights stay finite and do not vanish."""
    largest, told = 0.0, []
    for name, tensor in _tensors(case).items():
        lost = total = 0
        for slab in slabs(tensor):
            largest = max(largest, float(slab.abs().max()))
            if not bool(slab.to(torch.bfloat16).isfinite().all()):
                return failed(f"{name} overflows in bfloat16: {float(slab.abs().max()):.4g}")
            lost += int(((slab != 0) & (slab.to(torch.float16) == 0)).sum())
            total += int((slab != 0).sum())
            if not bool(slab.to(torch.float16).isfinite().all()):
                told.append(f"{name} overflows in float16 (its largest entry is {float(slab.abs().max()):.4g})")
                break
        if lost > _FLUSHED * max(total, 1):
            told.append(f"{lost / total:.0%} of {name} becomes 0 in float16")
    if told:
        return warned(f"{'; '.join(told)}: store it as bfloat16 or float32")
    return passed(f"largest entry {largest:.4g}, float16 holds up to 65,504")


def _share(n: int, of: int, what: str) -> Outcome:
    return (failed if n > _HALF * of else warned)(f"{n:,} of {of:,} {what}")


def _row_norms(matrix: Tensor) -> Tensor:
    return torch.cat([slab.float().norm(dim=1) for slab in slabs(matrix)])


def _norms(norms: Tensor) -> str:
    low, middle, high = (float(v) for v in (norms.min(), norms.median(), norms.max()))
    if max(abs(low - 1), abs(high - 1)) < _UNIT:
        return "unit norms"
    return f"norms {low:.3g} to {high:.3g}, median {middle:.3g}"

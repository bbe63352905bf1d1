"""Checks of encode and decode: that several ways to the same numbers give the same numbers.

Letters: ``n`` tokens of a sample, ``S`` d_sae, ``O`` d_out.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from saebench.check.base import Outcome, check, failed, passed, skipped, warned
from saebench.check.case import Case
from saebench.errors import InputError
from saebench.sae import SAE, Latents, load_sae, save_native

_TOLERANCE = 1e-4
"""Largest difference, as a share of the largest entry: float32 adds up to some 1e-6 of noise."""
_COARSE = 1e-2
_NEIGHBOURS = 1e-3
"""Likewise for a token's recon, as a share of the mean norm: what a batch has to do with a token is more than that."""
_FLIPS = 0.02
"""Share of tokens where another order of additions may choose another latent."""
_ALONE, _FEW = 16, 7
_MOST_BYTES = 4 << 30
_COUNTED = ("topk", "signed_topk", "abstopk", "groupmax")


@check("latents", "sae")
def latents(case: Case) -> Outcome:
    """Latents are a sparse matrix as it should be: finite entries ≠ 0, indices in range and once a token."""
    for name, x in case.samples:
        found = case.whole.encode(x)
        if len(found) != len(x) or found.d_sae != case.config.d_sae or int(found.offsets[-1]) != len(found.values):
            return failed(f"{name}: rows for {len(found)} of {len(x)} tokens, {found.d_sae} of {case.config.d_sae} latents")
        if not bool(found.values.isfinite().all()) or bool((found.values == 0).any()):
            return failed(f"{name}: entries that are 0, NaN or infinite")
        if len(found.indices) and (int(found.indices.min()) < 0 or int(found.indices.max()) >= found.d_sae):
            return failed(f"{name}: indices from {int(found.indices.min())} to {int(found.indices.max())}")
        if len(torch.unique(found.rows() * found.d_sae + found.indices)) < len(found.indices):
            return failed(f"{name}: a latent stands twice in one token")
    return passed(f"over {' and '.join(f'{len(s.x)} {s.name}' for s in case.samples)}")


@check("round_trip", "sae")
def round_trip(case: Case) -> Outcome:
    """Decode of encode is reconstruct."""
    worst = 0.0
    for name, x in case.samples:
        recon = case.whole.reconstruct(x)
        if not bool(recon.isfinite().all()):
            return failed(f"{name}: recons hold NaN or infinite values")
        worst = max(worst, _apart(case.whole.decode(case.whole.encode(x), x), recon))
    return _within(worst, "decode(encode(acts)) and reconstruct(acts)")


@check("determinism", "sae")
def determinism(case: Case) -> Outcome:
    """The same acts give the same latents and recons twice, bit for bit."""
    for name, x in case.samples:
        a, b = case.whole.encode(x), case.whole.encode(x)
        if not (torch.equal(a.offsets, b.offsets) and torch.equal(a.indices, b.indices) and torch.equal(a.values, b.values)):
            return failed(f"{name}: other latents the second time")
        if not torch.equal(case.whole.reconstruct(x), case.whole.reconstruct(x)):
            return failed(f"{name}: other recons the second time")
    return passed("twice the same bits")


@check("batching", "sae")
def batching(case: Case) -> Outcome:
    """What a token gives does not depend on the tokens beside it, on the batch size or on the order."""
    for name, x in case.samples:
        whole = case.whole.reconstruct(x)
        ways = {
            "backwards": case.whole.reconstruct(x.flip(0)).flip(0),
            f"in batches of {_FEW}": torch.cat([case.whole.reconstruct(part) for part in x.split(_FEW)]),
            "alone": torch.cat([case.whole.reconstruct(part) for part in x[:_ALONE].split(1)]),
        }
        for way, recon in ways.items():
            error = (recon - whole[: len(recon)]).norm(dim=1) / whole.norm(dim=1).mean().clamp_min(1e-30)
            off = int((error > _NEIGHBOURS).sum())
            if not bool(recon.isfinite().all()) or off > max(1, _FLIPS * len(recon)):
                return failed(f"{name}: {off} of {len(recon)} tokens come out different {way}, by up to {float(error.max()):.2g}")
    return passed(f"alone, in batches of {_FEW}, backwards: the same")


@check("decode_paths", "sae")
def decode_paths(case: Case) -> Outcome:
    """Decoding gives the same by a dense product and by adding up rows."""
    worst = 0.0
    for _, x in case.samples:
        found = case.whole.encode(x)
        dense = case.whole.decode(_filled(found), x)
        thin, acts = _thinned(found, x)
        worst = max(worst, _apart(case.whole.decode(thin, acts)[: len(x)], dense))
    return _within(worst, "the two sums")


def _filled(latents: Latents) -> Latents:
    """Return the same latents with every 0 written out: too many entries to be added up one by one."""
    n, s = len(latents), latents.d_sae
    offsets = torch.arange(0, n * s + 1, s, device=latents.offsets.device)
    indices = torch.arange(s, device=latents.indices.device).repeat(n)
    return Latents(values=latents.to_dense().flatten(), indices=indices, offsets=offsets, d_sae=s)


def _thinned(latents: Latents, x: Tensor) -> tuple[Latents, Tensor]:
    """Return the same latents before tokens without any, and their acts: too few entries a token for a dense product."""
    more = 100 * max(1, len(latents.values) // latents.d_sae + 1)
    offsets = torch.cat([latents.offsets, latents.offsets[-1:].expand(more)])
    padded = torch.cat([x, x[:1].expand(more, -1)])
    return Latents(values=latents.values, indices=latents.indices, offsets=offsets, d_sae=latents.d_sae), padded


@check("float64", "sae")
def float64(case: Case) -> Outcome:
    """float32 is enough: latents and recons are those of float64."""
    size = 2 * sum(tensor.nbytes for _, tensor in case.whole.weights.items())
    if size > _MOST_BYTES:
        return skipped(f"its weights would take {size / 2**30:.0f} GiB in float64")
    exact, apart, flips = case.whole.to(dtype=torch.float64), 0.0, 0.0
    for _, x in case.samples:
        ours, theirs = case.whole.reconstruct(x).double(), exact.reconstruct(x.double())
        spread = (theirs - theirs.mean(0)).norm(dim=1).mean().clamp_min(1e-30)
        apart = max(apart, float(((ours - theirs).norm(dim=1) / spread).median()))
        a, b = case.whole.encode(x).to_dense().double(), exact.encode(x.double()).to_dense()
        flipped = ((a != 0) != (b != 0)) & ((a - b).abs() > _TOLERANCE * b.abs().max())  # noise about 0 does not count
        flips = max(flips, float(flipped.sum()) / max(1, int((b != 0).sum())))
    told = f"a recon is off by {apart:.1g} of what recons vary by (median), {flips:.2%} of the active latents are others"
    if apart > _COARSE or flips > _FLIPS:
        return failed(told)
    return warned(told) if apart > _TOLERANCE else passed(told)


@check("native", "sae")
def native(case: Case) -> Outcome:
    """Written in saebench's own format and loaded again it is the same SAE, by content hash and by its recons."""
    assert case.weights is not None
    stored = SAE(case.config, case.weights) if type(case.whole) is SAE else case.whole
    size = sum(tensor.nbytes for _, tensor in stored.weights.items())
    if size > _MOST_BYTES:
        return skipped(f"it would write {size / 2**30:.0f} GiB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "sae"
        try:
            save_native(stored, folder)
            back = load_sae(folder)
        except InputError as error:
            return failed(str(error).replace(str(folder), "the copy"))
        if back.sha256 != stored.sha256:
            return failed(f"SHA-256 {back.sha256[:8]}…, not {stored.sha256[:8]}…")
        if not torch.equal(back.reconstruct(case.random.x), case.whole.reconstruct(case.random.x)):
            return failed("the same hash, but other recons")
    return passed(f"SHA-256 {stored.sha256[:8]}… both times")


@check("l0_random", "sae")
def l0_random(case: Case) -> Outcome:
    """On random acts some latents fire and some do not, never more than k where k is fixed."""
    counts = case.whole.encode(case.random.x).l0()
    return l0_outcome(case, float(counts.float().mean()), int(counts.max()), case.random.name, own=False)


def l0_outcome(case: Case, mean: float, most: int, where: str, *, own: bool) -> Outcome:
    """Return what a mean and a largest number of active latents say.

    Args:
        case: The SAE.
        mean: Mean over tokens.
        most: Largest of any token (or nearly).
        where: Over which acts.
        own: Whether it was trained on acts of this kind.
    """
    c = case.config
    told = f"L0 {mean:.4g} over {where}, of {c.d_sae:,} latents"
    if mean == 0:
        return failed(f"{told}: no latent fires")
    if mean >= c.d_sae:
        return failed(f"{told}: every latent fires on every token")
    if c.activation in _COUNTED and c.k is not None:
        if most > c.k:
            return failed(f"{told}: up to {most} at once, more than k={c.k}")
        short = own and mean < 0.9 * c.k
        return (warned if short else passed)(f"{told}, k={c.k}")
    if own and c.k and not c.k / 2 <= mean <= 2 * c.k:
        return warned(f"{told}, but k={c.k}: its threshold was estimated on other acts")
    if own and mean > c.d_in:
        return warned(f"{told}: more than the {c.d_in} dimensions of the acts, so it is not sparse")
    return passed(told)


@check("oracle", "sae", "oracle")
def oracle(case: Case) -> Outcome:
    """Latents and recons are those of the other implementation that was given."""
    assert case.oracle is not None
    worst = 0.0
    for name, x in case.samples:
        theirs = case.oracle(x)
        found = case.whole.encode(x)
        for what, ours, other in (("latents", found.to_dense(), theirs[0]), ("recons", case.whole.reconstruct(x), theirs[1])):
            if other is None:
                continue
            if other.shape != ours.shape:
                return failed(f"{name}: {what} of shape {list(ours.shape)}, the other has {list(other.shape)}")
            error = _apart(ours, other.to(ours.dtype))
            if not error <= _TOLERANCE:
                return failed(f"{name}: {what} differ by {error:.2g} of the largest")
            worst = max(worst, error)
    return passed(f"largest difference {worst:.1g} of the largest entry")


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of two tensors as a share of the second one's largest entry."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-30))


def _within(error: float, what: str) -> Outcome:
    if not error <= _TOLERANCE:
        return failed(f"{what} differ by {error:.2g} of the largest entry")
    return passed(f"{what} differ by {error:.1g} of the largest entry")

"""Checks on real acts: is it sparse there, alive, near the acts, of their size, and is it given what it was trained on?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from saebench.check.arithmetic import l0_outcome
from saebench.check.base import Outcome, check, failed, passed, warned
from saebench.check.case import Case
from saebench.sae import SAE
from saebench.sae.site import in_stream

_LOW = 0.3
_DEAD = 0.5
_OFTEN = 10.0
"""Firings that each latent would have had if all fired alike: below this, silence over the acts says little."""
_NEAR, _FAR = (0.7, 1.3), (0.1, 10.0)
_BETTER = 0.1
_FEW_TOKENS = 512


@check("l0", "sae", "acts")
def l0(case: Case) -> Outcome:
    """On real acts some latents fire and some do not: as many as k where k is fixed, fewer than the acts have dimensions."""
    scores = case.scores
    mean, most = scores["l0"] or 0.0, scores["l0_p95"] or 0.0
    return l0_outcome(case, mean, int(most), _where(case), own=True)


@check("alive", "sae", "acts")
def alive(case: Case) -> Outcome:
    """Most latents fire somewhere in the real acts, as far as these are enough to tell."""
    dead, mean = case.scores["n_dead"] or 0.0, case.scores["l0"] or 0.0
    share, each = dead / case.config.d_sae, mean * len(case.x) / case.config.d_sae
    told = f"{share:.1%} dead over {_where(case)}"
    if share == 1:
        return failed(told)
    if share > _DEAD and each >= _OFTEN:
        return warned(told)
    return passed(told if each >= _OFTEN else f"{told}, too few to tell: {each:.2g} firings a latent on average")


@check("explained_variance", "sae", "acts", "target")
def explained_variance(case: Case) -> Outcome:
    """Recons are nearer to the real acts than their mean is: the explained variance is above 0.3."""
    value = case.scores["explained_variance"]
    if value is None:
        return failed("the acts do not vary, or recons overflow")
    told = f"{value:.4g} over {_where(case)}"
    if not value > 0:
        return failed(f"{told}: worse than the mean, see input_space")
    return passed(told) if value >= _LOW else warned(f"{told}: hardly trained, or not on these acts")


@check("norm_ratio", "sae", "acts", "target")
def norm_ratio(case: Case) -> Outcome:
    """Recons are as long as the real acts: the mean ratio of their norms lies between 0.7 and 1.3."""
    value = case.scores["norm_ratio"]
    if value is None:
        return failed("the ratio overflows")
    told = f"‖recon‖/‖acts‖ {value:.4g} over {_where(case)}"
    if not _FAR[0] <= value <= _FAR[1]:
        return failed(f"{told}: they are of another scale")
    return passed(told) if _NEAR[0] <= value <= _NEAR[1] else warned(told)


@check("input_space", "sae", "acts", "target")
def input_space(case: Case) -> Outcome:
    """No other normalisation, residual stream or use of b_dec explains the real acts clearly better than what is declared."""
    acts = case.acts
    assert acts is not None and acts.target is not None
    own = case.explained(case.whole, reads=acts.reads, writes=acts.writes, tokens=_FEW_TOKENS)
    best, hint = own, ""
    for what, sae, reads, writes in _others(case):
        value = case.explained(sae, reads=reads, writes=writes, tokens=_FEW_TOKENS)
        if value is not None and (best is None or value > best):
            best, hint = value, what
    if best is None:
        return failed("the explained variance overflows whatever is done to the acts")
    declared = f"as declared ({case.config.normalisation}, {case.config.residual}) it explains "
    declared += "nothing finite" if own is None else f"{own:.3g}"
    if best > 0 and (own is None or best > own + _BETTER):
        return (failed if own is None or own <= 0 else warned)(f"{declared}, {hint} it would explain {best:.3g}")
    return passed(f"{declared}, nothing else that was tried {'above 0' if best <= 0 else f'{_BETTER} more'}")


def _others(case: Case) -> Iterator[tuple[str, SAE, bool, bool]]:
    """Yield (words, SAE, whether it reads centred acts, whether it writes them), one thing changed at a time."""
    acts, sae, c = case.acts, case.whole, case.config
    assert acts is not None
    plain = SAE(c, sae.weights)
    for kind, words in (("none", "without normalisation"), ("unit_norm", "at unit norm"), ("layer_norm", "layer-normed")):
        if kind != c.normalisation:
            yield f"with acts {words}", plain.with_config(normalisation=kind), acts.reads, acts.writes
    norms = case.x.norm(dim=1)
    for scale, words in (
        (c.d_in**0.5 / float(norms.mean()), "to mean norm √d_in"),
        (1 / float(norms.square().mean().sqrt()), "to mean squared norm 1"),
    ):
        scaled = plain.with_config(normalisation="constant_scale", norm_scale=scale)
        yield f"with acts scaled {words} (× {scale:.4g})", scaled, acts.reads, acts.writes
    if all(site is None or in_stream(site) for site in (c.site, c.site_out or c.site)):
        other = "raw" if acts.reads else "centred"
        yield f"with the residual stream {other} (--residual {other})", plain, not acts.reads, not acts.writes
    w = sae.weights
    if w.b_in is None and c.d_in == c.d_out and bool((w.b_dec != 0).any()):
        yield "with b_dec taken off the acts first", SAE(c, replace(w, b_in=w.b_dec)), acts.reads, acts.writes
    elif w.b_in is not None and w.b_in.shape == w.b_dec.shape and torch.equal(w.b_in, w.b_dec):
        yield "without b_dec taken off the acts first", SAE(c, replace(w, b_in=None)), acts.reads, acts.writes


def _where(case: Case) -> str:
    assert case.acts is not None
    return f"{len(case.x):,} tokens ({case.acts.origin})"

"""SAEs of every supported combination with random weights, for the tests of the export; d_in, d_sae and d_out all differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from saebench.sae import SAE, SAEConfig, SAEWeights

D, S, OUT, K = 12, 40, 9, 4
SITE = "blocks.2.hook_resid_post"

ACTIVATIONS = ("relu", "relu-unit", "topk", "abstopk", "groupmax", "jumprelu", "jumprelu-scalar", "gated")
NORMALISATIONS = ("none", "constant_scale", "unit_norm", "layer_norm")
SHIFTS = ("b_dec", "none", "own")


def acts(n: int = 64) -> torch.Tensor:
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(7)) + 0.5


def make(activation: str, normalisation: str = "none", shift: str = "b_dec", **changes: Any) -> SAE:
    """Return a random SAE; decoder rows are far from unit length unless the name ends in ``-unit``."""
    kind, _, variant = activation.partition("-")
    seed = sum(map(ord, activation + normalisation + shift)) + len(changes)
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int, size: float = 0.5) -> torch.Tensor:
        return size * torch.randn(*shape, generator=generator)

    d_out = changes.get("d_out", D)
    w_dec, b_dec = some(S, d_out), some(d_out)
    if variant == "unit":
        w_dec *= (0.37 if normalisation == "constant_scale" else 1) / w_dec.norm(dim=1, keepdim=True)
    b_in = {"b_dec": b_dec if d_out == D else some(D), "none": None, "own": some(D)}[shift]
    extra: dict[str, torch.Tensor] = {}
    if kind == "jumprelu":
        extra["threshold"] = torch.tensor(0.9) if variant == "scalar" else some(S).abs()
    if kind == "gated":
        extra = {"b_gate": some(S), "b_mag": some(S), "r_mag": some(S)}
    if changes.pop("skip", False):
        extra["W_skip"] = some(D, d_out)
    weights = SAEWeights(W_enc=some(D, S), b_enc=some(S), W_dec=w_dec, b_dec=b_dec, b_in=b_in, **extra)
    if kind == "gated":
        weights = replace(weights, b_enc=torch.zeros(S))
    settings: dict[str, Any] = {
        "activation": kind, "d_in": D, "d_out": D, "d_sae": S, "k": K if kind in ("topk", "abstopk", "groupmax") else None,
        "normalisation": normalisation, "norm_scale": 0.37 if normalisation == "constant_scale" else None,
        "site": SITE, "model_id": "openai-community/gpt2", "context_length": 128, "prepend_bos": True,
        "architecture": {"relu": "standard", "jumprelu": "batchtopk" if variant else "jumprelu"}.get(kind, kind),
    }  # fmt: skip
    return SAE(SAEConfig(**settings | changes), weights)


def _supported() -> dict[str, tuple[str, SAE]]:
    holds = {
        "saelens": (set(ACTIVATIONS) - {"groupmax"}, NORMALISATIONS),
        "dictionary_learning": (set(ACTIVATIONS) - {"groupmax", "abstopk"}, NORMALISATIONS[:2]),
        "sparsify": ({"topk", "groupmax"}, NORMALISATIONS[:2]),
    }
    made = {
        f"{to}-{activation}-{normalisation}-{shift}": (to, make(activation, normalisation, shift))
        for to, (kinds, normalisations) in holds.items()
        for activation in sorted(kinds)
        for normalisation in normalisations
        for shift in SHIFTS
    }
    across = {"site": "blocks.1.mlp.hook_in", "site_out": "blocks.1.mlp.hook_out"}
    for skip in (False, True):
        for normalisation in NORMALISATIONS[:2] if skip else NORMALISATIONS:
            for kind in ("relu", "jumprelu", "jumprelu-scalar"):
                sae = make(kind, normalisation, "own", d_out=OUT, skip=skip, architecture="transcoder", **across)
                made[f"saelens-transcoder-{kind}-{normalisation}-{skip}"] = ("saelens", sae)
        for normalisation in NORMALISATIONS[:2]:
            for shift in SHIFTS:
                sae = make("topk", normalisation, shift, skip=skip, architecture="transcoder", **across)
                made[f"sparsify-transcoder-{normalisation}-{shift}-{skip}"] = ("sparsify", sae)
    made["saelens-skip"] = ("saelens", make("relu", "constant_scale", "own", skip=True))
    made["sparsify-skip"] = ("sparsify", make("topk", "constant_scale", "own", skip=True))
    made["saelens-hook_z"] = ("saelens", make("topk", site="blocks.1.attn.hook_z"))
    made["saelens-centred"] = ("saelens", make("topk", residual="centred"))
    return made


SUPPORTED = _supported()

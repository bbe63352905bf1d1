"""An independent check of task ``core``: plain Hugging Face hooks, dense arithmetic, float64 losses. Imports no saebench.

Residual-stream sites of Llama-like and GPT-2 models; ``encode_decode`` maps acts [N, D] to (latents [N, S], recon [N, D]).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def core(model, tokens: Tensor, layer: int, encode_decode: Callable, *, splice_bos: bool = False) -> dict:
    """Return {"scores": {name: value}, "series": {name: [L]}} for contexts ``tokens`` [N, L] at resid_pre of ``layer``."""
    decoder = model.base_model
    block = (decoder.layers if hasattr(decoder, "layers") else decoder.h)[layer]
    first = 0 if splice_bos else 1

    def logp(replacement: Tensor | None, keep: list[Tensor] | None = None) -> Tensor:
        def hook(_module, args, kwargs):
            acts = args[0] if args else kwargs["hidden_states"]
            if keep is not None:
                keep.append(acts.clone())
            if replacement is None:
                return None
            new = acts.clone()
            new[:, first:] = replacement[:, first:].to(acts.dtype)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        handle = block.register_forward_pre_hook(hook, with_kwargs=True)
        with torch.no_grad():
            out = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)
        handle.remove()
        return out

    def ce(lp: Tensor) -> Tensor:
        return -lp[:, :-1].gather(2, tokens[:, 1:, None])[..., 0][:, 1:]

    kept: list[Tensor] = []
    clean = logp(None, kept)
    acts = kept[0]
    n, length, width = acts.shape
    latents, recon = (t.reshape(n, length, -1).double() for t in encode_decode(acts.reshape(-1, width)))
    x, r, f = acts.double()[:, 1:], recon[:, 1:], latents[:, 1:]
    spliced, mean = logp(recon), x.mean((0, 1))
    zero, average = logp(torch.zeros_like(acts)), logp(mean.expand(n, length, width))
    sse, flat = (x - r).square().sum(-1), x.reshape(-1, width)
    kl = (clean.exp() * (clean - spliced)).sum(-1)[:, 1:-1]
    c, s, z, m = ce(clean), ce(spliced), ce(zero), ce(average)
    fvu = (sse.sum() / (flat - mean).square().sum()).item()
    l0, density = (f != 0).sum(-1).double(), (f != 0).double().mean((0, 1))
    scores = {
        "explained_variance": 1 - fvu, "fvu": fvu, "normalized_mse": fvu, "mse": sse.mean(), "mse_per_dim": sse.mean() / width,
        "cosine": torch.cosine_similarity(x, r, dim=-1).mean(), "norm_ratio": (r.norm(dim=-1) / x.norm(dim=-1)).mean(),
        "relative_reconstruction_bias": r.square().sum() / (x * r).sum(), "l0": l0.mean(), "l0_median": l0.median(),
        "l1": f.abs().sum(-1).mean(), "frac_alive": (density > 0).double().mean(),
        "share_dense_1pct": (density > 0.01).double().mean(), "share_dense_10pct": (density > 0.1).double().mean(),
        "ce_clean": c.mean(), "ce_spliced": s.mean(), "ce_zero": z.mean(), "ce_mean": m.mean(), "delta_ce": (s - c).mean(),
        "ce_recovered_zero": (z.mean() - s.mean()) / (z.mean() - c.mean()),
        "ce_recovered_mean": (m.mean() - s.mean()) / (m.mean() - c.mean()), "kl": kl.mean(),
        "kl_zero": (clean.exp() * (clean - zero)).sum(-1)[:, 1:-1].mean(),
        "top1_agreement": (clean.argmax(-1) == spliced.argmax(-1))[:, 1:-1].double().mean(),
    }  # fmt: skip
    series = {"l0": l0, "l1": f.abs().sum(-1), "mse": sse, "act_norm": x.norm(dim=-1), "delta_ce": s - c, "kl": kl}
    return {
        "scores": {name: float(value) for name, value in scores.items()},
        "series": {f"{name}_by_position": [None, *rows.mean(0).tolist()] for name, rows in series.items()},
    }

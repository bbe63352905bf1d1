"""SAEs of sae_lens' inference classes, and flat configurations of before version 6."""

from __future__ import annotations

import json
from typing import Any

import torch
from oracle_files import OUT, ROOT, D, K, S, acts, keep, randomise

ACROSS = {"d_out": OUT, "apply_b_dec_to_input": False}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("Standard", {}),
    "standard-no-shift": ("Standard", {"apply_b_dec_to_input": False}),
    "standard-layer-norm": ("Standard", {"normalize_activations": "layer_norm"}),
    "standard-rescale": ("Standard", {"normalize_activations": "constant_norm_rescale"}),
    "standard-average": ("Standard", {"normalize_activations": "expected_average_only_in"}),
    "standard-hook-z": ("Standard", {"reshape_activations": "hook_z"}),
    "gated": ("Gated", {}),
    "gated-no-shift": ("Gated", {"apply_b_dec_to_input": False}),
    "jumprelu": ("JumpReLU", {}),
    "topk": ("TopK", {"k": K}),
    "topk-rescaled": ("TopK", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopK", {"k": K}),
    "abstopk-rescaled": ("AbsTopK", {"k": K, "rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False}),
    "matching_pursuit": ("MatchingPursuit", {}),
    "matching_pursuit-no-shift": ("MatchingPursuit", {"apply_b_dec_to_input": False, "residual_threshold": 1.5}),
    "matching_pursuit-repeats": ("MatchingPursuit", {"stop_on_duplicate_support": False, "max_iterations": 7}),
    "matching_pursuit-layer-norm": ("MatchingPursuit", {"normalize_activations": "layer_norm", "residual_threshold": 0.0}),
    "transcoder": ("Transcoder", ACROSS),
    "transcoder-layer-norm": ("Transcoder", ACROSS | {"normalize_activations": "layer_norm"}),
    "skip_transcoder": ("SkipTranscoder", ACROSS),
    "jumprelu_transcoder": ("JumpReLUTranscoder", ACROSS),
    "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", ACROSS),
}


def unit_rows(sae: Any) -> None:
    """Give the decoder rows of length 0.95 to 1.05, so that a pursuit does not run away."""
    with torch.no_grad():
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        sae.W_dec *= torch.linspace(0.95, 1.05, S)[:, None]


def made(name: str, kind: str, options: dict[str, Any]) -> Any:
    import sae_lens as sl
    from sae_lens.saes import transcoder

    suffix = "" if "Transcoder" in kind else "SAE"
    where = sl if hasattr(sl, f"{kind}{suffix}") else transcoder
    sae = getattr(where, f"{kind}{suffix}")(getattr(where, f"{kind}{suffix}Config")(d_in=D, d_sae=S, **options))
    randomise(sae)
    if "pursuit" in name:
        unit_rows(sae)
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_pre"
    if suffix == "":
        sae.cfg.metadata.hook_name, sae.cfg.metadata.hook_name_out = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"
    if "hook-z" in name:
        sae.cfg.metadata.hook_name = "blocks.1.attn.hook_z"
    return sae


def early() -> None:
    """Write flat configurations of before version 6 beside tensors of today."""
    import sae_lens as sl
    from safetensors.torch import save_file

    flat = {
        "model_name": "gpt2-small", "hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1, "d_in": D, "d_sae": S,
        "hook_point_head_index": None, "dtype": "torch.float32", "device": "cpu", "context_size": 128,
        "activation_fn_str": "relu",
    }  # fmt: skip
    later = {"hook_name": "blocks.1.hook_resid_pre", "hook_layer": 1, "apply_b_dec_to_input": False, "dtype": "float32"}
    cases = {
        "standard": ("standard", flat | {"finetuning_scaling_factor": False}),
        "average": ("standard", flat | {"normalize_activations": True}),
        "topk": ("topk", flat | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
        "jumprelu": ("jumprelu", flat | later | {"architecture": "jumprelu", "normalize_activations": "layer_norm"}),
        "gated": ("gated", flat | later | {"architecture": "gated", "normalize_activations": "constant_norm_rescale"}),
    }
    for name, (kind, cfg) in cases.items():
        sae = made(name, *CASES[kind])
        folder = ROOT / f"sae_lens-early-{name}"
        folder.mkdir(parents=True)
        ones = {"scaling_factor": torch.ones(S)} if name == "standard" else {}
        save_file({key: one.contiguous() for key, one in sae.state_dict().items()} | ones, folder / "sae_weights.safetensors")
        (folder / "cfg.json").write_text(json.dumps(cfg))
        loaded = sl.SAE.load_from_disk(folder, device="cpu")
        with torch.no_grad():
            latents = loaded.encode(acts())
            keep(folder, latents, loaded.decode(latents))


def write() -> None:
    import sae_lens as sl

    for name, (kind, options) in CASES.items():
        folder = ROOT / f"sae_lens-{name}"
        made(name, kind, options).save_model(folder)
        loaded = sl.SAE.load_from_disk(folder, device="cpu")
        x = acts().view(-1, 3, D // 3) if "hook-z" in name else acts()
        if "hook-z" in name:
            loaded.turn_on_forward_pass_hook_z_reshaping()
        with torch.no_grad():
            latents = loaded.encode(x)
            keep(folder, latents, loaded(x) if "skip" in name else loaded.decode(latents))
    early()

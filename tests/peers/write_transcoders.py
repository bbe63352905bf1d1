"""Runs where sae_lens is: writes transcoders as circuit-tracer's sets have them, and what sae_lens makes of the same tensors.

Each folder under ``argv[1]`` gets one ``layer_N.safetensors``, the set's settings and ``oracle.npz`` with ``acts``,
``latents`` (dense) and ``recon``. sae_lens' loader of mwhanna's sets knows ReLU alone; the rest is loaded by its classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import sae_lens as sl
import torch
import yaml
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors.torch import save_file

D, S, OUT = 12, 40, 9
ROOT = Path(sys.argv[1])
SETTINGS = {
    "model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set",
    "feature_input_hook": "mlp.hook_in", "feature_output_hook": "mlp.hook_out",
}  # fmt: skip


def rand(*shape: int) -> torch.Tensor:
    return 0.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(n * 31**i for i, n in enumerate(shape))))


def acts() -> torch.Tensor:
    return 2 * torch.randn(64, D, generator=torch.Generator().manual_seed(7)) + 0.5


def keep(folder: Path, sae: sl.SAE, skips: bool = False) -> None:
    with torch.no_grad():
        x = acts()
        latents = sae.encode(x)
        recon = sae(x) if skips else sae.decode(latents)
    np.savez(folder / "oracle.npz", acts=x.numpy(), latents=latents.numpy(), recon=recon.numpy())


def a_set(name: str, tensors: dict[str, torch.Tensor]) -> Path:
    folder = ROOT / name
    folder.mkdir()
    save_file({key: one.contiguous() for key, one in tensors.items()}, folder / "layer_2.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    return folder


def by_the_loader() -> None:
    folder = a_set("mwhanna", {"W_enc": rand(S, D), "b_enc": rand(S), "W_dec": rand(S, D), "b_dec": rand(D)})
    wandb = {"d_model": {"value": D}, "d_feature": {"value": S}, "batch_size": {"value": 128}}
    (folder / "wandb-config.yaml").write_text(yaml.safe_dump(wandb))
    loaders.hf_hub_download = lambda repo_id, filename, **_: str(folder / filename)
    sae, cfg, _ = sl.SAE.from_pretrained_with_cfg_and_sparsity(
        "somebody/transcoders", "layer_2.safetensors", converter=loaders.mwhanna_transcoder_huggingface_loader
    )
    assert cfg["metadata"]["hook_name"] == "blocks.2.mlp.hook_in", cfg
    keep(folder, sae)


def by_its_classes() -> None:
    for name, kind, config in (
        ("skip", sl.SkipTranscoder, sl.SkipTranscoderConfig),
        ("jumprelu", sl.JumpReLUTranscoder, sl.JumpReLUTranscoderConfig),
    ):
        sae = kind(config(d_in=D, d_out=OUT, d_sae=S, apply_b_dec_to_input=False))
        with torch.no_grad():
            for key, p in sae.named_parameters():
                p.copy_(rand(*p.shape).abs() if key == "threshold" else rand(*p.shape))
        tensors = {key: p.detach().clone() for key, p in sae.named_parameters()}
        tensors["W_enc"] = tensors["W_enc"].T
        if "threshold" in tensors:
            tensors["activation_function.threshold"] = tensors.pop("threshold")
        keep(a_set(name, tensors), sae, skips=name == "skip")
        if name == "skip":
            keep(a_set("skip-first-revision", tensors | {"W_dec": tensors["W_dec"].T}), sae, skips=True)


if __name__ == "__main__":
    by_the_loader()
    by_its_classes()

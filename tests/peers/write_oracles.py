"""Runs where the real libraries are: writes SAEs of every kind with random parameters, and what the library makes of them.

Each folder under ``argv[1]`` gets the library's own files and ``oracle.npz`` with ``acts``, ``latents`` (dense) and ``recon``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

D, S, OUT = 12, 40, 9
ROOT = Path(sys.argv[1])


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(sum(p.numel() for p in module.parameters()))
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator))
            if "threshold" in name:
                p.abs_().mul_(0.3)


def keep(folder: Path, acts: torch.Tensor, latents: torch.Tensor, recon: torch.Tensor) -> None:
    np.savez(folder / "oracle.npz", acts=acts.numpy(), latents=latents.detach().numpy(), recon=recon.detach().numpy())


def acts() -> torch.Tensor:
    return 2 * torch.randn(64, D, generator=torch.Generator().manual_seed(7)) + 0.5


def sae_lens() -> None:
    import sae_lens as sl

    cases = {
        "standard": (sl.StandardSAE, sl.StandardSAEConfig, {}),
        "standard-no-shift": (sl.StandardSAE, sl.StandardSAEConfig, {"apply_b_dec_to_input": False}),
        "standard-layer-norm": (sl.StandardSAE, sl.StandardSAEConfig, {"normalize_activations": "layer_norm"}),
        "standard-rescale": (sl.StandardSAE, sl.StandardSAEConfig, {"normalize_activations": "constant_norm_rescale"}),
        "standard-average": (sl.StandardSAE, sl.StandardSAEConfig, {"normalize_activations": "expected_average_only_in"}),
        "gated": (sl.GatedSAE, sl.GatedSAEConfig, {}),
        "jumprelu": (sl.JumpReLUSAE, sl.JumpReLUSAEConfig, {}),
        "topk": (sl.TopKSAE, sl.TopKSAEConfig, {"k": 4}),
        "topk-rescaled": (sl.TopKSAE, sl.TopKSAEConfig, {"k": 4, "rescale_acts_by_decoder_norm": True}),
        "transcoder": (sl.Transcoder, sl.TranscoderConfig, {"d_out": OUT, "apply_b_dec_to_input": False}),
        "skip_transcoder": (sl.SkipTranscoder, sl.SkipTranscoderConfig, {"d_out": OUT, "apply_b_dec_to_input": False}),
        "jumprelu_transcoder": (
            sl.JumpReLUTranscoder,
            sl.JumpReLUTranscoderConfig,
            {"d_out": OUT, "apply_b_dec_to_input": False},
        ),
    }
    for name, (kind, config, options) in cases.items():
        sae = kind(config(d_in=D, d_sae=S, **options))
        randomise(sae)
        sae.cfg.metadata.hook_name = "blocks.1.ln2.hook_normalized" if "transcoder" in name else "blocks.1.hook_resid_pre"
        if "transcoder" in name:
            sae.cfg.metadata.hook_name_out = "blocks.1.hook_mlp_out"
        folder = ROOT / f"sae_lens-{name}"
        sae.save_model(folder)
        loaded = sl.SAE.load_from_disk(folder, device="cpu")
        x = acts()
        with torch.no_grad():
            latents = loaded.encode(x)
            keep(folder, x, latents, loaded.decode(latents) if "skip" not in name else loaded(x))


def sae_lens_training() -> None:
    import sae_lens as sl

    for name, kind, config, options in (
        ("batchtopk", sl.BatchTopKTrainingSAE, sl.BatchTopKTrainingSAEConfig, {"k": 4}),
        (
            "matryoshka",
            sl.MatryoshkaBatchTopKTrainingSAE,
            sl.MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": 4, "matryoshka_widths": [10, S]},
        ),
    ):
        sae = kind(config(d_in=D, d_sae=S, **options))
        randomise(sae)
        sae.topk_threshold.fill_(1.3)
        folder = ROOT / f"sae_lens-{name}-inference"
        sae.save_inference_model(folder)
        loaded = sl.SAE.load_from_disk(folder, device="cpu")
        x = acts()
        with torch.no_grad():
            latents = loaded.encode(x)
            keep(folder, x, latents, loaded.decode(latents))
        checkpoint = ROOT / f"sae_lens-{name}-checkpoint"
        sae.save_model(checkpoint)
        with torch.no_grad():
            keep(checkpoint, x, latents, loaded.decode(latents))


def dictionary_learning() -> None:
    from dictionary_learning import dictionary as dl
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    made = {
        "AutoEncoder": dl.AutoEncoder(D, S),
        "AutoEncoderNew": dl.AutoEncoderNew(D, S),
        "GatedAutoEncoder": dl.GatedAutoEncoder(D, S),
        "JumpReluAutoEncoder": dl.JumpReluAutoEncoder(D, S),
        "AutoEncoderTopK": AutoEncoderTopK(D, S, 4),
        "BatchTopKSAE": BatchTopKSAE(D, S, 4),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D, S, 4, [10, S - 10]),
    }
    for name, ae in made.items():
        randomise(ae)
        if name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
            ae.threshold.fill_(0.9)
        folder = ROOT / f"dictionary_learning-{name}"
        folder.mkdir(parents=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {
            "dict_class": name,
            "activation_dim": D,
            "dict_size": S,
            "k": 4,
            "layer": 1,
            "submodule_name": "resid_post_layer_1",
        }
        (folder / "config.json").write_text(json.dumps({"trainer": trainer}))
        x = acts()
        with torch.no_grad():
            latents = ae.encode(x)
            keep(folder, x, latents, ae.decode(latents))


def sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    for name, options in (
        ("topk", {}),
        ("groupmax", {"activation": "groupmax"}),
        ("transcode", {"transcode": True, "skip_connection": True}),
    ):
        coder = SparseCoder(D, SparseCoderConfig(k=4, num_latents=S, **options))
        randomise(coder)
        folder = ROOT / f"sparsify-{name}" / ("layers.1.mlp" if name == "transcode" else "layers.1")
        coder.save_to_disk(folder)
        coder = SparseCoder.load_from_disk(folder, device="cpu")
        x = acts()
        with torch.no_grad():
            top, indices, _ = coder.encode(x)
            latents = torch.zeros(len(x), S).scatter_(1, indices, top)
            recon = coder.decode(top, indices)
            if coder.W_skip is not None:
                recon = recon + x @ coder.W_skip.mT
            keep(folder, x, latents, recon)


if __name__ == "__main__":
    for write in (sae_lens, sae_lens_training, dictionary_learning, sparsify):
        write()

"""Repositories as they are published, with small SAEs of random numbers, for tests of where files come from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.sae.formats.cases import D, S, rand


def native_turned(seed: int = 0) -> dict[str, Tensor]:
    """Encoder ``[D, S]``, decoder ``[S, D]``."""
    return {
        "W_enc": rand(D, S, seed=seed), "b_enc": rand(S, seed=seed), "W_dec": rand(S, D, seed=seed), "b_dec": rand(D, seed=seed),
    }  # fmt: skip


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def sae_lens(root: Path, folder: str, seed: int = 0, **cfg: object) -> None:
    site = next((word for word in folder.split("/") if word.startswith("blocks.")), "blocks.1.hook_resid_pre")
    old = {"d_in": D, "d_sae": S, "model_name": "gpt2-small", "hook_point": site, "context_size": 128}
    write_json(root / folder / "cfg.json", old | cfg)
    save_file(native_turned(seed), root / folder / "sae_weights.safetensors")
    save_file({"sparsity": rand(S)}, root / folder / "sparsity.safetensors")


def sae_lens_repo(root: Path) -> None:
    for layer in (0, 8):
        sae_lens(root, f"blocks.{layer}.hook_resid_pre", seed=layer)
    (root / "README.md").write_text("SAEs")


def sparsify_repo(root: Path) -> None:
    for layer in (5, 10):
        folder = root / f"layers.{layer}"
        write_json(folder / "cfg.json", {"k": 4, "d_in": D, "expansion_factor": 1, "num_latents": S})
        w = native_turned(layer)
        weights = {
            "encoder.weight": w["W_enc"].T.contiguous(),
            "encoder.bias": w["b_enc"],
            "W_dec": w["W_dec"],
            "b_dec": w["b_dec"],
        }
        save_file(weights, folder / "sae.safetensors")
    write_json(root / "config.json", {"model": "EleutherAI/pythia-160m", "ctx_len": 2048})
    for name in ("optimizer_0.pt", "lr_scheduler_0.pt", "state.pt", "rank_0_state.pt"):
        torch.save({"step": 1}, root / name)
    (root / "too-large.json").write_text(json.dumps("x" * (1 << 20)))


def dictionary_learning_folder(folder: Path, n: int) -> None:
    trainer = {
        "trainer_class": "TopKTrainer", "dict_class": "AutoEncoderTopK", "activation_dim": D, "dict_size": S, "k": 4, "layer": 3,
        "submodule_name": "resid_post_layer_3", "lm_name": "pythia-70m",
    }  # fmt: skip
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": 64}})
    w = native_turned(n)
    weights = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, "b_dec": w["b_dec"]}
    torch.save(weights | {"k": torch.tensor(4)}, folder / "ae.pt")
    (folder / "checkpoints").mkdir()
    torch.save(weights, folder / "checkpoints/ae_1000.pt")


def dictionary_learning_repo(root: Path) -> None:
    for n in (0, 1):
        dictionary_learning_folder(root / f"sweep/resid_post_layer_3/trainer_{n}", n)


def gemma_scope_repo(root: Path) -> None:
    for l0 in (38, 71):
        folder = root / f"layer_20/width_16k/average_l0_{l0}"
        folder.mkdir(parents=True)
        arrays = {key: one.numpy() for key, one in native_turned(l0).items()}
        np.savez(folder / "params.npz", threshold=np.full(S, 0.5, dtype=np.float32), **arrays)


def openmoss_repo(root: Path) -> None:
    for layer in (0, 18):
        folder = root / f"Llama3_1-8B-Base-L{layer}R-8x"
        hyper = {
            "hook_point_in": f"blocks.{layer}.hook_resid_post", "hook_point_out": f"blocks.{layer}.hook_resid_post", "d_model": D,
            "d_sae": S, "expansion_factor": 1, "act_fn": "jumprelu", "jump_relu_threshold": 0.2,
            "norm_activation": "dataset-wise", "dataset_average_activation_norm": {"in": 6.0, "out": 6.0},
            "sparsity_include_decoder_norm": True,
            "apply_decoder_bias_to_pre_encoder": False, "use_decoder_bias": True,
        }  # fmt: skip
        write_json(folder / "hyperparams.json", hyper)
        write_json(folder / "lm_config.json", {"model_name": "meta-llama/Llama-3.1-8B"})
        (folder / "checkpoints").mkdir()
        w = native_turned(layer)
        weights = {
            "encoder.weight": w["W_enc"].T.contiguous(), "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T.contiguous(),
            "decoder.bias": w["b_dec"],
        }  # fmt: skip
        save_file(weights, folder / "checkpoints/final.safetensors")


def qwen_scope_repo(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for layer in (4, 5):
        w_enc, w_dec = rand(1024, D, seed=layer), rand(D, 1024, seed=layer)
        torch.save({"W_enc": w_enc, "b_enc": rand(1024), "W_dec": w_dec, "b_dec": rand(D)}, root / f"layer{layer}.sae.pt")


def circuit_tracer_repo(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    )
    for layer in (2, 3):
        w = native_turned(layer)
        save_file(w | {"W_enc": w["W_enc"].T.contiguous()}, root / f"layer_{layer}.safetensors")


def neel_nanda_repo(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for run in (25, 47):
        torch.save(native_turned(run), root / f"{run}.pt")
        cfg = {
            "act_size": D,
            "dict_size": S,
            "site": "mlp_out",
            "layer": 0,
            "act_name": "blocks.0.hook_mlp_out",
            "model_name": "gelu-1l",
        }
        write_json(root / f"{run}_cfg.json", cfg)
    torch.save(rand(D), root / "rare_freq_dir.pt")


def root_repo(root: Path) -> None:
    sae_lens(root, ".")
    torch.save({"step": 1}, root / "trainer_state.pt")


Writer = Callable[[Path], None]
LAYOUTS: dict[str, tuple[str, Writer, str, list[str], dict[str, object]]] = {
    "sae_lens": (
        "jbloom/GPT2-Small-SAEs", sae_lens_repo, "blocks.8.hook_resid_pre",
        ["blocks.8.hook_resid_pre/cfg.json", "blocks.8.hook_resid_pre/sae_weights.safetensors"],
        {"site": "blocks.8.hook_resid_pre", "model_id": "gpt2-small", "name": "blocks.8.hook_resid_pre"},
    ),
    "sparsify": (
        "EleutherAI/sae-pythia-160m-32k", sparsify_repo, "layers.5",
        ["config.json", "layers.5/cfg.json", "layers.5/sae.safetensors"],
        {"site": "blocks.5.hook_resid_post", "model_id": "EleutherAI/pythia-160m", "context_length": 2048,
         "name": "sae-pythia-160m-32k-layers.5"},
    ),
    "dictionary_learning": (
        "canrager/lm_sae", dictionary_learning_repo, "sweep/resid_post_layer_3/trainer_1",
        [f"sweep/resid_post_layer_3/trainer_1/{name}" for name in ("ae.pt", "config.json")],
        {"site": "blocks.3.hook_resid_post", "model_id": "pythia-70m", "name": "resid_post_layer_3-trainer_1", "k": 4},
    ),
    "gemma_scope": (
        "google/gemma-scope-2b-pt-res", gemma_scope_repo, "layer_20/width_16k/average_l0_71",
        ["layer_20/width_16k/average_l0_71/params.npz"], {"site": "blocks.20.hook_resid_post", "model_id": "google/gemma-2-2b"},
    ),
    "openmoss_v1": (
        "fnlp/Llama3_1-8B-Base-LXR-8x", openmoss_repo, "Llama3_1-8B-Base-L18R-8x",
        [f"Llama3_1-8B-Base-L18R-8x/{name}" for name in ("checkpoints/final.safetensors", "hyperparams.json", "lm_config.json")],
        {"site": "blocks.18.hook_resid_post", "name": "Llama3_1-8B-Base-L18R-8x"},
    ),
    "qwen_scope": (
        "Qwen/SAE-Res-Qwen3-8B-Base-W1K-L0_50", qwen_scope_repo, "layer5.sae.pt", ["layer5.sae.pt"],
        {"site": "blocks.5.hook_resid_post", "model_id": "Qwen/Qwen3-8B-Base", "k": 50,
         "name": "SAE-Res-Qwen3-8B-Base-W1K-L0_50-layer5.sae"},
    ),
    "circuit_tracer": (
        "mwhanna/qwen3-4b-transcoders", circuit_tracer_repo, "layer_3.safetensors", ["config.yaml", "layer_3.safetensors"],
        {"site": "blocks.3.mlp.hook_in", "model_id": "Qwen/Qwen3-4B", "name": "qwen3-4b-transcoders-layer_3"},
    ),
    "neel_nanda": (
        "NeelNanda/sparse_autoencoder", neel_nanda_repo, "25.pt", ["25.pt", "25_cfg.json"],
        {"site": "blocks.0.hook_mlp_out", "model_id": "gelu-1l", "name": "sparse_autoencoder-25"},
    ),
    "root": (
        "someone/one-sae", root_repo, "", ["cfg.json", "sae_weights.safetensors"],
        {"format": "sae_lens", "site": "blocks.1.hook_resid_pre", "name": "one-sae"},
    ),
}  # fmt: skip
"""By format: repository, what writes it, the SAE in it, the files that have to be fetched for it, what is known of it then."""

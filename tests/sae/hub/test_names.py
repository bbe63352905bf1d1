"""Which SAEs a repository holds and which files each needs, from names alone."""

from __future__ import annotations

import pytest

from saebench.sae.hub.names import candidates, is_weights, settings_of

GPT2 = [
    f"blocks.{n}.hook_resid_pre/{file}"
    for n in (0, 8, 11)
    for file in ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
]
SPARSIFY = [
    "README.md", "config.json", "lr_scheduler_0.pt", "optimizer_0.pt", "optimizer_1.pt", "rank_0_state.pt", "state.pt",
    *(f"layers.{n}{part}/{file}" for n in (5, 10) for part in ("", ".mlp") for file in ("cfg.json", "sae.safetensors")),
]  # fmt: skip
SWEEP = [
    *(f"run/resid_post_layer_3/trainer_{n}/{file}" for n in (0, 1) for file in ("ae.pt", "config.json", "eval_results.json")),
    *(f"run/resid_post_layer_3/trainer_0/checkpoints/ae_{step}.pt" for step in (0, 1000)),
]
GEMMA = [f"layer_{n}/width_16k/average_l0_{m}/params.npz" for n in (0, 20) for m in (38, 71)]
LLAMA = [
    f"Llama-L{n}R-8x/{file}" for n in (0, 1) for file in ("hyperparams.json", "lm_config.json", "checkpoints/final.safetensors")
]
LLAMA_PRUNED = [
    "L0/hyperparams.json",
    "L0/checkpoints/final.pt",
    "L0/checkpoints/final.safetensors",
    "L0/checkpoints/pruned.safetensors",
]
QWEN = ["README.md", *(f"layer{n}.sae.pt" for n in range(28))]
TRANSCODERS = ["config.yaml", "wandb-config.yaml", *(f"layer_{n}.safetensors" for n in (0, 3))]
NEEL = ["25.pt", "25_cfg.json", "47.pt", "47_cfg.json", "rare_freq_dir.pt"]
ONE = ["README.md", ".gitattributes", "config.yaml", "Llama-3.1-8B-Instruct-SAE-l19.pth"]
CHECKPOINT = [
    "cfg.json", "sae_weights.safetensors", "trainer_state.pt", "activations_store_state.safetensors", "activation_scaler.json",
    "activation_whitening.safetensors",
]  # fmt: skip


@pytest.mark.parametrize(
    ("files", "inside", "expected"),
    [
        (GPT2, "", ["blocks.0.hook_resid_pre", "blocks.11.hook_resid_pre", "blocks.8.hook_resid_pre"]),
        (GPT2, "blocks.8.hook_resid_pre", ["blocks.8.hook_resid_pre"]),
        (SPARSIFY, "", ["layers.10", "layers.10.mlp", "layers.5", "layers.5.mlp"]),
        (SPARSIFY, "layers.5", ["layers.5"]),
        (SWEEP, "", ["run/resid_post_layer_3/trainer_0", "run/resid_post_layer_3/trainer_1"]),
        (SWEEP, "run/resid_post_layer_3/trainer_0/checkpoints", [
            f"run/resid_post_layer_3/trainer_0/checkpoints/ae_{step}.pt" for step in (0, 1000)]),
        (GEMMA, "layer_20", ["layer_20/width_16k/average_l0_38", "layer_20/width_16k/average_l0_71"]),
        (GEMMA, "layer_2", []),
        (LLAMA, "", ["Llama-L0R-8x", "Llama-L1R-8x"]),
        (QWEN, "", sorted(f"layer{n}.sae.pt" for n in range(28))),
        (TRANSCODERS, "", ["layer_0.safetensors", "layer_3.safetensors"]),
        (NEEL, "", ["25.pt", "47.pt"]),
        (ONE, "", ["Llama-3.1-8B-Instruct-SAE-l19.pth"]),
        (CHECKPOINT, "", [""]),
        ([*CHECKPOINT, *(f"old/{name}" for name in CHECKPOINT)], "", [""]),
        (["README.md", "tokenizer.json"], "", []),
    ],
)  # fmt: skip
def test_what_a_repository_holds(files: list[str], inside: str, expected: list[str]) -> None:
    assert [one.path for one in candidates(files, inside)] == expected


@pytest.mark.parametrize(
    ("files", "inside", "weights", "settings"),
    [
        (GPT2, "blocks.8.hook_resid_pre", ["sae_weights.safetensors"], ["blocks.8.hook_resid_pre/cfg.json"]),
        (SPARSIFY, "layers.5.mlp", ["sae.safetensors"], ["config.json", "layers.5.mlp/cfg.json"]),
        (
            LLAMA,
            "Llama-L1R-8x",
            ["checkpoints/final.safetensors"],
            ["Llama-L1R-8x/lm_config.json", "Llama-L1R-8x/hyperparams.json"],
        ),
        (LLAMA_PRUNED, "L0", ["checkpoints/pruned.safetensors"], ["L0/hyperparams.json"]),
        (CHECKPOINT, "", ["sae_weights.safetensors", "activation_whitening.safetensors"], ["cfg.json", "activation_scaler.json"]),
    ],
)
def test_what_one_needs(files: list[str], inside: str, weights: list[str], settings: list[str]) -> None:
    [one] = candidates(files, inside)
    assert list(one.weights) == [f"{inside}/{name}" if inside else name for name in weights]
    assert settings_of(files, one) == settings


def test_of_very_many_settings_those_named_like_the_weights_are_kept() -> None:
    files = ["a/sae_12.pt", "a/sae_12_cfg.json", "a/cfg.json", "top.yaml", *(f"a/some_run_{n:03}.json" for n in range(300))]
    [one] = candidates(files)
    kept = settings_of(files, one)
    assert {"a/sae_12_cfg.json", "a/cfg.json", "top.yaml"} <= set(kept) and len(kept) < 40


def test_settings_of_the_weights_beside_it_are_left_out() -> None:
    files = [file for n in (1, 10, 12) for file in (f"layer_{n}.pt", f"layer_{n}_cfg.json")] + ["cfg.json"]
    for one in candidates(files):
        assert settings_of(files, one) == [one.path.replace(".pt", "_cfg.json"), "cfg.json"]


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt", "optimizer_0.pt", "a/optimiser.pth", "layer3_optimizer.pt", "lr_scheduler_0.pt", "rank_12_state.pt",
        "state.pt", "trainer_state.pt", "activations.pt", "activations_3.safetensors", "activations_store_state.safetensors",
        "activation_whitening.safetensors", "sparsity.safetensors", "final_sae_log_feature_sparsity.pt",
        "activations/part0.safetensors", "wandb/run/model.pt", "cfg.json", "weights.bin", "pickle.pkl",
    ],
)  # fmt: skip
def test_what_is_no_weights_of_an_sae(name: str) -> None:
    assert not is_weights(name)


@pytest.mark.parametrize(
    "name", ["sae_state.pt", "25.pt", "layer5.sae.pt", "state_dict.pt", "optimal/ae.pt", "topk-activation/ae.pt"]
)
def test_what_may_be_weights(name: str) -> None:
    assert is_weights(name)

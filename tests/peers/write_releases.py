"""Runs where sae_lens is: writes tiny files in the layouts of published releases, and what its own loaders make of them.

Nothing is fetched: ``hf_hub_download`` is replaced by a look into ``argv[1]``, where each repository is a folder ``owner/name``.
``argv[1]/oracles.json`` lists what was written: path, site, model and the like as sae_lens has them, and the file of numbers.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import sae_lens as sl
import torch
from huggingface_hub.utils import EntryNotFoundError
from sae_lens.loading import pretrained_sae_loaders as loaders
from safetensors import safe_open
from safetensors.torch import save_file

D, S, OUT = 12, 40, 9
ROOT = Path(sys.argv[1])
ROWS: list[dict[str, Any]] = []
GEMMA = {
    "resid_post": ("output", "output"),
    "attn_out": ("self_attn.o_proj.input", "self_attn.o_proj.input"),
    "mlp_out": ("post_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "transcoder": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}


def rand(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def acts() -> torch.Tensor:
    return 2 * rand(64, D, seed=7) + 0.5


def local(repo_id: str, filename: str, subfolder: str | None = None, **_: object) -> str:
    path = ROOT / repo_id / (subfolder or "") / filename
    if not path.is_file():
        raise EntryNotFoundError(str(path))
    return str(path)


def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
    with safe_open(local(repo_id, filename), framework="pt") as handle:
        return {key: list(handle.get_slice(key).get_shape()) for key in handle.keys()}


def keep(repo: str, name: str, path: Path, converter: Any) -> None:
    """Load ``name`` of ``repo`` with sae_lens' loader and note what it makes of the acts."""
    loaded = sl.SAE.from_pretrained_with_cfg_and_sparsity(repo, name, converter=converter)
    sae, cfg = loaded[0], loaded[1]
    x = acts().view(-1, 3, D // 3) if sae.cfg.reshape_activations == "hook_z" else acts()
    with torch.no_grad():
        latents = sae.encode(x)
        recon = sae(x) if "skip" in cfg["architecture"] else sae.decode(latents)
    numbers = f"{len(ROWS)}.npz"
    np.savez(ROOT / numbers, acts=acts().numpy(), latents=latents.numpy(), recon=recon.flatten(1).numpy())
    meta = sae.cfg.metadata
    ROWS.append(
        {"path": str(path), "numbers": numbers, "architecture": cfg["architecture"], "model": meta.model_name,
         "hook": meta.hook_name, "hook_out": meta.hook_name_out, "context": meta.context_size, "bos": meta.prepend_bos}
    )  # fmt: skip


def narrow(config: Any) -> Any:
    """Return ``config``, which takes the widths of the one published SAE for granted, with those of the tiny one."""

    def changed(*args: Any, **kwargs: Any) -> dict[str, Any]:
        given = config(*args, **kwargs)
        return {**given, "d_in": D, "d_sae": S, **({"d_out": D} if "d_out" in given else {})}

    return changed


def gemma_scope() -> None:
    """The published widths are taken from names; those of the tiny files take their place."""
    loaders.get_gemma_2_config_from_hf = narrow(loaders.get_gemma_2_config_from_hf)
    loaders.get_gemma_2_transcoder_config_from_hf = narrow(loaders.get_gemma_2_transcoder_config_from_hf)
    for at, (repo, name) in enumerate(
        (
            ("google/gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"),
            ("google/gemma-scope-2b-pt-res", "embedding/width_4k/average_l0_6"),
            ("google/gemma-scope-9b-pt-mlp", "layer_3/width_131k/average_l0_12"),
            ("google/gemma-scope-2b-pt-att", "layer_0/width_65k/canonical"),
            ("google/gemma-scope-2b-pt-transcoders", "layer_7/width_16k/average_l0_6"),
        )
    ):
        folder = ROOT / repo / name
        folder.mkdir(parents=True)
        tensors = {
            "W_enc": rand(D, S, seed=at), "b_enc": rand(S, seed=at + 1), "W_dec": rand(S, D, seed=at + 2),
            "b_dec": rand(D, seed=at + 3), "threshold": rand(S, seed=at + 4).abs(),
        }  # fmt: skip
        arrays: dict[str, Any] = {key: one.numpy() for key, one in tensors.items()}
        np.savez(folder / "params.npz", **arrays)
        transcoder = repo.endswith("transcoders")
        converter = loaders.gemma_2_transcoder_huggingface_loader if transcoder else loaders.gemma_2_sae_huggingface_loader
        keep(repo, name, folder, converter)


def gemma_scope_2() -> None:
    repos = ("google/gemma-scope-2-4b-it", "google/gemma-scope-2-270m-pt")
    kinds = (("resid_post", "_all"), ("attn_out", "_all"), ("mlp_out", "_all"), ("transcoder", ""), ("transcoder", "_affine"))
    for at, (repo, (kind, suffix), settings) in enumerate(product(repos, kinds, (True, False))):
        name = f"{kind}{suffix.replace('_affine', '')}/layer_{at}_width_16k_l0_medium{suffix.replace('_all', '')}"
        folder = ROOT / repo / name
        folder.mkdir(parents=True)
        d_out = OUT if kind == "transcoder" else D
        tensors = {
            "w_enc": rand(D, S, seed=at), "b_enc": rand(S, seed=at + 1), "w_dec": rand(S, d_out, seed=at + 2),
            "b_dec": rand(d_out, seed=at + 3), "threshold": rand(S, seed=at + 4).abs(),
        }  # fmt: skip
        if suffix == "_affine":
            tensors["affine_skip_connection"] = rand(D, d_out, seed=at + 5)
        save_file(tensors, folder / "params.safetensors")
        if settings:
            reads, writes = (f"model.layers.{at}.{module}" for module in GEMMA[kind])
            about = {
                "hf_hook_point_in": reads, "hf_hook_point_out": writes, "width": S, "architecture": "jump_relu", "l0": 60,
                "model_name": repo.replace("gemma-scope-2", "gemma-3"), "affine_connection": suffix == "_affine",
                "type": "transcoder" if kind == "transcoder" else "sae",
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(about))
        keep(repo, name, folder, loaders.gemma_3_sae_huggingface_loader)


def linears(repo: str, file: str, prefixes: tuple[str, str], dtype: torch.dtype, converter: Any) -> None:
    encoder, decoder = prefixes
    tensors = {
        f"{encoder}.weight": rand(S, D, seed=1), f"{encoder}.bias": rand(S, seed=2),
        f"{decoder}.weight": rand(D, S, seed=3), f"{decoder}.bias": rand(D, seed=4),
    }  # fmt: skip
    (ROOT / repo).mkdir(parents=True)
    torch.save({key: one.to(dtype) for key, one in tensors.items()}, ROOT / repo / file)
    keep(repo, file, ROOT / repo / file, converter)


def goodfire() -> None:
    loaders.get_goodfire_config_from_hf = narrow(loaders.get_goodfire_config_from_hf)
    for name, end in (("Llama-3.1-8B-Instruct-SAE-l19", "pth"), ("Llama-3.3-70B-Instruct-SAE-l50", "pt")):
        prefixes = ("encoder_linear", "decoder_linear")
        linears(f"Goodfire/{name}", f"{name}.{end}", prefixes, torch.float32, loaders.get_goodfire_huggingface_loader)


def deepseek_r1() -> None:
    loaders.get_deepseek_r1_config_from_hf = narrow(loaders.get_deepseek_r1_config_from_hf)
    name = "DeepSeek-R1-Distill-Llama-8B-SAE-l19"
    prefixes = ("encoder", "decoder")
    linears(f"qresearch/{name}", f"{name}.pt", prefixes, torch.bfloat16, loaders.deepseek_r1_sae_huggingface_loader)


def qwen_scope() -> None:
    model, _ = loaders.QWEN_SCOPE_MODEL_INFO["Qwen3-1.7B-Base"]
    loaders.QWEN_SCOPE_MODEL_INFO["Qwen3-1.7B-Base"] = (model, D)
    repo = "Qwen/SAE-Res-Qwen3-1.7B-Base-W1K-L0_9"
    (ROOT / repo).mkdir(parents=True)
    for layer in (0, 11):
        tensors = {
            "W_enc": rand(1024, D, seed=layer), "W_dec": rand(D, 1024, seed=layer + 1), "b_enc": rand(1024, seed=layer + 2) - 9,
            "b_dec": rand(D, seed=layer + 3),
        }  # fmt: skip
        torch.save(tensors, ROOT / repo / f"layer{layer}.sae.pt")
        file = f"layer{layer}.sae.pt"
        keep(repo, file, ROOT / repo / file, loaders.qwen_scope_sae_huggingface_loader)


def attention() -> None:
    """All heads side by side, as Kissane and Krzyzanowski published them."""
    repo, name = "ckkissane/attn-saes-gpt2-small-all-layers", "gpt2-small_L5_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_v9"
    (ROOT / repo).mkdir(parents=True)
    tensors = {"W_enc": rand(D, S, seed=1), "b_enc": rand(S, seed=2), "W_dec": rand(S, D, seed=3), "b_dec": rand(D, seed=4)}
    torch.save(tensors, ROOT / repo / f"{name}.pt")
    cfg = {
        "act_name": "blocks.5.attn.hook_z", "act_size": D, "dict_size": S, "model_name": "gpt2-small", "seq_len": 128,
        "enc_dtype": "fp32", "head": "cat", "layer": 5, "site": "z",
    }  # fmt: skip
    (ROOT / repo / f"{name}_cfg.json").write_text(json.dumps(cfg))
    keep(repo, f"{name}.pt", ROOT / repo / f"{name}.pt", loaders.connor_rob_hook_z_huggingface_loader)


if __name__ == "__main__":
    loaders.hf_hub_download, loaders.get_safetensors_tensor_shapes = local, shapes
    for write in (gemma_scope, gemma_scope_2, goodfire, deepseek_r1, qwen_scope, attention):
        write()
    (ROOT / "oracles.json").write_text(json.dumps(ROWS))

"""SAEs of dictionary_learning: every class with random parameters, and real runs of every trainer with their checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from oracle_files import ROOT, D, K, S, acts, keep, randomise

AMBIGUOUS = ("AutoEncoderTopK", "BatchTopKSAE")


def classes() -> dict[str, type]:
    from dictionary_learning import dictionary as dl
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    kinds = (dl.AutoEncoder, dl.AutoEncoderNew, dl.GatedAutoEncoder, dl.JumpReluAutoEncoder, AutoEncoderTopK, BatchTopKSAE)
    return {kind.__name__: kind for kind in (*kinds, MatryoshkaBatchTopKSAE)}


def tell(ae: Any, folder: Path, **more: str) -> None:
    with torch.no_grad():
        latents = ae.encode(acts())
        keep(folder, latents, ae.decode(latents), **more)


def random() -> None:
    for name, kind in classes().items():
        ks = () if "k" not in kind.__init__.__annotations__ else (K,)
        ae = kind(D, S, *ks, *([[10, S - 10]] if "Matryoshka" in name else []))
        randomise(ae)
        if hasattr(ae, "threshold") and ae.threshold.ndim == 0:
            ae.threshold.fill_(0.9)
        folder = ROOT / f"dictionary_learning-{name}"
        folder.mkdir(parents=True)
        torch.save(ae.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "activation_dim": D, "dict_size": S, "layer": 1, "submodule_name": "resid_post_layer_1"}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer | {"k": K}}))
        tell(ae, folder)
        bare = ROOT / f"dictionary_learning-bare-{name}"
        bare.mkdir()
        torch.save(ae.state_dict(), bare / "ae.pt")
        tell(ae, bare, **{"class": name} if name in AMBIGUOUS else {})


def trained(trainer: type, steps: int = 40, **options: Any) -> None:
    """Run a trainer on normalised acts; the library's own loaders read the final SAE and a checkpoint."""
    from dictionary_learning.training import trainSAE

    generator = torch.Generator().manual_seed(5)
    data = [2 * torch.randn(64, D, generator=generator) + 0.5 for _ in range(steps + 1)]
    base = {
        "activation_dim": D,
        "dict_size": S,
        "layer": 1,
        "lm_name": "some/model",
        "steps": steps,
        "warmup_steps": 5,
        "seed": 1,
    }
    root = ROOT / f"dictionary_learning-run-{trainer.__name__}"
    config = base | {"trainer": trainer, "device": "cpu"} | options
    trainSAE(
        data=data, trainer_configs=[config], steps=steps, save_steps=[20], save_dir=str(root), device="cpu",
        normalize_activations=True,
    )  # fmt: skip
    folder = root / "trainer_0"
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    plain = {"normalize_decoder": False} if name == "AutoEncoder" else {}  # by default the loader rescales the decoder
    tell(classes()[name].from_pretrained(str(folder / "ae.pt"), **plain), folder)
    step = classes()[name].from_pretrained(str(folder / "checkpoints" / "ae_20.pt"), **plain)
    tell(step, root / "step", load="../trainer_0/checkpoints/ae_20.pt")


def write() -> None:
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate

    random()
    topk = {"k": K, "threshold_start_step": 10, "lr": 1e-2}
    trained(trainers.StandardTrainer, sparsity_warmup_steps=5, lr=1e-2)
    trained(StandardTrainerAprilUpdate, sparsity_warmup_steps=5, lr=1e-2)
    trained(trainers.GatedSAETrainer, sparsity_warmup_steps=5, lr=1e-2)
    trained(trainers.PAnnealTrainer, sparsity_warmup_steps=5, anneal_start=10, n_sparsity_updates=4, p_end=0.5, lr=1e-2)
    trained(trainers.JumpReluTrainer, sparsity_warmup_steps=5, lr=1e-2)
    trained(trainers.TopKTrainer, **topk)
    trained(trainers.BatchTopKTrainer, **topk)
    trained(MatryoshkaBatchTopKTrainer, group_fractions=[0.25, 0.75], **topk)

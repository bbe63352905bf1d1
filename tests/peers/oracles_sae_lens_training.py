"""Checkpoints of sae_lens' training classes beside what their final save makes of them, and a real run of its trainer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from oracle_files import ROOT, D, K, S, acts, keep, randomise
from oracles_sae_lens import unit_rows

WIDTHS = {"matryoshka_widths": [10, S]}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("Standard", {}),
    "gated": ("Gated", {"apply_b_dec_to_input": False}),
    "jumprelu": ("JumpReLU", {"apply_b_dec_to_input": False}),
    "topk": ("TopK", {"k": K}),
    "topk-plain": ("TopK", {"k": K, "rescale_acts_by_decoder_norm": False}),
    "abstopk": ("AbsTopK", {"k": K}),
    "batchtopk": ("BatchTopK", {"k": K + 0.5}),
    "batchtopk-plain": ("BatchTopK", {"k": K, "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False}),
    "matryoshka": ("MatryoshkaBatchTopK", {"k": K} | WIDTHS),
    "matryoshka-plain": ("MatryoshkaBatchTopK", {"k": K, "rescale_acts_by_decoder_norm": False} | WIDTHS),
    "matching_pursuit": ("MatchingPursuit", {"decoder_init_norm": 1.0, "residual_threshold": 0.5}),
}


def made(name: str, **more: Any) -> Any:
    import sae_lens as sl

    kind, options = KINDS[name]
    config = getattr(sl, f"{kind}TrainingSAEConfig")(d_in=D, d_sae=S, **options | more)
    sae = getattr(sl, f"{kind}TrainingSAE")(config)
    randomise(sae)
    if "pursuit" in name:
        unit_rows(sae)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(1.3)
    sae.cfg.metadata.hook_name = "blocks.1.hook_resid_pre"
    return sae


def finish(sae: Any, scaler: Any) -> None:
    """Fold in what the trainer folds when training ends (``SAETrainer.fit``)."""
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        w = scaler.whitening
        sae.fold_activation_whitening(mean=w.mean, whitening_matrix=w.matrix, unwhitening_matrix=w.inverse_matrix)


def tell(sae: Any, final: Path, *others: Path) -> None:
    """Save for inference, and keep what the library makes of that for the checkpoints it came from too."""
    import sae_lens as sl

    sae.save_inference_model(final)
    loaded = sl.SAE.load_from_disk(final, device="cpu")
    with torch.no_grad():
        latents = loaded.encode(acts())
        for folder in (final, *others):
            keep(folder, latents, loaded.decode(latents))


def batches() -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(D, D, generator=generator)
    while True:
        yield 2 * torch.randn(64, D, generator=generator) @ mixed + 0.5


def run(kind: str) -> None:
    """Train for some steps; the checkpoint in the middle is compared with what it would be if training had ended there."""
    import sae_lens as sl
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.activation_scaler import ActivationScaler
    from sae_lens.training.sae_trainer import SAETrainer

    root = ROOT / f"sae_lens-run-{kind}"
    sae = made(kind, normalize_activations="expected_average_only_in")
    settings = SAETrainerConfig(
        total_training_samples=64 * 20, train_batch_size_samples=64, n_checkpoints=1, checkpoint_path=str(root),
        save_final_checkpoint=True, n_batches_for_norm_estimate=5, lr=1e-2, lr_end=1e-3,
    )  # fmt: skip
    SAETrainer(settings, sae, batches()).fit()
    tell(sae, root / "output", next(root.glob("final_*")))
    middle = next(path for path in root.iterdir() if path.name.isdigit())
    scaler = ActivationScaler()
    scaler.load(middle / "activation_scaler.json")
    assert scaler.scaling_factor is not None
    left = sl.TrainingSAE.load_from_disk(middle, device="cpu")
    finish(left, scaler)
    tell(left, root / "if-ended", middle)


def write() -> None:
    from sae_lens.training.activation_scaler import ActivationScaler

    for name in KINDS:
        sae = made(name)
        sae.save_model(ROOT / f"sae_lens-{name}-checkpoint")
        tell(sae, ROOT / f"sae_lens-{name}-inference", ROOT / f"sae_lens-{name}-checkpoint")
        for kind in ("expected_average_only_in", "covariance_whitening"):
            if kind == "covariance_whitening" and name == "matching_pursuit":
                continue  # refused by the library
            sae, scaler = made(name, normalize_activations=kind), ActivationScaler()
            folder = ROOT / f"sae_lens-{name}-middle-{kind}"
            sae.save_model(folder)
            if kind == "covariance_whitening":
                scaler.estimate_whitening(D, batches(), n_batches_for_norm_estimate=8)
            else:
                scaler.scaling_factor = 0.37
            scaler.save(str(folder / "activation_scaler.json"))
            finish(sae, scaler)
            tell(sae, ROOT / f"sae_lens-{name}-folded-{kind}", folder)
    for kind in ("batchtopk", "jumprelu", "topk"):
        run(kind)

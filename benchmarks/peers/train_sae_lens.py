"""Train with sae-lens 6.54: an SAE on given acts, or the time of a step, or of its whole pipeline. Prints one JSON line."""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator

import numpy as np
import torch
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer


def shuffled(acts: torch.Tensor, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches of rows, every row once a round."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(acts), generator=generator)
        for start in range(0, len(acts) - batch + 1, batch):
            yield acts[order[start : start + batch]]


def make(args: argparse.Namespace, d_in: int) -> TopKTrainingSAE | StandardTrainingSAE:
    """Return the SAE to train."""
    if args.recipe == "topk":
        return TopKTrainingSAE(
            TopKTrainingSAEConfig(d_in=d_in, d_sae=args.d_sae, k=args.k, use_sparse_activations=args.sparse, device="cpu")
        )
    warm = int(args.tokens // args.batch * args.l1_rise)
    config = StandardTrainingSAEConfig(d_in=d_in, d_sae=args.d_sae, l1_coefficient=args.l1, l1_warm_up_steps=warm, device="cpu")
    return StandardTrainingSAE(config)


def quality(args: argparse.Namespace) -> dict[str, float]:
    """Train on the acts of a file and save."""
    acts = torch.from_numpy(np.load(args.acts))
    torch.manual_seed(args.seed)
    sae = make(args, acts.shape[1])
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = "blocks.3.hook_resid_pre", "stories260K"
    sae.cfg.metadata.context_size = 128
    steps = args.tokens // args.batch
    config = SAETrainerConfig(
        total_training_samples=args.tokens, train_batch_size_samples=args.batch, lr=args.lr, lr_end=args.lr / 10,
        lr_decay_steps=steps // 5, dead_feature_window=100,
    )  # fmt: skip
    start = time.perf_counter()
    SAETrainer(config, sae, shuffled(acts, args.batch, args.seed)).fit()
    seconds = time.perf_counter() - start
    sae.save_inference_model(args.out)
    return {"seconds": seconds}


def step(args: argparse.Namespace) -> dict[str, object]:
    """Time steps on random acts."""
    torch.manual_seed(0)
    sae = make(args, args.d_in)
    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=args.batch, lr=3e-4, lr_end=3e-4)
    acts = torch.randn(2 * args.batch, args.d_in)
    trainer = SAETrainer(config, sae, shuffled(acts, args.batch, 0))
    return {"seconds": timed(lambda: trainer.step(next(trainer.data_provider)), args.steps)}


def timed(one: object, steps: int) -> list[float]:
    """Return the seconds of every step but the first."""
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        one()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return times[1:]


def pipeline(args: argparse.Namespace) -> dict[str, object]:
    """Time the library's own runner on a local model: tokens a second between two steps of its trainer."""
    from datasets import Dataset
    from hooked import hooked

    model, _ = hooked(args.model)
    tokens = np.load(args.acts)
    data = Dataset.from_dict({"input_ids": tokens.tolist()})
    data.set_format(type="torch", columns=["input_ids"])
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=model.cfg.d_model, d_sae=args.d_sae, k=args.k, use_sparse_activations=args.sparse),
        model_name="local", hook_name=args.site, dataset_path="local", is_dataset_tokenized=True, streaming=False,
        context_size=tokens.shape[1], training_tokens=args.batch * (args.steps + 2), train_batch_size_tokens=args.batch,
        store_batch_size_prompts=32, n_batches_in_buffer=8 * args.batch // tokens.shape[1], lr=3e-4, device="cpu",
        logger=LoggingConfig(log_to_wandb=False), n_checkpoints=0, checkpoint_path=None, output_path=None, prepend_bos=False,
    )  # fmt: skip
    runner = LanguageModelSAETrainingRunner(config, override_dataset=data, override_model=model)
    marks: list[float] = []
    original = SAETrainer.step

    def stepping(self: SAETrainer, batch: torch.Tensor) -> object:
        marks.append(time.perf_counter())
        return original(self, batch)

    SAETrainer.step = stepping  # type: ignore[method-assign]
    runner.run()
    return {"seconds": list(np.diff(marks))[1:]}


def main() -> None:
    """Read the arguments, do one thing, print its figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["quality", "step", "pipeline"])
    parser.add_argument("--recipe", default="topk")
    parser.add_argument("--acts", help="acts [n, D] for quality, tokens [N, L] for pipeline")
    parser.add_argument("--model")
    parser.add_argument("--site", default="blocks.8.hook_resid_pre")
    parser.add_argument("--out")
    parser.add_argument("--sparse", action="store_true")
    for name, kind, value in [
        ("tokens", int, 0), ("batch", int, 4096), ("d-sae", int, 512), ("d-in", int, 768), ("k", int, 8), ("l1", float, 1.0),
        ("l1-rise", float, 0.05), ("lr", float, 3e-4), ("seed", int, 0), ("steps", int, 3), ("threads", int, 2),
    ]:  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = {"quality": quality, "step": step, "pipeline": pipeline}[args.mode](args)
    print(json.dumps(found | {"peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


if __name__ == "__main__":
    main()

"""``python -m saebench.trainers.reference_lm --out FOLDER``: the small language model that ships with saebench.

A GPT-2 of about 6M weights and a byte-level BPE, both trained on storyworld. Losses are in nats per token.

Letters: ``B``, ``N`` contexts, ``L`` positions.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor, nn

from saebench.errors import IncompleteError, InputError
from saebench.lm.model import parse_device
from saebench.progress import Progress, SilentProgress
from saebench.store import check_writable, write_atomic

from .checkpoint import checkpoint_file, load_checkpoint, save_checkpoint
from .ranks import Ranks
from .reference_card import Row, write_card, write_curve
from .reference_config import ReferenceConfig, check, command, make_model, settings
from .reference_lessons import Lessons
from .reference_look import Looks
from .reference_optim import Optimizer, learning_rate
from .reference_text import HeldOut, TextStream, held_out, save_tokenizer, train_tokenizer
from .script import exit_code
from .stop import Stop

_CLIP = 1.0
_FLAT = 0.002
"""Nats per token by which a window of evaluations must improve on what was before it."""
_LOOK_EVERY = 20
"""Steps after which losses are looked at; on CUDA looking waits for the device."""
_PARTS = ("train", "eval")
_MAY_CHANGE = ("steps", "decay_steps", "stop_gap", "patience")
"""Settings that a run may be resumed with other values of; the first two until the learning rate has begun to fall."""


class ReferenceTrainer:
    """Trains the model to the end, or from a checkpoint on.

    Args:
        config: The run.
        tokenizer: What it reads with.

    Raises:
        InputError: A setting is impossible, or the checkpoint in the folder belongs to another run.
    """

    def __init__(self, config: ReferenceConfig, tokenizer: Tokenizer) -> None:
        self.config = config
        self.device = parse_device(config.device)
        length = {"context_length": config.context_length}
        workers = _workers(config, self.device)
        self._text = TextStream(
            tokenizer, seed=config.seed, part="train", workers=workers, chronicles=config.chronicles, **length
        )
        more = {"seed": config.seed + 1, "n_contexts": config.eval_contexts, **length}
        self._held_out = {part: held_out(tokenizer, part=part, **more) for part in _PARTS}
        counts = torch.bincount(self._held_out["train"].tokens.flatten(), minlength=config.vocab_size)
        self._lessons = Lessons(config, self._text, counts)
        self.model = make_model(config, counts).to(self.device)  # pyright: ignore[reportArgumentType]
        self._looks = Looks(self.model) if config.look_weight else None
        self._optimizer = Optimizer(self.model, config, fused=self.device.type == "cuda")
        self.step, self.seconds = 0, 0.0
        self.rows: list[Row] = []
        self._pending: list[tuple[int, Tensor, Tensor]] = []
        self._losses: list[float] = []
        known = {name: value for name, value in settings(config).items() if name not in _MAY_CHANGE}
        self._identity = {"config": json.dumps(known), "corpus": _hash(tokenizer, self._held_out), "model": "gpt2"}
        saved = load_checkpoint(config.out, Ranks(), **self._identity)
        if saved is not None:
            self._restore(saved)
        self._clock = time.perf_counter()

    def run(self, progress: SilentProgress) -> str:
        """Train, write the model's folder, and return why training ended.

        Raises:
            IncompleteError: A loss or a gradient is not finite; the message names the step.
        """
        progress.start(self.config.steps, "reference model")
        progress.advance(self.step)
        try:
            with Stop() as stop:
                if not self.rows:
                    self._evaluate(progress)
                self._clock = time.perf_counter()
                while (why := self._why_stop()) is None:
                    if stop.wanted:
                        progress.note(f"stopped at step {self.step}; --resume goes on from {self.save()}")
                        raise KeyboardInterrupt
                    self._one_step(progress)
                    progress.advance(1)
                self._finish(why)
            return why
        finally:
            self._text.close()

    def loss(
        self, tokens: Int[Tensor, "B L"], targets: Int[Tensor, "B L"], positions: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, " P"]:
        """Return CE of each of the ``B·L`` predictions, in nats; bfloat16 autocast on CUDA, the softmax in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(input_ids=tokens, position_ids=positions, use_cache=False).logits
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")

    def _one_step(self, progress: SilentProgress) -> None:
        config = self.config
        lesson = self._lessons.lesson(self.step)
        tokens, positions, weights = (self._there(part) for part in (lesson.tokens, lesson.positions, lesson.weights))
        loss = (self.loss(tokens[:, :-1], tokens[:, 1:], positions) * weights).mean()
        looked = torch.zeros(())
        if self._looks is not None:
            generator = torch.Generator().manual_seed((config.seed << 32) + self.step)
            looked = self._looks.loss(tokens, self._there(lesson.again), generator)
        (loss + config.look_weight * looked).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self._optimizer.step(self.step)
        self.step += 1
        self._pending.append((self.step, loss.detach(), norm))
        last = self.step == config.steps
        if self.step % _LOOK_EVERY == 0:
            self._look(progress)
        if self.step % config.eval_every == 0 or last:
            self._evaluate(progress)
        if self.step % config.checkpoint_every == 0 and not last:
            self.save()

    def _there(self, part: Tensor) -> Tensor:
        return part.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else part

    def _look(self, progress: SilentProgress) -> None:
        """Look at the losses taken since the last time; raises ``IncompleteError`` at the first bad one."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        for (step, _, _), loss, norm in zip(
            pending,
            torch.stack([loss for _, loss, _ in pending]).tolist(),
            torch.stack([norm for _, _, norm in pending]).tolist(),
            strict=True,
        ):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                what = f"loss is {loss}" if not math.isfinite(loss) else f"gradient's norm is {norm}"
                path = checkpoint_file(self.config.out, Ranks())
                kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"
                raise IncompleteError(f"the {what} at step {step}; {kept}; try a smaller --lr")
            self._losses.append(loss)
        progress.status(f"loss {self._losses[-1]:.4f}" + (f" · held out {self.rows[-1]['ce_train']:.4f}" if self.rows else ""))

    def _tick(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now

    def _evaluate(self, progress: SilentProgress) -> None:
        """Add a row to the curve and write it."""
        self._look(progress)
        self._tick()
        tokens = self.step * self.config.batch_size * self.config.context_length
        row: Row = {"step": self.step, "tokens": tokens, "lr": learning_rate(self.config, self.step)}
        if self._losses:
            row["loss"] = math.fsum(self._losses) / len(self._losses)
        scores = self.score()
        row |= {f"ce_{part}": scores[part] for part in _PARTS}
        row |= {f"bound_{part}": self._held_out[part].bound for part in _PARTS}
        row["seconds"] = round(self.seconds, 1)
        if self.rows and self.seconds > self.rows[-1]["seconds"]:
            before = self.rows[-1]
            row["tokens_per_second"] = round((tokens - before["tokens"]) / (self.seconds - before["seconds"]))
        self.rows.append(row)
        self._losses = []
        write_curve(self.config.out, self.rows)
        progress.note(
            f"step {self.step}: held out {row['ce_train']:.4f}, bound {row['bound_train']:.4f}; "
            f"evaluation part {row['ce_eval']:.4f}, bound {row['bound_eval']:.4f}"
        )
        self._clock = time.perf_counter()

    @torch.inference_mode()
    def score(self) -> dict[str, float]:
        """Return held-out CE in nats per token of each part; BOS is not predicted, <|endoftext|> between documents is."""
        self.model.eval()
        scores = {}
        for part, text in self._held_out.items():
            losses = []
            for tokens in text.tokens.split(self.config.batch_size):
                tokens = tokens.to(self.device)
                losses.append(self.loss(tokens[:, :-1], tokens[:, 1:]).double().sum())
            scores[part] = torch.stack(losses).sum().item() / text.tokens[:, 1:].numel()
        self.model.train()
        return scores

    def _why_stop(self) -> str | None:
        """Return why training is over, or ``None``: a function of the step and the curve alone."""
        config, past = self.config, [row["ce_train"] for row in self.rows]
        if self.step >= config.steps:
            return f"all {config.steps} steps were done"
        if config.stop_gap and past[-1] - self.rows[-1]["bound_train"] <= config.stop_gap:
            return f"held-out CE came within {config.stop_gap:g} nats of the bound"
        if config.patience and len(past) > config.patience:
            if min(past[: -config.patience]) - min(past[-config.patience :]) < _FLAT:
                return f"held-out CE improved by less than {_FLAT} nats over {config.patience} evaluations"
        return None

    def _finish(self, why: str) -> None:
        config, last = self.config, checkpoint_file(self.config.out, Ranks())
        half = copy.deepcopy(self.model).to("cpu", torch.float16)
        for name, weight in half.named_parameters():
            if not bool(weight.isfinite().all()):
                raise IncompleteError(f"{name} does not fit float16; the weights are in {self.save()}")
        self.model.load_state_dict(half.state_dict())  # from here on the numbers are those of the stored weights
        _save_model(half, config.out)
        write_card(
            config.out, parameters=sum(p.numel() for p in half.parameters()), settings=settings(config),
            command=command(config), rows=self.rows, why=why, stored=self.score(), device=str(self.device),
        )  # fmt: skip
        last.unlink(missing_ok=True)

    def save(self) -> Path:
        """Write a checkpoint and return its file."""
        self._look(SilentProgress())
        self._tick()
        state = self._identity | {
            "step": self.step, "schedule": (self.config.steps, self.config.decay_steps), "seconds": self.seconds,
            "rows": self.rows, "losses": self._losses,
            "weights": self.model.state_dict(), "optimizer": self._optimizer.state_dict(), "text": self._text.state(),
        }  # fmt: skip
        return save_checkpoint(self.config.out, Ranks(), state)

    def _restore(self, state: dict[str, Any]) -> None:
        config, (steps, decay_steps) = self.config, state["schedule"]
        falls = min(steps - decay_steps, config.steps - config.decay_steps)
        if (config.steps, config.decay_steps) != (steps, decay_steps) and state["step"] > falls:
            raise InputError(
                f"the run in {config.out} has done {state['step']} of {steps} steps; --steps and --decay-steps can change only "
                "before the learning rate begins to fall; "
                f"give --steps {steps} --decay-steps {decay_steps}"
            )
        self.step, self.seconds = state["step"], state["seconds"]
        self.rows, self._losses = state["rows"], state["losses"]
        self.model.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._text.restore(state["text"])


def train_reference(config: ReferenceConfig, *, resume: bool = False, progress: SilentProgress | None = None) -> str:
    """Train the tokenizer and the model into ``config.out``, and return why training ended.

    Args:
        config: The run.
        resume: Go on from the checkpoint in the folder; with none there, from the start.
        progress: Told what happens; silent if ``None``.

    Raises:
        InputError: An impossible setting, or a folder that holds a run that is finished, or not to be resumed, or another.
        IncompleteError: A loss or a gradient is not finite.
    """
    out, progress = config.out, progress or SilentProgress()
    checkpoint = checkpoint_file(out, Ranks())
    if checkpoint.exists() and not resume:
        raise InputError(f"{out} holds a run that was stopped; go on with --resume, or choose another --out")
    if (out / "model.safetensors").exists() and not checkpoint.exists():
        raise InputError(f"{out} holds a finished model already; choose another --out")
    check(config)
    parse_device(config.device)
    check_writable(out)
    path = out / "tokenizer.json"
    if checkpoint.exists() and path.exists():
        tokenizer = Tokenizer.from_file(str(path))
    else:
        progress.note(f"training the tokenizer on {config.tokenizer_documents} documents")
        tokenizer = train_tokenizer(vocab_size=config.vocab_size, n_documents=config.tokenizer_documents, seed=config.seed)
        save_tokenizer(tokenizer, out, context_length=config.context_length)
    return ReferenceTrainer(config, tokenizer).run(progress)


def _workers(config: ReferenceConfig, device: torch.device) -> int:
    if config.workers >= 0:
        return config.workers
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0


def _hash(tokenizer: Tokenizer, texts: dict[str, HeldOut]) -> str:
    """Return a hash of the tokenizer and the held-out text, which changes with the generator too."""
    digest = hashlib.sha256(tokenizer.to_str().encode())
    for text in texts.values():
        digest.update(text.tokens.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def _save_model(model: Any, folder: Path) -> None:
    """Write configuration and weights, the weights last, each whole or not at all."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        model.save_pretrained(name)
        for path in sorted(Path(name).iterdir(), key=lambda p: p.suffix == ".safetensors"):
            write_atomic(folder / path.name, path.read_bytes())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--resume", is_flag=True, help="Go on with the run in the folder; with none there, start one.")
def _main(resume: bool, **values: Any) -> None:
    """Train the reference language model and its tokenizer on storyworld.

    Writes a Hugging Face folder (float16 weights, tokenizer, README.md) with curve.csv and curve.png. Ctrl-C saves after the
    present step; --resume goes on and, on a CPU, ends in the same bytes as a run that was never stopped.
    """
    progress = Progress()
    try:
        why = train_reference(ReferenceConfig(**values), resume=resume, progress=progress)
    finally:
        progress.done()
    progress.note(f"saebench: {why}; the model is in {values['out']}")


for _field in fields(ReferenceConfig):
    _kind = {"int": int, "float": float, "str": str, "Path": click.Path(path_type=Path)}[str(_field.type)]
    _given: dict[str, Any] = {"required": True} if _field.name == "out" else {"default": _field.default, "show_default": True}
    _option = click.option(f"--{_field.name.replace('_', '-')}", type=_kind, help=_field.metadata["help"], **_given)
    _main = _option(_main)


def main() -> int:
    """Run the command and return its exit code; every error becomes one line on standard error."""
    return exit_code(_main, interrupted="interrupted; --resume goes on from the last checkpoint")


if __name__ == "__main__":
    sys.exit(main())

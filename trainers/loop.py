"""The one loop behind every recipe: acts → buffer → step → schedule → log → checkpoint → evaluation → native folder."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.data import Corpus
from saebench.errors import IncompleteError
from saebench.lm.port import Port
from saebench.metrics.base import Metric
from saebench.progress import Progress, SilentProgress
from saebench.provenance import machine, source_commit, versions
from saebench.registry import METRICS
from saebench.sae import SAE, SAEConfig, save_native
from saebench.store import write_atomic
from saebench.stream import Pass

from .acts import ActsSource, ShuffleBuffer
from .checkpoint import NAME, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .recipe import Losses, Recipe, normalise

_SAMPLE = 32_768
"""Acts from which data-dependent starting values are taken (Gao et al. 2024, code)."""


class Trainer:
    """One SAE in training.

    Args:
        config: The run.
        recipe: Class of the recipe.
        settings: Its settings.
        port: The site.
        train: Contexts to train on.
        held_out: Contexts to evaluate on.

    Raises:
        InputError: A setting is impossible, or a checkpoint in ``config.out`` belongs to another run.
    """

    def __init__(
        self, config: TrainConfig, recipe: type[Recipe], settings: Any, port: Port, train: Corpus, held_out: Corpus
    ) -> None:
        self.config, self.settings, self.port, self.held_out = config, settings, port, held_out
        self.device = port.model.device
        self._order, self._noise = (torch.Generator().manual_seed(config.seed + i * 1_000_003) for i in range(2))
        self._buffer = ShuffleBuffer(ActsSource(port, train, self._order), config.buffer_tokens, self._order)
        self._identity = {"config": config.model_dump_json(exclude={"out"}) + settings.model_dump_json(), "corpus": train.sha256}
        saved = load_checkpoint(config.out, **self._identity)
        sample = self._sample(train, recipe.normalisation)
        self.recipe = recipe(settings, sample, self._noise).to(self.device)
        betas = (settings.adam_beta1, settings.adam_beta2)
        self._optimizer = torch.optim.Adam(self.recipe.parameters(), lr=settings.lr, betas=betas, eps=settings.adam_eps)
        self._since_fired = torch.zeros(settings.d_sae, dtype=torch.long, device=self.device)
        self._ema = {k: torch.zeros_like(v) for k, v in self.recipe.named_parameters()} if settings.ema else {}
        self.step = 0
        self.rows: list[dict[str, float]] = []
        if saved is not None:
            self._restore(saved)

    def _sample(self, train: Corpus, normalisation: str) -> Tensor:
        """Return the normalised acts that starting values are taken from; the training order is left untouched."""
        source = ActsSource(self.port, train, torch.Generator().manual_seed(self.config.seed))
        parts = [source.next()]
        while sum(len(p) for p in parts) < _SAMPLE and len(parts) < len(train.tokens):
            parts.append(source.next())
        return normalise(torch.cat(parts)[:_SAMPLE], normalisation)

    def run(self, progress: Progress | SilentProgress | None = None) -> SAE:
        """Train to the end, write the native folder, and return the SAE.

        Raises:
            IncompleteError: The loss is no longer finite; the message names the step and the last checkpoint.
        """
        progress = progress or SilentProgress()
        progress.start(self.config.steps, f"{self.config.recipe} · {self.port.read.name}")
        progress.advance(self.step)
        try:
            while self.step < self.config.steps:
                self._one_step(progress)
                progress.advance(1)
        except KeyboardInterrupt:
            self.save()
            progress.note(f"stopped at step {self.step}; the same command goes on from {self.config.out / NAME}")
            raise
        return self._finish()

    def _one_step(self, progress: Progress | SilentProgress) -> None:
        started = time.perf_counter()
        x = normalise(self._buffer.batch(self.config.batch_size), self.recipe.normalisation)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr * self._schedule()
        found = self.recipe.losses(x, self._since_fired, self.step)
        self._optimizer.zero_grad(set_to_none=True)
        found.total.backward()
        self.recipe.after_backward()
        if self.settings.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.recipe.parameters(), self.settings.grad_clip)
        self._optimizer.step()
        self._since_fired += len(x)
        self._since_fired[found.fired] = 0
        self.recipe.after_step(self._optimizer, self.step, self._since_fired)
        self._average()
        self.step += 1
        last = self.step == self.config.steps
        if self.step % self.config.log_every == 0 or last:
            self._log(x, found, time.perf_counter() - started, progress)
        if self.config.eval_every and self.step % self.config.eval_every == 0 and not last:
            self._evaluate()
        if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0 and not last:
            self.save()

    def _schedule(self) -> float:
        """Return the factor of the learning rate: linear rise, constant, linear fall."""
        s, n = self.settings, self.config.steps
        rise = min(1.0, (self.step + 1) / s.lr_warmup_steps) if s.lr_warmup_steps else 1.0
        tail = s.lr_decay_share * n
        return rise * (min(1.0, (n - self.step) / tail) if tail else 1.0)

    @torch.no_grad()
    def _average(self) -> None:
        decay = self.settings.ema
        for name, parameter in self.recipe.named_parameters() if decay else ():
            self._ema[name].mul_(decay).add_(parameter, alpha=1 - decay)

    def _log(self, x: Tensor, found: Losses, seconds: float, progress: Progress | SilentProgress) -> None:
        loss = float(found.total.detach())
        if not math.isfinite(loss):
            file = self.config.out / NAME
            kept = f"the last good checkpoint is {file}" if file.exists() else "no checkpoint was written yet"
            raise IncompleteError(f"the loss is {loss} at step {self.step}; {kept}; try a smaller lr")
        error = float((x - found.recon).square().sum() / (x - x.mean(0)).square().sum())
        dead = float((self._since_fired >= self.dead_after).float().mean())
        row = {
            "step": float(self.step), "tokens": float(self.step * self.config.batch_size), "loss": loss,
            "explained_variance": 1 - error, "l0": float(found.l0), "dead_share": dead,
            "lr": self.settings.lr * self._schedule(), "tokens_per_second": len(x) / seconds,
        }  # fmt: skip
        self.rows.append(row | {name: float(value) for name, value in found.parts.items()})
        self._write_rows()

    @property
    def dead_after(self) -> int:
        """Acts without firing after which a latent counts as dead in the log."""
        s = self.settings
        return getattr(s, "dead_after_tokens", None) or getattr(s, "dead_after_steps", 1) * self.config.batch_size

    def _write_rows(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.config.out / "metrics.csv", text.getvalue().encode())

    def sae(self) -> SAE:
        """Return the SAE as it stands, for inference: the averaged weights where there are any."""
        shown = self.recipe
        if self._ema and self.step:
            shift = 1 - self.settings.ema**self.step
            own = {name: p.detach().clone() for name, p in shown.named_parameters()}
            for name, parameter in shown.named_parameters():
                parameter.data = self._ema[name] / shift
            weights = shown.weights()
            for name, parameter in shown.named_parameters():
                parameter.data = own[name]
        else:
            weights = shown.weights()
        config = SAEConfig(
            d_in=shown.d_in, d_out=shown.d_in, d_sae=shown.d_sae, normalisation=shown.normalisation,
            architecture=shown.architecture, name=self.config.out.name, site=self.config.site, model_id=self.config.model,
            context_length=self.config.context_length, prepend_bos=True, **shown.sae_fields(),
        )  # fmt: skip
        return SAE(config, weights)

    def _evaluate(self) -> None:
        """Add the harness's own scores on the held-out contexts to the last row of the log."""
        metrics: list[type[Metric]] = [METRICS.get(name) for name in ("reconstruction", "sparsity", "splice")]
        [result] = Pass(self.port, [self.sae()], metrics, self.held_out).run()
        scores = {score.name: score.value for part in result.results for score in part.scores}
        wanted = ("explained_variance", "l0", "frac_alive", "delta_ce", "ce_recovered_zero")
        self.rows[-1] |= {f"held_out_{name}": value for name in wanted if (value := scores[name]) is not None}
        self._write_rows()

    def _finish(self) -> SAE:
        self._evaluate()
        sae = self.sae()
        save_native(sae, self.config.out, training=self._provenance())
        (self.config.out / NAME).unlink(missing_ok=True)
        return sae

    def _provenance(self) -> dict[str, Any]:
        return {
            "run": json.loads(self.config.model_dump_json(exclude={"out"})),
            "settings": json.loads(self.settings.model_dump_json()),
            "corpus_sha256": self._identity["corpus"],
            "model_sha256": self.port.model.sha256,
            "model_revision": self.port.model.revision,
            "versions": versions(),
            **source_commit(),
            **machine(str(self.device)),
            "last_row": self.rows[-1],
        }

    def save(self) -> Path:
        """Write a checkpoint and return its file."""
        state = self._identity | {
            "step": self.step,
            "recipe": self.recipe.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "since_fired": self._since_fired,
            "ema": self._ema,
            "buffer": self._buffer.state(),
            "order": self._order.get_state(),
            "noise": self._noise.get_state(),
            "rows": self.rows,
        }
        return save_checkpoint(self.config.out, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.step, self.rows = state["step"], state["rows"]
        self.recipe.load_state_dict(state["recipe"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._since_fired = state["since_fired"].to(self.device)
        self._ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self._buffer.restore(state["buffer"], self.device)
        self._order.set_state(state["order"])
        self._noise.set_state(state["noise"])

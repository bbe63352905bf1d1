"""One SAE in training: recipe, optimiser, schedule, dead counters, averaged weights.

Letters: ``B`` acts of a batch, ``D`` width of the site, ``S`` d_sae.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saebench.errors import InputError
from saebench.sae import SAE, SAEConfig
from saebench.sae.export import check_export

from .norm import fit
from .ranks import Ranks
from .recipe import Losses, Start
from .settings import Run


class Step(NamedTuple):
    """What one step gives; nothing in it has been waited for."""

    x: Float[Tensor, "B D"]
    """The last part of the batch, normalised."""
    found: Losses
    loss: Float[Tensor, ""]
    """Of the whole batch."""


class Trainee:
    """One SAE in training.

    Args:
        run: Its configuration, recipe and settings.
        sample: Acts of its site, from which starting values are taken.
        device: Where it is trained.
        ranks: The processes that share the work.
        centres: Whether the site has a centred form (:func:`saebench.stream.centring`); without one nothing is centred.

    Raises:
        InputError: A setting is impossible.
    """

    def __init__(
        self, run: Run, sample: Float[Tensor, "n D"], device: torch.device, ranks: Ranks, *, centres: bool = True
    ) -> None:
        self.config, self.settings, self.ranks = run.config, run.settings, ranks
        self.noise = torch.Generator().manual_seed(run.config.seed + 1_000_003)
        norm = run.recipe.given_norm(run.settings)
        if norm is None:
            kind = run.settings.norm or run.recipe.norm_kind(run.settings)
            norm = fit(kind, sample, centred=centres and run.config.residual == "centred")
        self.norm = norm._replace(centred=norm.centred and centres)
        start = Start(
            sample=self.norm(sample), generator=self.noise, steps=run.config.steps, batch_size=run.config.batch_size, ranks=ranks,
            site=run.config.site,
        )  # fmt: skip
        self.recipe = run.recipe(run.settings, start).to(device)
        s = run.settings
        groups = self.recipe.groups()
        if not groups:
            raise InputError(f"{run.config.recipe} has nothing to train with these settings")
        self.optimizer = torch.optim.Adam(groups, lr=s.lr, betas=(s.adam_beta1, s.adam_beta2), eps=s.adam_eps, fused=True)
        self.since_fired = torch.zeros(self.recipe.d_own, dtype=torch.long, device=device)
        self._ema = {k: torch.zeros_like(v) for k, v in self.recipe.named_parameters()} if s.ema else {}
        self._losses = torch.compile(self.recipe.losses) if run.config.compile else self.recipe.losses
        self.step = 0
        for to in run.config.export:
            self._check_export(to)

    def _check_export(self, to: str) -> None:
        try:
            check_export(self.sae_config(), to)
        except InputError as error:
            per_token = self.norm.kind not in ("none", "constant_scale")
            hint = "; or train with --set norm=root_width, which can be folded into the weights" if per_token else ""
            raise InputError(f"{error}{hint}") from None

    def learn(self, acts: Float[Tensor, "B D"]) -> Step:
        """Do one step on this process's part of a batch; waits for nothing on the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * group["scale"] * self.schedule()
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=acts.device)
        fired = torch.zeros_like(self.since_fired, dtype=torch.bool)
        x, found = acts, None
        for part in acts.chunk(config.accumulate):
            x = self.norm(part)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                found = self._losses(x, self.since_fired, self.step)
            total = found.total + self._orthogonality()
            (total / config.accumulate).backward()
            loss += total.detach() / config.accumulate
            fired |= found.fired
        assert found is not None
        self.ranks.mean_gradients(self.recipe)
        self.recipe.after_backward()
        if self.settings.grad_clip:
            self._clip(self.settings.grad_clip)
        self.optimizer.step()
        self.since_fired += config.batch_size
        self.since_fired.masked_fill_(self.ranks.any(fired), 0)
        self.recipe.after_step(self.optimizer, self.step, self.since_fired)
        self._average()
        self.step += 1
        return Step(x, found, self.ranks.mean(loss))

    def schedule(self) -> float:
        """Return the factor of the learning rate: linear rise, constant, linear fall."""
        s, n = self.settings, self.config.steps
        warmup = min(s.lr_warmup_steps, n / 10)
        rise = min(1.0, (self.step + 1) / warmup) if warmup else 1.0
        tail = s.lr_decay_share * n
        return rise * (min(1.0, (n - self.step) / tail) if tail else 1.0)

    def _orthogonality(self) -> Tensor | float:
        """Return coefficient · mean |cos(d_i, d_j)|, i ≠ j, over some decoder rows."""
        s = self.settings
        if not s.orthogonality:
            return 0.0
        w = self.recipe.decoder()
        parts, first = (self.ranks.world, self.ranks.rank * len(w)) if self.ranks.split_latents else (1, 0)
        n = min(s.orthogonality_rows, len(w) * parts)
        chosen = torch.randperm(len(w) * parts, generator=self.noise)[:n].to(w.device, non_blocking=True) - first
        rows = w[chosen.clamp(0, len(w) - 1)]
        if parts > 1:  # every rank gives its own rows and gets all of them
            own = (chosen >= 0) & (chosen < len(w))
            rows = self.ranks.sum_latents(torch.where(own[:, None], rows, 0.0))
        rows = torch.nn.functional.normalize(rows, dim=1)
        cosines = (rows @ rows.T).abs()
        return s.orthogonality * (cosines.sum() - cosines.diagonal().sum()) / max(1, n * (n - 1))

    @torch.no_grad()
    def _clip(self, most: float) -> None:
        """Scale the gradient down to norm ``most``; slices of the latents count together."""
        sharded = self.recipe.sharded()
        own = torch.zeros((), device=self.since_fired.device)
        common = torch.zeros_like(own)
        grads = []
        for name, parameter in self.recipe.named_parameters():
            if parameter.grad is not None:
                square = parameter.grad.square().sum()
                own, common = (own + square, common) if name in sharded else (own, common + square)
                grads.append(parameter.grad)
        norm = (self.ranks.total(own) + common).sqrt()
        factor = (most / (norm + 1e-6)).clamp_max(1.0)
        for grad in grads:
            grad.mul_(factor)

    @torch.no_grad()
    def _average(self) -> None:
        decay = self.settings.ema
        for name, parameter in self.recipe.named_parameters() if decay else ():
            self._ema[name].mul_(decay).add_(parameter, alpha=1 - decay)

    def row(self, step: Step) -> dict[str, float]:
        """Return what the log says of a step; this waits for the device."""
        mean = self.ranks.mean(step.x.mean(0))
        error = self.ranks.mean((step.x - step.found.recon).square().sum()) / self.ranks.mean((step.x - mean).square().sum())
        dead = self.ranks.total((self.since_fired >= self.recipe.dead_after).float().sum()) / self.recipe.d_sae
        values = {
            "loss": step.loss, "explained_variance": 1 - error, "l0": self.ranks.mean(step.found.l0),
            "dead_share": dead, **{k: self.ranks.mean(v) for k, v in step.found.parts.items()},
        }  # fmt: skip
        told = torch.stack([v.detach().double().to(error.device) for v in values.values()]).tolist()
        return {
            "step": float(self.step), "tokens": float(self.step * self.config.batch_size),
            "lr": self.optimizer.param_groups[0]["lr"], **dict(zip(values, told, strict=True)),
        }  # fmt: skip

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averaged weights, where there are any, in place of the last ones meanwhile."""
        if not self._ema or not self.step:
            yield
            return
        shift = 1 - self.settings.ema**self.step
        own = {name: p.detach().clone() for name, p in self.recipe.named_parameters()}
        try:
            for name, parameter in self.recipe.named_parameters():
                parameter.data = self._ema[name] / shift
            yield
        finally:
            for name, parameter in self.recipe.named_parameters():
                parameter.data = own[name]

    def sae(self) -> SAE:
        """Return the SAE as it stands, for inference: the averaged weights where there are any. All ranks must ask."""
        with self._averaged(), torch.no_grad():
            return SAE(self.sae_config(), self.recipe.weights())

    def sae_config(self) -> SAEConfig:
        """Return what the SAE is."""
        recipe, config = self.recipe, self.config
        return SAEConfig(
            d_in=recipe.d_in, d_out=recipe.d_in, d_sae=recipe.d_sae, normalisation=self.norm.kind, norm_scale=self.norm.scale,
            residual="centred" if self.norm.centred else "raw", architecture=recipe.architecture, name=config.out.name,
            site=config.site, model_id=config.model, context_length=config.context_length, prepend_bos=True,
            **recipe.sae_fields(),
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs."""
        return {
            "step": self.step,
            "recipe": self.recipe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "since_fired": self.since_fired,
            "ema": self._ema,
            "noise": self.noise.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken."""
        device = self.since_fired.device
        self.step = state["step"]
        self.recipe.load_state_dict(state["recipe"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group, own in zip(self.optimizer.param_groups, self.recipe.groups(), strict=True):
            group["scale"] = own["scale"]  # checkpoints of earlier versions have none
        self.since_fired = state["since_fired"].to(device)
        self._ema = {name: value.to(device) for name, value in state["ema"].items()}
        self.noise.set_state(state["noise"])

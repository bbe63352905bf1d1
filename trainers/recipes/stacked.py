"""``stacked``: SAEs one on the other, as a reader of the literature asked for (L. Smith, comments, 2024).

A ReLU SAE of low L0 is trained and frozen; the next one reads the same acts and learns what the first failed to reconstruct, with
a decoder bias and an L1 of its own; and so on. Concatenated they are one ReLU SAE:
f = [f_1, f_2, …], x̂ = Σ f_i W_i + Σ b_i. Stage i minimises ‖x − x̂_1 − … − x̂_i‖²/D + l1_i Σ|f_i|.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAEWeights

from ..config import Count, Natural, Positive, RecipeSettings, Weight
from ..recipe import Losses, Recipe, Start
from ..rows import drop_parallel_, geometric_median, near_identity, random_unit_rows, unit_rows_


class StackedSettings(RecipeSettings):
    """Settings of ``stacked``; the lists have one entry a stage."""

    d_sae: Natural = 24_576
    """Latents of all stages together."""
    lr: Positive = 4e-4
    stage_latents: tuple[Count, ...] = ()
    """Latents each stage adds; two equal halves if empty."""
    stage_l1: tuple[Weight, ...] = ()
    """L1 coefficient of each stage beside the error's mean over dimensions; 3.2e-4, then 8e-5, if empty."""
    stage_shares: tuple[Positive, ...] = ()
    """Share of the run's acts each stage is trained on; equal if empty."""


@RECIPES.register("stacked")
class Stacked(Recipe):
    """ReLU SAEs trained one after the other on what is left."""

    Settings = StackedSettings
    architecture = "standard"

    def __init__(self, settings: StackedSettings, start: Start) -> None:
        super().__init__(settings, start)
        n = len(settings.stage_latents or settings.stage_l1 or settings.stage_shares) or 2
        self.latents = list(settings.stage_latents or [self.d_sae // n] * (n - 1) + [self.d_sae - self.d_sae // n * (n - 1)])
        self.l1 = list(settings.stage_l1 or [3.2e-4] + [8e-5] * (n - 1))
        shares = list(settings.stage_shares or [1 / n] * n)
        if not len(self.latents) == len(self.l1) == len(shares) or min(*self.latents, *shares) <= 0:
            raise InputError(
                f"stage_latents={self.latents}, stage_l1={self.l1} and stage_shares={shares} need one entry a stage, above 0"
            )
        if sum(self.latents) != self.d_sae:
            raise InputError(f"stage_latents={self.latents} add up to {sum(self.latents)}, not to d_sae={self.d_sae}")
        self.ends = [round(self.steps * sum(shares[: i + 1]) / sum(shares)) for i in range(n)]
        w = random_unit_rows(self.d_sae, self.d_in, start.generator).split(self.latents)
        self.w_dec_stages = nn.ParameterList([nn.Parameter(part.clone()) for part in w])
        self.w_enc_stages = nn.ParameterList([nn.Parameter(near_identity(part)) for part in w])
        self.b_enc_stages = nn.ParameterList([nn.Parameter(torch.zeros(m)) for m in self.latents])
        median = geometric_median(start.sample).cpu()
        self.b_dec_stages = nn.ParameterList([nn.Parameter(median if i == 0 else torch.zeros_like(median)) for i in range(n)])
        self._stage = 0

    def get_extra_state(self) -> int:
        """Return the stage, for a checkpoint."""
        return self._stage

    def set_extra_state(self, state: int) -> None:
        """Take the stage of a checkpoint."""
        self._stage = state

    def stage_at(self, step: int) -> int:
        """Return the number of the stage that is trained at ``step``, from 0."""
        return next((i for i, end in enumerate(self.ends) if step < end), len(self.ends) - 1)

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return the error left by all stages so far + L1 of the one being trained."""
        now = self._stage = self.stage_at(step)
        inner = x - self._shift()
        with torch.no_grad():
            done = [self._encode(inner, i) for i in range(now)]
            left = x - sum((f @ self.w_dec_stages[i] + self.b_dec_stages[i] for i, f in enumerate(done)), torch.zeros_like(x))
        f = self._encode(inner, now)
        out = f @ self.w_dec_stages[now] + self.b_dec_stages[now]
        mse, l1 = (out - left).square().mean(), f.sum(1).mean()
        active = torch.cat([*done, f.detach()], 1) != 0
        fired = torch.zeros(self.d_sae, dtype=torch.bool, device=x.device)
        fired[: active.shape[1]] = active.any(0)
        fired[active.shape[1] :] = True  # a stage that has not begun has no dead latents
        parts = {"mse": mse.detach(), "l1": l1.detach(), "stage": mse.new_tensor(float(now))}
        return Losses(mse + self.l1[now] * l1, parts, x - left + out.detach(), fired, active.sum(1).float().mean())

    def _shift(self) -> Tensor:
        first = self.b_dec_stages[0]
        return first if self._stage == 0 else first.detach()

    def _encode(self, inner: Tensor, i: int) -> Tensor:
        return torch.addmm(self.b_enc_stages[i], inner, self.w_enc_stages[i].T).relu()

    def decoder(self) -> Float[Tensor, "s D"]:
        """Return the decoder of the stage being trained."""
        return self.w_dec_stages[self._stage]

    def after_backward(self) -> None:
        """Drop the gradient's part along the decoder rows."""
        drop_parallel_(self.w_dec_stages[self._stage])  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Keep decoder rows at unit norm."""
        unit_rows_(self.w_dec_stages[self._stage].data)

    def sae_fields(self) -> dict[str, Any]:
        """Return the activation."""
        return {"activation": "relu"}

    def weights(self) -> SAEWeights:
        """Return the stages begun so far as one SAE; latents of later stages are silent."""
        begun = self._stage + 1
        b_enc = torch.cat([b.detach() if i < begun else torch.full_like(b, -1e9) for i, b in enumerate(self.b_enc_stages)])
        return SAEWeights(
            W_enc=torch.cat([w.detach() for w in self.w_enc_stages]).T.contiguous(),
            b_enc=b_enc,
            W_dec=torch.cat([w.detach() for w in self.w_dec_stages]),
            b_dec=torch.stack([b.detach() for b in self.b_dec_stages[:begun]]).sum(0),
            b_in=self.b_dec_stages[0].detach().clone(),
        )

"""What a recipe is: parameters, a loss, constraints, and the SAE it ends in.

Letters: ``B`` acts of a batch, ``D`` width of the site, ``S`` d_sae, ``Z`` active latents of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.sae import SAEWeights

from .config import RecipeSettings
from .norm import Norm
from .ranks import Ranks


class Losses(NamedTuple):
    """What one batch gives."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]
    """Scalars for the log."""
    recon: Float[Tensor, "B D"]
    """Of the normalised acts, detached."""
    fired: Bool[Tensor, " S"]
    """Latents ≠ 0 anywhere in the batch."""
    l0: Float[Tensor, ""]
    """Mean number of latents ≠ 0."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a recipe is given at its beginning."""

    sample: Float[Tensor, "n D"]
    """Normalised acts, for what starts from data."""
    generator: torch.Generator
    """Source of all randomness, on the CPU."""
    steps: int
    """Length of the run."""
    batch_size: int = 4096
    """Acts a step, over all ranks."""
    ranks: Ranks = field(default_factory=Ranks)
    site: str | None = None
    """Where the acts are from."""


class Recipe(nn.Module, ABC):
    """One way to train an SAE.

    Args:
        settings: The recipe's settings.
        start: What it starts from.
        d_sae: Number of latents, where it is not ``settings.d_sae``.

    Raises:
        InputError: A setting is impossible.
    """

    Settings: ClassVar[type[RecipeSettings]]
    architecture: ClassVar[str]
    can_split_latents: ClassVar[bool] = False
    """Whether the latents may be spread over several processes."""
    _moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, settings: Any, start: Start, d_sae: int | None = None) -> None:
        super().__init__()
        self.settings, self.ranks, self.steps, self.batch_size = settings, start.ranks, start.steps, start.batch_size
        self.d_in, self.d_sae = start.sample.shape[1], settings.d_sae if d_sae is None else d_sae
        if self.d_sae < 1:
            raise InputError(f"d_sae={self.d_sae} must be 1 or more")
        if start.ranks.split_latents and not self.can_split_latents:
            raise InputError(f"{type(self).__name__} cannot split its latents over processes; use --set split=data")

    @property
    def dead_after(self) -> int:
        """Acts without firing after which a latent counts as dead."""
        acts = self.settings.dead_after_tokens
        return min(self.dead_after_default(), self.steps * self.batch_size // 6) if acts is None else acts

    def dead_after_default(self) -> int:
        """Return the source's number of acts without firing; 10M (Gao et al. 2024, appendix A.2) where there is none."""
        return 10_000_000

    @property
    def d_own(self) -> int:
        """Latents this process holds."""
        return self.d_sae // self.ranks.world if self.ranks.split_latents else self.d_sae

    @classmethod
    def norm_kind(cls, settings: Any) -> str:
        """Return how acts are normalised before the SAE sees them: a name that :func:`saebench.trainers.norm.fit` knows."""
        del settings
        return "none"

    @classmethod
    def given_norm(cls, settings: Any) -> Norm | None:
        """Return a normalisation that is part of the settings, or ``None`` if it is to be fitted."""
        del settings
        return None

    @abstractmethod
    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return the losses of one batch.

        Args:
            x: Normalised acts.
            since_fired: Acts seen since each latent last fired.
            step: Number of the step, from 0.
        """

    @abstractmethod
    def weights(self) -> SAEWeights:
        """Return the trained tensors for inference, detached."""

    @abstractmethod
    def sae_fields(self) -> dict[str, Any]:
        """Return the fields of :class:`saebench.sae.SAEConfig` that change the arithmetic, such as activation and k."""

    def decoder(self) -> Float[Tensor, "s D"]:
        """Return the decoder rows that are being trained, for the orthogonality penalty."""
        return self.w_dec  # pyright: ignore[reportReturnType]

    def sharded(self) -> set[str]:
        """Return the names of the parameters of which a rank holds only its own latents' rows, when latents are split."""
        return {"w_enc", "w_dec", "b_enc"} if self.ranks.split_latents else set()

    def risen(self, share: float, step: int) -> float:
        """Return how far a coefficient has risen at a step: linearly from 0 to 1 over a share of the run."""
        return min(1.0, step / (share * self.steps)) if share else 1.0

    def lr_scale(self, name: str) -> float:
        """Return what the learning rate of a parameter is multiplied by."""
        del name
        return 1.0

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters for the optimiser, a group for each ``scale`` of the learning rate."""
        scales = {name: self.lr_scale(name) for name, _ in self.named_parameters()}
        return [
            {"scale": scale, "params": [p for name, p in self.named_parameters() if scales[name] == scale]}
            for scale in dict.fromkeys(scales.values())
        ]

    def after_backward(self) -> None:
        """Change gradients, before they are clipped."""

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer, step: int, since_fired: Int[Tensor, " S"]) -> None:
        """Restore constraints, after the optimiser's step."""
        del optimizer, step, since_fired

    def forget(self, optimizer: torch.optim.Optimizer, latents: Tensor) -> None:
        """Zero the optimiser's memory of some latents, in every parameter that has a row a latent (``b_dec`` never has)."""
        for name, parameter in self.named_parameters():
            state = optimizer.state.get(parameter, {})
            if parameter.shape[:1] == (self.d_sae,) and name != "b_dec":
                for moment in self._moments:
                    if moment in state:
                        state[moment][latents] = 0

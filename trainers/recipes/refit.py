"""``refit``: freeze an SAE's encoder, and so its L0, and fit the decoder or one scale a latent again.

How much the error falls is how much of it was shrinkage or a decoder out of step with its encoder (L. Smith, comments, 2024;
Wright and Sharkey 2024, "Addressing feature suppression in SAEs"). Loss = ‖x − x̂‖²/D, nothing else.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAE, SAEWeights, load_sae
from saebench.sae.site import Site

from ..config import Natural, Positive, RecipeSettings, Share
from ..norm import Norm
from ..recipe import Losses, Recipe, Start
from ..rows import fired_in
from ..sparse import Active, Places, sparse_decode


class RefitSettings(RecipeSettings):
    """Settings of ``refit``."""

    d_sae: Natural = 0
    """Taken from the SAE."""
    sae: str = ""
    """The SAE to start from: what ``saebench run --sae`` takes."""
    fit: Literal["decoder", "scale"] = "decoder"
    """``decoder``: decoder and its bias; ``scale``: one factor a latent."""
    lr: Positive = 1e-3
    lr_decay_share: Share = 0.5


@functools.lru_cache(maxsize=2)
def _loaded(path: str) -> SAE:
    if not path:
        raise InputError("refit needs an SAE to start from; give --set sae=PATH")
    sae = load_sae(path)
    if sae.is_transcoder or sae.weights.W_skip is not None:
        raise InputError(f"{path} is a transcoder; refit takes SAEs that read and write one site")
    return sae


def _place(site: str) -> tuple[str, int]:
    """Return what two names of one tensor share: what leaves a block enters the next."""
    found = Site.parse(site)
    return ("resid_pre", found.layer + 1) if found.kind == "resid_post" else (found.kind, found.layer)


@RECIPES.register("refit")
class Refit(Recipe):
    """An SAE whose encoder stays as it is."""

    Settings = RefitSettings

    def __init__(self, settings: RefitSettings, start: Start) -> None:
        sae = _loaded(settings.sae)
        super().__init__(settings, start, d_sae=sae.config.d_sae)
        if settings.d_sae not in (0, self.d_sae):
            raise InputError(f"d_sae={settings.d_sae}, but {settings.sae} has {self.d_sae} latents; leave d_sae out")
        if sae.config.d_in != self.d_in:
            raise InputError(
                f"{settings.sae} reads acts of width {sae.config.d_in}, the site has {self.d_in}; give its own --site"
            )
        if start.site is not None and sae.config.site is not None and _place(start.site) != _place(sae.config.site):
            raise InputError(f"{settings.sae} reads {sae.config.site}, not {start.site}; give its own --site")
        if settings.norm is not None:
            raise InputError(f"norm={settings.norm} cannot be chosen here: refit takes the SAE's own; leave norm out")
        self._original = sae.config
        self._frozen = SAE(
            sae.with_config(normalisation="none", norm_scale=None, residual="raw").config, sae.to(dtype=torch.float32).weights
        )
        w = self._frozen.weights
        if settings.fit == "decoder":
            self.w_dec, self.b_dec = nn.Parameter(w.W_dec.clone()), nn.Parameter(w.b_dec.clone())
        else:
            self.factor = nn.Parameter(torch.ones(self.d_sae))

    @classmethod
    def given_norm(cls, settings: RefitSettings) -> Norm:
        """Return the SAE's own normalisation."""
        c = _loaded(settings.sae).config
        return Norm(c.normalisation, c.norm_scale, c.residual == "centred")

    @property
    def architecture(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The SAE's own."""
        return self._original.architecture

    def losses(self, x: Float[Tensor, "B D"], since_fired: Int[Tensor, " S"], step: int) -> Losses:
        """Return the MSE."""
        if self._frozen.W_enc.device != x.device:
            self._frozen = self._frozen.to(device=x.device)
        latents = self._frozen.encode(x)
        active = Active(latents.values.clone(), Places(latents.indices.long(), latents.offsets.clone()))
        if self.settings.fit == "decoder":
            recon = sparse_decode(active, self.w_dec) + self.b_dec
        else:
            w = self._frozen.weights
            recon = sparse_decode(active.with_values(active.values * self.factor[active.indices]), w.W_dec) + w.b_dec
        mse = (recon - x).square().mean()
        l0 = latents.l0().float().mean()
        return Losses(mse, {"mse": mse.detach()}, recon.detach(), fired_in(active, self.d_sae), l0.clone())

    def decoder(self) -> Float[Tensor, "s D"]:
        """Return the decoder."""
        return self.w_dec if self.settings.fit == "decoder" else self._frozen.weights.W_dec * self.factor[:, None]

    def sae_fields(self) -> dict[str, Any]:
        """Return what the SAE was."""
        return {"activation": self._original.activation, "k": self._original.k}

    def weights(self) -> SAEWeights:
        """Return the SAE with its new decoder."""
        w = dict(self._frozen.weights.items())
        if self.settings.fit == "decoder":
            w |= {"W_dec": self.w_dec.detach().clone(), "b_dec": self.b_dec.detach().clone()}
        else:
            w["W_dec"] = w["W_dec"] * self.factor.detach()[:, None]
        return SAEWeights(**w)

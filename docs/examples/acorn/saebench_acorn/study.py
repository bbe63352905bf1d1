"""The study: random tokens, twice. Does an SAE know the acts of what has been read before as well as those of what is new?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from saebench.metrics.base import ScoreSpec
from saebench.record import DataInfo
from saebench.sae import SAE
from saebench.stats import ratio
from saebench.stream import recon_of
from saebench.studies.base import Study, StudyResult, StudySettings

_HALVES = ("first", "second")


class RepeatsSettings(StudySettings):
    """Settings of the study."""

    n: int = Field(default=16, ge=2)
    """Sequences."""
    half: int = Field(default=24, ge=2)
    """Tokens that are repeated."""


class Repeats(Study[RepeatsSettings]):
    """FVU on random tokens, and on the same tokens when they come again."""

    name = "repeats"
    version = 1
    specs = tuple(
        ScoreSpec(
            name=f"repeats_fvu_{half}",
            better="lower",
            definition=f"Σ‖x−x̂‖² / Σ‖x−x̄‖² over the {half} half of random tokens that come twice, x̄ the mean over that half",
        )
        for half in _HALVES
    )
    Settings = RepeatsSettings

    def total(self) -> int:
        """Return the number of sequences."""
        return min(self.settings.n, self.setting.limit or self.settings.n)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE; the model runs once for all of them."""
        port, tokens = self.setting.port, self._tokens()
        parts = tokens.split(self.setting.batch_size or 8)
        clean = []
        for part in parts:
            clean.append(port.clean(part.to(port.model.device), final=False))
            self.setting.advance(len(part))
        target = torch.cat([one.target[:, 1:] for one in clean]).double()  # position 0 is not scored
        data = DataInfo(
            corpus="repeats", sha256=hashlib.sha256(tokens.numpy().tobytes()).hexdigest(), n_contexts=len(tokens),
            context_length=tokens.shape[1], n_tokens_scored=tokens[:, 1:].numel(), rule="random tokens, each half the same",
        )  # fmt: skip
        results = []
        for sae in saes:
            recons = [
                recon_of(port, sae, one.acts[:, 1:].flatten(0, 1), one.target[:, 1:].flatten(0, 1)).view_as(one.target[:, 1:])
                for one in clean
            ]
            results.append(StudyResult(scores=self._scores(target, torch.cat(recons).double()), data=data))
        return results

    def _scores(self, x: Tensor, recon: Tensor) -> list:
        scores = []
        for half, part in zip(_HALVES, (slice(None, self.settings.half), slice(self.settings.half, None)), strict=True):
            error = (x[:, part] - recon[:, part]).square().sum((1, 2))
            spread = (x[:, part] - x[:, part].mean((0, 1))).square().sum((1, 2))
            n = x[:, part, 0].numel()
            scores.append(self.spec(f"repeats_fvu_{half}").score(ratio(error.cpu().numpy(), spread.cpu().numpy(), n=n)))
        return scores

    def _tokens(self) -> Tensor:
        """Return [n, 1 + 2 half] ids, chosen by the seed, behind BOS where the tokenizer has one."""
        model = self.setting.port.model
        rng = np.random.default_rng(self.setting.seed)
        once = torch.from_numpy(rng.integers(0, model.d_vocab, (self.total(), self.settings.half)))
        bos = getattr(model.tokenizer, "bos_token_id", None) or 0
        return torch.cat([torch.full((len(once), 1), bos), once, once], 1)

"""The study ``positional``: does an SAE in front of the first block fail at tokens or at positions?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from saebench.lm.losses import LossRows
from saebench.metrics.base import ScoreSpec, position_series
from saebench.metrics.position import WINDOWS, windows_for
from saebench.record import Score
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stats import Estimate, Tally, Window
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.positional.parts import Parts, check_site, position_parts, spread
from saebench.studies.replaced import Acts, measure
from saebench.tasklist import TaskCorpus

_ROWS = {
    "": "the whole recon, x̂",
    "_token_part": "the token part of the recon and the true position part, T̂ + p",
    "_position_part": "the true token part and the position part of the recon, t + P̂",
}
"""What stands in the place of x = t + p."""
_QUANTITIES = {
    "delta_ce": ("nats", "CE spliced − CE clean"),
    "kl": ("nats", "KL(clean ‖ spliced)"),
    "mse": ("act²", "‖x − what is spliced in‖²"),
}
_WINDOWS = ("inside", "beyond")


class PositionalSettings(StudySettings):
    """Settings of the study."""

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    positions: int = Field(default=16, ge=1)
    """At how many positions of the training context each token is shown to the SAE for its token part."""


@STUDIES.register("positional")
class Positional(Study[PositionalSettings]):
    """Does an SAE in front of the first block fail at tokens or at positions?

    For SAEs of ``blocks.0.hook_resid_pre`` in models with learned position embeddings. There acts are x = t + p, a part of the
    token and a part of its position. The token part of the recon is what the SAE says of the token wherever it stands,
    T̂(t) = mean over q of x̂(t + p_q) − p_q, with q evenly spread over the positions 1 … T−1 of the SAE's training context (of the
    text, if that is shorter or T is not known); the position part is the rest, P̂ = x̂ − T̂. So the error is the sum of two,
    x̂ − x = (T̂ − t) + (P̂ − p), and each is spliced in alone: T̂ + p has the SAE's error at tokens and no other, t + P̂ that at
    positions. Where t ends and p begins need not be known: a constant moved from one to the other changes nothing.

    Beyond the training context T̂ is still made of positions that the SAE knows. If T̂ + p is as good there as inside, and t + P̂ as
    bad as x̂, it is position embeddings that the SAE cannot say.
    """

    name = "positional"
    version = 1
    specs = tuple(
        ScoreSpec(
            name=f"{name}{part}{'_' if window else ''}{window}", unit=unit, better="lower",
            definition=f"mean of {what} with {spliced}" + (f", {WINDOWS[window]}" if window else ""),
        )
        for name, (unit, what) in _QUANTITIES.items() for part, spliced in _ROWS.items() for window in ("", *_WINDOWS)
    )  # fmt: skip
    Settings: ClassVar[type[StudySettings]] = PositionalSettings

    def total(self) -> int:
        """Return the contexts."""
        return len(self.setting.text.tokens)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.

        Raises:
            InputError: The site is another, or the model adds no position there.
        """
        corpus, port = self.setting.text, self.setting.port
        check_site(port)
        ids = corpus.tokens.to(port.model.device)
        positions = position_parts(port.model, corpus.context_length)
        known = [self._known(sae) for sae in saes]
        parts = [Parts(port, sae, corpus.tokens, positions, q) for sae, q in zip(saes, known, strict=True)]
        tallies = [self._tallies(sae) for sae in saes]

        def replacements(number: int, tokens: Acts) -> Iterator[Float[Tensor, "m O"]]:
            of, scored = parts[number], tokens.scored
            recon = saes[number].reconstruct(tokens.acts)
            token = of.token_recon(ids[torch.from_numpy(tokens.context), torch.from_numpy(tokens.position)])
            place = of.position(tokens.position)
            at = scored.cpu().numpy()
            for part, new in zip(_ROWS, (recon, token + place, tokens.acts - place + recon - token), strict=True):
                error = (tokens.target - new)[scored].double().square().sum(1).cpu().numpy()
                tallies[number][f"mse{part}"].add(error, tokens.context[at], tokens.position[at])
                yield new

        def watch(number: int, losses: LossRows, context: Int[np.ndarray, " M"], position: Int[np.ndarray, " M"]) -> None:
            for row, part in enumerate(_ROWS):
                found = {"delta_ce": losses.ce[row] - losses.ce_clean, "kl": losses.kl[row]}
                for name, values in found.items():
                    tallies[number][f"{name}{part}"].add(values.cpu().numpy(), context, position)

        measure(self.setting, saes, replacements, watch)
        return [
            StudyResult(
                scores=self._scores(sae, tally),
                series=[
                    position_series(tally[f"{name}{part}"], f"{name}{part}_by_position", unit, corpus.context_length)
                    for name, (unit, _) in _QUANTITIES.items() for part in _ROWS
                ],
                raw={"known_positions": float(len(q)), "last_known_position": float(q[-1])},
                data=text_info(corpus),
            )
            for sae, tally, q in zip(saes, tallies, known, strict=True)
        ]  # fmt: skip

    def _known(self, sae: SAE) -> list[int]:
        """Return the positions q for the token parts of this SAE."""
        whole = self.setting.text.context_length
        length = min(sae.config.context_length or whole, whole)
        return spread(min(1, length - 1), length - 1, self.settings.positions)

    def _tallies(self, sae: SAE) -> dict[str, Tally]:
        corpus = self.setting.text
        found = windows_for(sae.config.context_length, corpus.context_length)
        windows = tuple(Window(name=n, start=a, stop=b) for n, a, b in found if n in _WINDOWS)
        return {
            f"{name}{part}": Tally(len(corpus.tokens), corpus.context_length, windows) for name in _QUANTITIES for part in _ROWS
        }

    def _scores(self, sae: SAE, tallies: dict[str, Tally]) -> list[Score]:
        corpus, trained = self.setting.text, sae.config.context_length
        if trained is None:
            reason = "the SAE's files do not say at which context length it was trained; give --trained-context"
        else:
            reason = (
                f"no position lies there: the SAE was trained at context {trained}, the contexts have {corpus.context_length}"
            )
        missing = Estimate(value=None, reason=reason)
        scores = []
        for name, tally in tallies.items():
            measured = {w.name for w in tally.windows}
            scores.append(self.spec(name).score(tally.mean()))
            for window in _WINDOWS:
                estimate = tally.mean(window) if window in measured else missing
                scores.append(self.spec(f"{name}_{window}").score(estimate))
        return scores

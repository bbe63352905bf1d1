"""Scores by latent of every SAE: observed in the spliced passes, then checked by ablation, one SAE after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from saebench.record import Score, Series
from saebench.sae import SAE
from saebench.studies.base import Column, StudySetting
from saebench.studies.cloze.ablated import ablate, answer_rows
from saebench.studies.cloze.active import Watch
from saebench.studies.cloze.encoding import Encoded
from saebench.studies.cloze.latents import (
    LatentSettings,
    Q,
    choose,
    latent_scores,
    latent_series,
    latent_table,
    observe,
    prompts_of,
)

TABLE = "latent_scores"


@dataclass(frozen=True, kw_only=True)
class ByLatent:
    """What one SAE's latents add to its result; nothing where the task does not ask."""

    scores: list[Score] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    raw: Mapping[str, float | None] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Column]] = field(default_factory=dict)


def score_latents(
    setting: StudySetting,
    saes: Sequence[SAE],
    encoded: Sequence[Encoded],
    answers: Sequence[int],
    deltas: Sequence[NDArray[np.float64]],
    watch: Watch,
    settings: LatentSettings,
    *,
    splice_bos: bool,
) -> list[ByLatent]:
    """Return the scores by latent of each SAE; none depends on which others there are.

    At most 4 · ``listed`` · ``ablated_prompts`` texts of an SAE are ablated, by default no more than there are prompts. Each
    takes a forward from the site on; some unablated texts stand beside them, and each prompt runs up to the site once.

    Args:
        setting: Site, seed, batch size, and whom to tell.
        saes: The SAEs.
        encoded: The examples.
        answers: Index of each example's right answer.
        deltas: ln p_spliced − ln p_clean of the answers, an array an SAE.
        watch: What is active in the windows.
        settings: What the task file says.
        splice_bos: Whether position 0 is replaced.
    """
    rows, tell, out = answer_rows(encoded, answers), _telling(len(encoded), setting.advance), []
    for number, (sae, active, delta) in enumerate(zip(saes, watch.active, deltas, strict=True)):
        generator = torch.Generator().manual_seed(setting.seed)
        observed = observe(active, delta, settings.min_prompts)
        roles = choose(observed, settings.listed, generator)
        prompts = prompts_of(active, roles, np.isfinite(delta), settings.ablated_prompts, generator)
        changes = ablate(
            setting.port,
            sae,
            rows,
            prompts,
            splice_bos=splice_bos,
            batch_size=setting.batch_size,
            advance=lambda share, number=number: tell((number + share) / len(saes)),
        )
        out.append(
            ByLatent(
                scores=latent_scores(observed, roles, changes, settings),
                series=latent_series(observed, roles, changes),
                raw={"latents_active": float(len(observed.latent)), "latents_prompts": float(observed.n_prompts)},
                tables={TABLE: latent_table(observed, roles, changes)},
            )
        )
    tell(1.0)
    return out


def said_of(saes: Sequence[SAE], found: Sequence[ByLatent]) -> tuple[str, ...]:
    """Return what is to be said where no latent of an SAE is significant."""
    none = []
    for sae, one in zip(saes, found, strict=True):
        value = {score.name: score.value for score in one.scores}
        if value.get("latents_tested") and not value["latents_significant"]:
            none.append(sae.config.name)
    if not none:
        return ()
    return (
        f"no latent's mean Δ ln p differs from chance (q < {Q}) in {', '.join(none)}; the most extreme are listed all the same",
    )


def _telling(n: int, advance: Callable[[int], None]) -> Callable[[float], None]:
    """Return a function that takes the share that is done and tells ``advance`` the steps of ``n`` since it was last asked."""
    told = 0

    def tell(share: float) -> None:
        nonlocal told
        now = int(n * share)
        advance(now - told)
        told = now

    return tell

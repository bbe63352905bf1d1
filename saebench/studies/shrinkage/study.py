"""The study ``shrinkage``: how much of an SAE's error is wrong activations of the right latents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saebench.metrics.base import ScoreSpec
from saebench.record import Score
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stats import Estimate, ratio
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.replaced import Acts, Measured, measure
from saebench.studies.shrinkage.found import Found
from saebench.studies.shrinkage.refine import refine
from saebench.tasklist import TaskCorpus

_GAO = "Gao et al. 2024, arXiv 2406.04093, §5.1"
_RECONS = {
    "norm_ratio": ("none", "", "mean over tokens of ‖x̂‖/‖x‖; below 1 is shrinkage"),
    "relative_reconstruction_bias": ("none", "", "Σ‖x̂‖² / Σ x·x̂; 1 is unbiased, below 1 is shrinkage"),
    "explained_variance": ("higher", "", "1 − Σ‖x−x̂‖² / Σ‖x−x̄‖²"),
    "mse": ("lower", "act²", "mean over tokens of ‖x−x̂‖²"),
}
"""Of the metric ``reconstruction``."""
_LOSSES = {"delta_ce": "CE spliced − CE clean", "kl": "KL(clean ‖ spliced)"}


class ShrinkageSettings(StudySettings):
    """Settings of the study."""

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    max_active: int = Field(default=2048, ge=1)
    """Tokens with more active latents are left as they are, and counted: time grows with the cube of that number."""


def _specs() -> tuple[ScoreSpec, ...]:
    out = []
    for prefix, what in (("", "as it is"), ("refined_", "with refined activations")):
        out.append(ScoreSpec(name=f"{prefix}l0", unit="latents", definition=f"mean number of latents ≠ 0, {what}"))
        for name, (better, unit, words) in _RECONS.items():
            out.append(ScoreSpec(name=f"{prefix}{name}", better=better, unit=unit, definition=f"{words}; the SAE {what}"))  # pyright: ignore[reportArgumentType]
        for name, words in _LOSSES.items():
            out.append(ScoreSpec(name=f"{prefix}{name}", better="lower", unit="nats", definition=f"{words}; the SAE {what}"))
    differences = {
        "refinement_mse_ratio": (
            "",
            "MSE with refined activations / MSE as it is; 1 minus this is the share of wrong activations",
        ),
        "refinement_explained_variance": ("", "refined_explained_variance − explained_variance: the gain"),
        "refinement_delta_ce": ("nats", "CE with refined activations − CE with those of the SAE; below 0 is a gain"),
        "refinement_delta_kl": ("nats", "KL with refined activations − KL with those of the SAE; below 0 is a gain"),
    }
    entries = {
        "activation_ratio": "Σz / Σf over active latents of all tokens, z refined, f the SAE's; above 1 the SAE shrinks",
        "activation_ratio_mean": "mean of z/f over active latents of all tokens, the weak ones counting as the strong ones",
        "activation_change": "Σ|z−f| / Σ|f|: how far refinement moves activations, up or down",
        "activations_zeroed": "share of active latents that refinement sets to 0",
    }
    out += [ScoreSpec(name=name, unit=unit, source=_GAO, definition=words) for name, (unit, words) in differences.items()]
    out += [ScoreSpec(name=name, unit_n="entries", source=_GAO, definition=words) for name, words in entries.items()]
    return tuple(out)


@STUDIES.register("shrinkage")
class Shrinkage(Study[ShrinkageSettings]):
    """How much of an SAE's error is wrong activations of the right latents.

    Each token keeps its active latents; their activations z become those that minimise ‖x − x̂‖², with z ≥ 0 unless the SAE's
    own activations can be negative (signed TopK, AbsTopK). Decoder, bias, normalisation and skip stay. The refined recon is
    spliced in beside the SAE's own, at every position but 0 (``--splice-bos`` for that too), on one clean pass. An SAE that
    shrinks its activations, as an L1 penalty makes it, has z above f; one that is merely inexact has z on both sides of f.

    The minimum is exact: a convex problem a token, solved in float64 until the conditions of a minimum hold. Where more latents
    are active than the acts have dimensions z is not unique, and that near f is taken. Standard errors are clustered by
    context; those of ``activation_ratio_by_density`` are over latents.
    """

    name = "shrinkage"
    version = 1
    specs = _specs()
    Settings: ClassVar[type[StudySettings]] = ShrinkageSettings

    def total(self) -> int:
        """Return the contexts."""
        return len(self.setting.text.tokens)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.
        """
        corpus = self.setting.text
        found = [Found(sae, len(corpus.tokens), corpus.context_length) for sae in saes]

        def replacements(number: int, tokens: Acts) -> Iterator[Float[Tensor, "m O"]]:
            sae = saes[number]
            latents = sae.encode(tokens.acts)
            recon = sae.decode(latents, tokens.acts)
            refined = refine(sae, tokens.acts, tokens.target, latents, recon, max_active=self.settings.max_active)
            new = sae.decode(refined.latents, tokens.acts)
            found[number].add(tokens, latents, recon, refined, new)
            yield recon
            yield new

        losses = measure(self.setting, saes, replacements)
        return [self._result(one, loss) for one, loss in zip(found, losses, strict=True)]

    def _result(self, found: Found, losses: Measured) -> StudyResult:
        corpus = self.setting.text
        density = found.density()
        firings, f, z = found.by_latent
        return StudyResult(
            scores=self._scores(found, losses),
            series=found.series(),
            raw={
                "tokens_not_refined": float(found.left),
                "tokens_unsettled": float(found.unsettled),
                "entries": float(firings.sum()),
                "sum_activations": float(f.sum()),
                "sum_refined_activations": float(z.sum()),
                "predictions": float(losses.n_predictions.sum()),
            },
            per_latent={"density": density, "activation_ratio": np.where(f > 0, z / np.where(f > 0, f, 1.0), np.nan)},
            data=text_info(corpus),
        )

    def _scores(self, found: Found, losses: Measured) -> list[Score]:
        n, entries = int(losses.n_acts.sum()), int(found.by_latent[0].sum())
        silent = "no latent is active"
        scores: list[Score] = []
        estimates: dict[str, Estimate] = {}
        for row, prefix in enumerate(("", "refined_")):
            named = found.recons[row].named()
            scores += [named[name].model_copy(update={"name": f"{prefix}{name}"}) for name in _RECONS]
            estimates[f"{prefix}l0"] = ratio(found.l0[row], losses.n_acts, n=n)
            estimates[f"{prefix}delta_ce"] = losses.delta_ce(row)
            estimates[f"{prefix}kl"] = losses.mean("kl", row)
        (before, about_mean), (after, _) = (metric.about_mean() for metric in found.recons)
        flat = "the acts do not vary over the scored tokens"
        varies = scores[list(_RECONS).index("explained_variance")].value is not None
        e, counts = found.entries, found.l0[0]  # a token has as many entries as active latents
        estimates |= {
            "refinement_mse_ratio": ratio(after, before, n=n, reason="the recons have no error"),
            "refinement_explained_variance": ratio(before - after, about_mean if varies else 0 * before, n=n, reason=flat),
            "refinement_delta_ce": losses.mean("ce", 1, less=0),
            "refinement_delta_kl": losses.mean("kl", 1, less=0),
            "activation_ratio": ratio(e["z"], e["f"], n=entries, reason=silent),
            "activation_ratio_mean": ratio(e["ratio"], counts, n=entries, reason=silent),
            "activation_change": ratio(e["change"], e["f"], n=entries, reason=silent),
            "activations_zeroed": ratio(e["zeroed"], counts, n=entries, reason=silent),
        }
        by_name = {score.name: score for score in scores}
        by_name |= {name: self.spec(name).score(estimate) for name, estimate in estimates.items()}
        return [by_name[spec.name] for spec in self.specs]

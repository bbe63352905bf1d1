"""The study ``ablation``: on how few predictions the effect of one latent falls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from saebench.lm.onward import Base, Onward
from saebench.lm.port import Clean
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stream import centring, default_batch_size, recon_of, sae_space
from saebench.studies.ablation.measure import effects, gaussian_sparsity
from saebench.studies.ablation.removed import Removed, Tokens, active_latents, channels, components, random_directions
from saebench.studies.ablation.sample import FEWER, Sampled, in_parts, sample_tokens
from saebench.studies.ablation.scores import (
    SOURCES,
    SPECS,
    Found,
    density_series,
    gaussian_score,
    quantile_series,
    source_scores,
    spread_scores,
)
from saebench.studies.ablation.tables import Moved, ablation_rows, latent_rows
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.truth.columns import mean_and_components
from saebench.tasklist import TaskCorpus

_PCA_TOKENS = 16_384
"""Tokens that principal components are those of, the first ones; a fixed number, so that nothing depends on the batch size."""


class AblationSettings(StudySettings):
    """Settings of the study."""

    corpus: TaskCorpus
    """The text; `--corpus`, `--context-length` and `--limit` change it as they do for metrics."""
    tokens: int = Field(default=128, ge=1)
    """Tokens at which latents are taken out, drawn by the seed, as many from each of eight bands of positions."""
    positions: int = Field(default=16, ge=1)
    """T: positions at which the effect is looked for, that of the ablation first."""
    per_token: int | None = Field(default=None, ge=1)
    """Latents that are taken out at a token at most, drawn by the seed; all that are active if null."""
    baseline: int = Field(default=8, ge=1)
    """Channels, principal components and random directions that are taken out at each token, of each kind."""
    gaussian: int = Field(default=16, ge=2)
    """Draws behind `ablation_sparsity_gaussian`."""
    listed: int = Field(default=10, ge=1)
    """Promoted, and suppressed, tokens of each latent in the table `ablated_latents`."""

    @model_validator(mode="after")
    def _fits(self) -> AblationSettings:
        length = self.corpus.context_length
        if length is not None and self.positions > length - 1:
            raise ValueError(f"{self.positions} positions do not fit contexts of {length} tokens, whose first is left out")
        return self


class _Known(NamedTuple):
    """What reading the text once has told."""

    density: list[Float[np.ndarray, " S"]]
    """Of each SAE: share of tokens at which each latent is active."""
    mean: Float[Tensor, " O"]
    components: Float[Tensor, "O C"]


class _Batch(NamedTuple):
    """Some contexts with sampled tokens."""

    clean: Clean
    tokens: Tokens
    valid: Tensor


@STUDIES.register("ablation")
class Ablation(Study[AblationSettings]):
    """On how few predictions the effect of taking out one latent falls.

    At sampled tokens every active latent is taken out by itself, f_j W_dec[j] (the input's normalisation undone) subtracted at
    that one position, and the rest of the model is run. The change of the logits at T positions, that of the ablation first,
    is a vector of V·T numbers e once its median over the vocabulary is taken off at each position (the lower of the two in the
    middle if V is even):

        ablation_sparsity = (Σ|e| / √Σe²)² / (V·T)

    1/(V·T) if one logit changes, 1 if all change alike, 2/π for independent normal numbers; lower is sparser. The mean is over
    ablations, so a token counts as often as it has active latents and a dense latent as often as it is active;
    ``ablation_sparsity_by_latent`` counts each latent once. Effects that fall on the first position alone are at most 1/T in this
    number, however many tokens they touch there; ``ablation_sparsity_next`` is that of T = 1, and ``ablation_next_share`` says
    how much of Σe² falls there. Standard errors are clustered by context. An ablation that changes no
    logit at all has no sparsity; it is counted (``ablations_without_effect``) and left out.

    In the clean stream the SAE's error stays: x − f_j W_dec[j]. In the spliced one recons stand in the place of acts at every
    position but 0 (``--splice-bos`` for that too): x̂ − f_j W_dec[j]. The paper does not say which it took, nor how many tokens,
    nor whether means were over ablations. Beside it stand, in the clean stream: channels of the acts set to 0, principal
    components of the acts (about their mean), and random directions as long as what the token's latents add.

    Keys and values before the token are computed once; ablations at many tokens go through the blocks behind the site as one
    batch of T positions (:mod:`saebench.lm.onward`).

    Source: Gao et al. 2024, arXiv 2406.04093, §4.5.
    """

    name = "ablation"
    version = 1
    specs = SPECS
    Settings: ClassVar[type[StudySettings]] = AblationSettings

    def total(self) -> int:
        """Return the contexts to be read and the tokens to be looked at."""
        return len(self.setting.text.tokens) + self.settings.tokens

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.

        Raises:
            InputError: No token is followed by enough others in its context.
        """
        settings, corpus, port = self.settings, self.setting.text, self.setting.port
        sampled = sample_tokens(corpus, n=settings.tokens, width=settings.positions, seed=self.setting.seed)
        known = self._read(saes)
        onward = Onward(port, corpus.context_length, settings.positions)
        shared = {suffix: Found() for suffix in ("_channels", "_pca")}
        own = [{suffix: Found() for suffix in ("", "_spliced", "_random")} for _ in saes]
        moved = [Moved(sae.config.d_sae) for sae in saes]
        for batch in self._batches(sampled):
            base, seed, n = onward.base(batch.clean), self.setting.seed, settings.baseline
            self._take_out(onward, base, batch, channels(batch.tokens, n=n, seed=seed), shared["_channels"])
            parts = components(batch.tokens, known.mean, known.components, n=n, seed=seed)
            self._take_out(onward, base, batch, parts, shared["_pca"])
            for sae, found, sums in zip(saes, own, moved, strict=True):
                latents = active_latents(port, sae, batch.tokens, per_token=settings.per_token, seed=seed)
                self._take_out(onward, base, batch, latents, found[""], sums)
                self._take_out(onward, base, batch, random_directions(batch.tokens, latents, n=n, seed=seed), found["_random"])
                self._take_out(onward, self._spliced(onward, sae, batch), batch, latents, found["_spliced"])
            self.setting.advance(len(batch.tokens.numbers))
        gaussian = gaussian_sparsity(settings.positions, port.model.d_vocab, draws=settings.gaussian, seed=self.setting.seed)
        notes = self._notes(sampled, onward)
        return [
            self._result(sampled, shared | found, density, sums, gaussian, notes)
            for found, density, sums in zip(own, known.density, moved, strict=True)
        ]

    def _take_out(
        self, onward: Onward, base: Base, batch: _Batch, removed: Removed, found: Found, sums: Moved | None = None
    ) -> None:
        """Measure what taking each thing out does, and keep it."""
        positions = self._contexts_at_once() * self.setting.text.context_length
        at_once = max(2, onward.at_once(self.setting.text.context_length, positions))
        sizes = []
        for effect in effects(onward, base, batch.tokens, removed, at_once=at_once):
            sizes.append(effect.sizes)
            if sums is not None:
                sums.add(removed.which[effect.part].cpu().numpy(), effect.change)
        found.add(np.array(batch.tokens.numbers), removed, sizes, self.setting.port.model.d_vocab)

    def _contexts_at_once(self) -> int:
        return self.setting.batch_size or default_batch_size(self.setting.text.context_length, self.setting.port.model.device)

    @torch.inference_mode()
    def _read(self, saes: Sequence[SAE]) -> _Known:
        """Read the whole text: how often each latent is active, and the principal components."""
        corpus, port = self.setting.text, self.setting.port
        device, size = port.model.device, self._contexts_at_once()
        counts = [np.zeros(sae.config.d_sae, dtype=np.int64) for sae in saes]
        targets: list[Tensor] = []
        for start in range(0, len(corpus.tokens), size):
            rows = slice(start, start + size)
            clean = port.clean(corpus.tokens[rows].to(device), final=False)
            scored = corpus.scored[rows].to(device)
            for sae, count in zip(saes, counts, strict=True):
                acts, _ = sae_space(sae, clean.acts[scored], centring(port, sae.config)[0])
                for latents, _recon in sae.run(acts):
                    count += np.bincount(latents.indices.cpu().numpy(), minlength=len(count))
            wanted = _PCA_TOKENS - sum(len(t) for t in targets)
            if wanted > 0:
                targets.append(clean.target[scored][:wanted].float().cpu())
            self.setting.advance(len(clean.tokens))
        mean, directions = mean_and_components(torch.cat(targets), device)
        total = int(corpus.scored.sum())
        return _Known([count / total for count in counts], mean, directions)

    def _batches(self, sampled: Sampled) -> Iterator[_Batch]:
        """Yield the contexts that hold sampled tokens, some at a time, as far as they are needed."""
        corpus, port = self.setting.text, self.setting.port
        device, size = port.model.device, max(1, self._contexts_at_once() // FEWER)
        for part in in_parts(sampled, width=self.settings.positions, size=size):
            row = torch.from_numpy(part.row).to(device)
            position = torch.from_numpy(sampled.position[part.number]).to(device)
            clean = port.clean(corpus.tokens[part.context, : part.length].to(device), final=False)
            tokens = Tokens(
                numbers=part.number.tolist(), row=row, position=position,
                acts=clean.acts[row, position], target=clean.target[row, position],
            )  # fmt: skip
            yield _Batch(clean, tokens, corpus.valid[part.context, : part.length].to(device))

    def _spliced(self, onward: Onward, sae: SAE, batch: _Batch) -> Base:
        """Return the forward with recons in the place of acts."""
        clean, where = batch.clean, batch.valid.clone()
        where[:, 0] &= self.setting.splice_bos
        recon = torch.zeros_like(clean.target)
        recon[where] = recon_of(self.setting.port, sae, clean.acts[where], clean.target[where])
        return onward.base(clean, recon, where)

    def _notes(self, sampled: Sampled, onward: Onward) -> tuple[str, ...]:
        notes = []
        if len(sampled.context) < self.settings.tokens:
            notes.append(f"only {len(sampled.context)} of {self.settings.tokens} tokens are there to be looked at")
        if not onward.from_position:
            port = self.setting.port
            notes.append(
                f"{port.write.name} of {port.model.family}: each ablation runs its whole context, which takes much longer"
            )
        return tuple(notes)

    def _result(
        self,
        sampled: Sampled,
        found: dict[str, Found],
        density: Float[np.ndarray, " S"],
        moved: Moved,
        gaussian: Float[np.ndarray, " n"],
        notes: tuple[str, ...],
    ) -> StudyResult:
        corpus, model = self.setting.text, self.setting.port.model
        clean = found[""]
        n, latents = len(sampled.context), clean.column("which")
        tables: dict[str, dict[str, list[Any]]] = {"ablations": ablation_rows(found, corpus, sampled)}
        if len(latents):
            tables["ablated_latents"] = latent_rows(found, moved, density, model, n=self.settings.listed)
        return StudyResult(
            scores=[
                *(score for suffix in SOURCES for score in source_scores(suffix, found[suffix], sampled.context)),
                *spread_scores(clean),
                gaussian_score(gaussian),
            ],
            series=[
                *quantile_series("ablation_sparsity_quantiles", clean),
                *quantile_series("ablation_sparsity_spliced_quantiles", found["_spliced"]),
                *density_series(clean, density, sampled.context),
            ],
            raw={
                "ablation_tokens": float(n),
                "ablation_positions": float(self.settings.positions),
                "ablations": float(len(latents)),
                "ablations_without_effect": float((~clean.known()).sum()),
                "latents_ablated": float(len(np.unique(latents))),
                "latents_dead": float((density == 0).sum()),
                "tokens_read": float(corpus.scored.sum()),
            },
            data=text_info(
                corpus, n_scored=n, rule=f"{n} tokens of it, drawn by the seed from {len(np.unique(sampled.context))} contexts"
            ),
            tables=tables,
            notes=notes,
        )

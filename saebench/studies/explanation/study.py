"""The study ``explanation``: what is left of the model when latents are what their explanations say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.data import Corpus
from saebench.metrics.base import ScoreSpec
from saebench.record import Score
from saebench.registry import STUDIES
from saebench.sae import SAE
from saebench.stats import Estimate, Floats, drawn, ratio
from saebench.stream import centring, port_width, sae_space
from saebench.studies.base import Study, StudyResult, StudySettings, text_info
from saebench.studies.explanation.lookup import Lookup, model_ce
from saebench.studies.explanation.settings import ExplanationSettings
from saebench.studies.explanation.simulation import Simulation
from saebench.studies.n2g.building import explain
from saebench.studies.n2g.explained import Explained
from saebench.studies.n2g.judging import WAYS
from saebench.studies.n2g.reading import halves
from saebench.studies.n2g.scores import mean_over_latents
from saebench.studies.replaced import Acts, Measured, batch_size_of, measure

_TABLES = ("mean", "unigram", "bigram")
_ROWS = ("sae", *_TABLES, *WAYS)
"""What stands in the place of the acts, in this order."""
_SOURCE = "Gao et al. 2024, §4.4"
_SAYS = {
    "published": "the chosen latents as their patterns say, matched as published, scaled",
    "backtracking": "the chosen latents as their patterns say, no match missed, scaled",
    "unigram": "what the chosen latents write looked up by token",
    "bigram": "what the chosen latents write looked up by token and the one before",
    "mean": "what the chosen latents write replaced by its mean",
    "sae": "nothing replaced: the SAE itself, the ceiling",
}


def _tail(row: str) -> str:
    return "" if row == "published" else f"_{row}"


def _specs() -> tuple[ScoreSpec, ...]:
    specs: list[ScoreSpec] = []

    def add(name: str, definition: str, better: Any = "none", unit: str = "", unit_n: str = "predictions") -> None:
        specs.append(
            ScoreSpec(name=f"explanation_{name}", definition=definition, better=better, unit=unit, unit_n=unit_n, source=_SOURCE)
        )

    for row, what in _SAYS.items():
        better = "lower" if row in WAYS else "none"
        add(f"delta_ce{_tail(row)}", f"ce_spliced − ce_clean, {what}", better, "nats")
        add(f"kl{_tail(row)}", f"KL(clean ‖ spliced), {what}", better, "nats")
    for row in (*WAYS, "unigram", "bigram"):
        add(
            f"recovered{_tail(row)}",
            f"(CE − ce_spliced) / (CE − CE of the SAE), CE being that with the mean; ce_spliced with {_SAYS[row]}",
            "higher" if row in WAYS else "none",
        )
    for row in WAYS:
        add(f"less_bigram{_tail(row)}", f"ce_spliced less that of the bigram table: {_SAYS[row]}", "lower", "nats")
    for name in ("unigram", "bigram"):
        what = f"CE of a {name} language model counted on the first half, less ce_clean"
        add(f"delta_ce_{name}_model", what, unit="nats")
    for row in WAYS:
        what = f"mean over latents: correlation over tokens with {_SAYS[row]}; 0 where nothing is said of the latent"
        add(f"correlation{_tail(row)}", what, "higher", unit_n="latents")
    return tuple(specs)


@dataclass(frozen=True)
class _One:
    """What is kept of one SAE."""

    explained: Explained
    simulation: Simulation
    lookup: Lookup


@STUDIES.register("explanation")
class Explanation(Study[ExplanationSettings]):
    """The model's CE and KL with latents simulated from their N2G patterns (Gao et al. 2024, §4.4).

    Patterns are built on the first half of the contexts as in the study ``n2g``. There, too, each latent gets its scale
    E[s·a] / E[s²], s being the activation that the matching pattern promises (0 where none matches) and a the true one. On the
    second half the chosen latents are scale · s at every scored token; all others, none with ``latents: all``, keep their values.
    What the SAE makes of that is spliced in at every position but 0; separators, and position 0 with ``--splice-bos``, have the
    SAE's own recon. Where the SAE normalises its input by token, that token's scale is kept.

    Beside it stand, fitted on the same tokens: tables that look up what the chosen latents write, Σ f W_dec, by token (unigram)
    and by token and the one before (bigram), or know its mean only; language models of the same kind; and the SAE itself.
    Standard errors are clustered by context.

    Args:
        setting: Where and on how much; ``corpus`` is what the settings name.
        settings: What the task file says, checked.
    """

    name = "explanation"
    version = 1
    specs = _specs()
    Settings: ClassVar[type[StudySettings]] = ExplanationSettings

    def total(self) -> int:
        """Return the steps: the first half is read twice, the second once, and building counts as all contexts."""
        n = len(self.setting.text.tokens)
        return 2 * n + (n - n // 2)

    def run(self, saes: Sequence[SAE]) -> list[StudyResult]:
        """Return one result an SAE.

        Args:
            saes: SAEs of the site.

        Raises:
            InputError: A latent that an SAE does not have, no usable pad token, or a single context.
        """
        corpus, port = self.setting.text, self.setting.port
        first, second = (slice(part.start, part.stop) for part in halves(corpus))
        explained, pad = explain(self.setting, self.settings, saes)
        d_vocab, begin = port.model.d_vocab, int(corpus.has_bos)
        before, tokens = _pairs(corpus, corpus.scored, first)
        device, width = port.model.device, port_width(port)[1]
        ones = [
            _One(
                one,
                Simulation(sae, one.latents, one.tries, d_vocab, begin),
                Lookup(before, tokens, width, d_vocab, device),
            )
            for sae, one in zip(saes, explained, strict=True)
        ]
        self._fit(ones, first)
        held = replace(corpus, tokens=corpus.tokens[second], valid=corpus.valid[second], scored=corpus.scored[second])

        def replacements(number: int, acts: Acts) -> Iterator[Float[Tensor, "m O"]]:
            return _replacements(ones[number], acts, held)

        found = measure(replace(self.setting, corpus=held), saes, replacements)
        fitted, judged = (torch.zeros_like(corpus.predicted) for _ in range(2))
        fitted[first], judged[second] = corpus.predicted[first], corpus.predicted[second]
        models = {name: ce[second] for name, ce in model_ce(corpus.tokens, fitted, judged, d_vocab).items()}
        data = text_info(corpus, rule="patterns, scales and tables from the first half of the contexts, scores from the second")
        notes = tuple(note for one in ones for note in _notes(one))
        return [
            StudyResult(
                scores=self._scores(one, sums, models),
                raw=_raw(one, sums, pad),
                data=data,
                tables={"explanation": _table(one)},
                notes=notes,
            )
            for one, sums in zip(ones, found, strict=True)
        ]

    @torch.inference_mode()
    def _fit(self, ones: Sequence[_One], first: slice) -> None:
        """Sum what scales and tables are made of, over the first half."""
        corpus, port = self.setting.text, self.setting.port
        size = batch_size_of(self.setting)
        for start in range(first.start, first.stop, size):
            rows = slice(start, min(start + size, first.stop))
            where = corpus.scored[rows]
            acts = port.clean(corpus.tokens[rows].to(port.model.device), final=False).acts[where.to(port.model.device)]
            pairs = _pairs(corpus, corpus.scored, rows)
            for one in ones:
                sim = one.simulation
                known, _ = sae_space(sim.sae, acts, centring(port, sim.sae.config)[0])
                true = sim.true(sim.sae.encode(known))
                sim.trained.add(len(acts), true, sim.said(corpus.tokens[rows].numpy(), where.numpy()))
                one.lookup.add(*pairs, sim.written(true, len(acts)))
            self.setting.advance(rows.stop - rows.start)

    def _scores(self, one: _One, found: Measured, models: dict[str, Floats]) -> list[Score]:
        at = {name: i for i, name in enumerate(_ROWS)}
        n = int(found.n_predictions.sum())
        values: dict[str, Estimate] = {}
        for row in _ROWS:
            values[f"delta_ce{_tail(row)}"] = found.delta_ce(at[row])
            values[f"kl{_tail(row)}"] = found.mean("kl", at[row])
        room = found.ce[at["mean"]] - found.ce[at["sae"]]
        for row in (*WAYS, "unigram", "bigram"):
            why = "the mean costs the model as much as the SAE itself"
            values[f"recovered{_tail(row)}"] = ratio(found.ce[at["mean"]] - found.ce[at[row]], room, n=n, reason=why)
        for row in WAYS:
            values[f"less_bigram{_tail(row)}"] = found.mean("ce", at[row], less=at["bigram"])
        for name, ce in models.items():
            values[f"delta_ce_{name}_model"] = ratio(ce - found.ce_clean, found.n_predictions, n=n)
        correlation = one.simulation.judged.correlation()
        counts = drawn(max(1, correlation.shape[1]), self.settings.bootstrap, np.random.default_rng(self.setting.seed))
        for i, row in enumerate(WAYS):
            finite = bool(np.isfinite(one.simulation.judged.aa).all())
            values[f"correlation{_tail(row)}"] = (
                mean_over_latents(correlation[i], None, counts[:, : correlation.shape[1]])
                if finite
                else Estimate(value=float("nan"))
            )
        return [spec.score(values[spec.name.removeprefix("explanation_")]) for spec in self.specs]


def _replacements(one: _One, acts: Acts, corpus: Corpus) -> Iterator[Float[Tensor, "m O"]]:
    """Yield the recons in the order of ``_ROWS``."""
    sim, sae = one.simulation, one.simulation.sae
    latents = sae.encode(acts.acts)
    recon = sae.decode(latents, acts.acts)
    yield recon
    scored = acts.scored.cpu().numpy()
    context, position = acts.context[scored], acts.position[scored]
    low, high = (int(context.min()), int(context.max()) + 1) if len(context) else (0, 0)
    tokens = corpus.tokens[low:high].numpy()
    where = np.zeros(tokens.shape, dtype=bool)
    where[context - low, position] = True
    true, said = sim.true(latents, scored), sim.said(tokens, where)
    sim.judged.add(len(context), true, said)
    now = sim.written(true, len(context))
    scale = sae.output_scale(acts.acts[acts.scored])
    scales = sim.trained.scale()
    looked_up = one.lookup.says(tokens[context - low, position - 1], tokens[context - low, position])
    written = [looked_up[name] for name in _TABLES]
    written += [sim.written(entries, len(context), by) for entries, by in zip(said, scales, strict=True)]
    for new in written:
        out = recon.clone()
        out[acts.scored] += scale * (new - now)
        yield out


def _pairs(corpus: Corpus, where: Bool[Tensor, "N L"], rows: slice) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
    """Return (token before, token) at the given places; position 0 is never among them."""
    context, position = where[rows].nonzero().numpy().T
    tokens = corpus.tokens[rows].numpy()
    return tokens[context, position - 1], tokens[context, position]


def _notes(one: _One) -> list[str]:
    """Return what the user should know: latents that cannot be simulated."""
    n, silent = len(one.explained.latents), sum(not trie for trie in one.explained.tries)
    name = one.simulation.sae.config.name
    said = [f"{name}: {silent} of {n} latents never fire in the first half of the text; they are taken for 0"] if silent else []
    return said or ([] if n else [f"{name}: no latent fires in the first half of the text"])


def _raw(one: _One, found: Measured, pad: int) -> dict[str, float | None]:
    sim = one.simulation
    return {
        "explanation_latents": float(len(sim.latents)),
        "explanation_latents_without_patterns": float(sum(not trie for trie in one.explained.tries)),
        "explanation_tokens_first": float(sim.trained.n_tokens),
        "explanation_tokens_second": float(sim.judged.n_tokens),
        "explanation_pad_token": float(pad),
        "ce_clean_sum": float(found.ce_clean.sum()),
        "predictions": float(found.n_predictions.sum()),
        **{f"ce_{row}_sum": float(found.ce[i].sum()) for i, row in enumerate(_ROWS)},
        **{f"kl_{row}_sum": float(found.kl[i].sum()) for i, row in enumerate(_ROWS)},
    }


def _table(one: _One) -> dict[str, list[Any]]:
    sim = one.simulation
    scale, correlation = sim.trained.scale(), sim.judged.correlation()
    rows: dict[str, list[Any]] = {
        "latent": sim.latents.tolist(),
        "n_first": one.explained.density[sim.latents].tolist(),
        "n_patterns": [len(trie) for trie in one.explained.tries],
        "mean_act": (sim.judged.a / max(1, sim.judged.n_tokens)).tolist(),
    }
    for i, way in enumerate(WAYS):
        rows[f"scale{_tail(way)}"] = scale[i].tolist()
        rows[f"correlation{_tail(way)}"] = [None if np.isnan(r) else float(r) for r in correlation[i]]
    return rows

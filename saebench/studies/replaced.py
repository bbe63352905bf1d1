"""Several replacements of the acts by each SAE, on one shared clean pass: squared error, CE and KL of every one.

Letters: ``W`` replacements of one SAE, ``C`` contexts, ``m`` replaced tokens of a batch, ``D`` width read, ``O`` width written,
``S`` d_sae, ``B`` contexts of a batch, ``L`` positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.lm.losses import LossRows, from_hidden, loss_rows
from saebench.lm.port import Clean, Port
from saebench.sae import SAE
from saebench.stats import Estimate, Floats, add_at, ratio
from saebench.stream import centring, default_batch_size, sae_space
from saebench.studies.base import StudySetting


class Acts(NamedTuple):
    """The replaced tokens of a batch as one SAE knows them (centred if it expects that)."""

    acts: Float[Tensor, "m D"]
    target: Float[Tensor, "m O"]
    scored: Bool[Tensor, " m"]
    """Which of them count; the others are separators, and position 0 where that is replaced."""
    context: Int[np.ndarray, " m"]
    position: Int[np.ndarray, " m"]


Replacements = Callable[[int, Acts], Iterable[Float[Tensor, "m O"]]]
"""(number of the SAE, tokens) → recons in the SAE's own space, always as many."""
Watch = Callable[[int, LossRows, Int[np.ndarray, " M"], Int[np.ndarray, " M"]], None]
"""(number of the SAE, losses of a batch's predictions, their contexts, their positions); alternatives are the replacements."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Sums by context for one SAE; rows in the order of the replacements."""

    sse: Float[np.ndarray, "W C"]
    """‖x − x̂‖² over scored tokens."""
    ce: Float[np.ndarray, "W C"]
    """CE over predictions, nats."""
    kl: Float[np.ndarray, "W C"]
    """KL(clean ‖ spliced)."""
    ce_clean: Floats
    n_acts: Floats
    n_predictions: Floats

    def mean(self, name: str, row: int, less: int | None = None) -> Estimate:
        """Return the mean of ``sse``, ``ce`` or ``kl``, or of its difference from row ``less``, with its clustered error."""
        sums = getattr(self, name)
        counts = self.n_acts if name == "sse" else self.n_predictions
        return ratio(sums[row] - (sums[less] if less is not None else 0.0), counts, n=int(counts.sum()))

    def delta_ce(self, row: int) -> Estimate:
        """Return CE spliced − CE clean, nats."""
        return ratio(self.ce[row] - self.ce_clean, self.n_predictions, n=int(self.n_predictions.sum()))


@torch.inference_mode()
def measure(setting: StudySetting, saes: Sequence[SAE], replacements: Replacements, watch: Watch | None = None) -> list[Measured]:
    """Return the sums of each SAE. Acts are read on the clean forward; position 0 stays clean unless the run says otherwise.

    Args:
        setting: Site and text (``setting.text``); told of every context.
        saes: The SAEs.
        replacements: What is put in the place of the acts.
        watch: Told of every prediction, for who wants more than sums by context.
    """
    corpus, port = setting.text, setting.port
    device, head, d_vocab = port.model.device, port.model.head, port.model.d_vocab
    n, size = len(corpus.tokens), batch_size_of(setting)
    ce_clean = np.zeros(n)
    sums: list[dict[str, np.ndarray]] = [{} for _ in saes]
    for start in range(0, n, size):
        rows = slice(start, start + size)
        clean = port.clean(corpus.tokens[rows].to(device))
        assert clean.final is not None
        where = corpus.valid[rows].to(device)
        where[:, 0] &= setting.splice_bos
        scored, predicted = corpus.scored[rows].to(device)[where], corpus.predicted[rows].to(device)
        targets = clean.tokens.roll(-1, 1)[predicted]
        context, position = predicted.nonzero().cpu().numpy().T
        context = context + start
        for number, sae in enumerate(saes):
            tokens, mean = _acts_of(port, sae, clean, where, scored, start)
            passes, errors = [], []
            for recon in replacements(number, tokens):
                errors.append((tokens.target - recon)[tokens.scored].double().square().sum(1).cpu().numpy())
                new = torch.zeros_like(clean.target)
                new[where] = (recon + mean).to(new.dtype)
                passes.append(from_hidden(head, port.splice(clean, new, where)[predicted]))
            losses = loss_rows(from_hidden(head, clean.final[predicted]), passes, targets, d_vocab=d_vocab)
            own = sums[number]
            for name in ("sse", "ce", "kl"):
                own.setdefault(name, np.zeros((len(passes), n)))
            acts_context = tokens.context[tokens.scored.cpu().numpy()]
            for i, error in enumerate(errors):
                add_at(own["sse"][i], acts_context, error)
                add_at(own["ce"][i], context, losses.ce[i].cpu().numpy())
                add_at(own["kl"][i], context, losses.kl[i].cpu().numpy())
            if watch is not None:
                watch(number, losses, context, position)
            if not number:
                add_at(ce_clean, context, losses.ce_clean.cpu().numpy())
        setting.advance(len(clean.tokens))
    counts = {
        "n_acts": corpus.scored.sum(1).double().numpy(), "n_predictions": corpus.predicted.sum(1).double().numpy()
    }  # fmt: skip
    return [Measured(**own, ce_clean=ce_clean, **counts) for own in sums]


@torch.inference_mode()
def densities(setting: StudySetting, saes: Sequence[SAE]) -> list[Float[np.ndarray, " S"]]:
    """Return, for each SAE, the share of scored tokens at which each latent is active; nothing behind the site runs.

    Args:
        setting: Site and text; told of every context.
        saes: The SAEs.
    """
    corpus, port = setting.text, setting.port
    counts = [np.zeros(sae.config.d_sae, dtype=np.int64) for sae in saes]
    size, device = batch_size_of(setting), port.model.device
    for start in range(0, len(corpus.tokens), size):
        rows = slice(start, start + size)
        clean = port.clean(corpus.tokens[rows].to(device), final=False)
        acts = clean.acts[corpus.scored[rows].to(device)]
        for sae, count in zip(saes, counts, strict=True):
            known, _ = sae_space(sae, acts, centring(port, sae.config)[0])
            for latents, _recon in sae.run(known):
                count += np.bincount(latents.indices.cpu().numpy(), minlength=len(count))
        setting.advance(len(clean.tokens))
    return [count / int(corpus.scored.sum()) for count in counts]


def batch_size_of(setting: StudySetting) -> int:
    """Return how many contexts go through the model at once."""
    return setting.batch_size or default_batch_size(setting.text.context_length, setting.port.model.device)


def _acts_of(
    port: Port, sae: SAE, clean: Clean, where: Bool[Tensor, "B L"], scored: Bool[Tensor, " m"], start: int
) -> tuple[Acts, Float[Tensor, "m one"]]:
    """Return the replaced tokens in the SAE's space, and what is to be added to its recons."""
    reads, writes = centring(port, sae.config)
    acts, _ = sae_space(sae, clean.acts[where], reads)
    target, mean = sae_space(sae, clean.target[where], writes)
    places = where.nonzero().cpu().numpy()
    return Acts(acts, target, scored, places[:, 0] + start, places[:, 1]), mean

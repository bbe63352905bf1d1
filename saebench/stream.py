"""The one pass over the corpus that feeds every streaming metric of every SAE of one site.

For each batch: one prefix, one clean suffix, and per SAE one encode, one decode, one suffix. Acts are read on the clean
forward. Clean logits are made once, a few rows at a time, for all SAEs. What no metric needs is not computed. Results of an
SAE do not depend on which other SAEs share the pass.

Letters: ``B`` contexts of a batch, ``L`` positions, ``D`` width read, ``O`` width written, ``M`` d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.ablation import Ablation
from saebench.lm.losses import Logits, from_hidden, loss_rows
from saebench.lm.port import Clean, Port
from saebench.metrics.base import ActRows, After, LossRowsOf, Metric, MetricResult, Setting
from saebench.metrics.position import windows_for
from saebench.sae import SAE, SAEConfig
from saebench.stats import Window

_REFERENCE_TOKENS = 2048
"""Tokens whose mean shifts the sums; a fixed number, so that nothing depends on the batch size."""


@dataclass(frozen=True, kw_only=True)
class PassResult:
    """What one SAE's metrics found, and the counts they rest on."""

    results: list[MetricResult]
    n_acts: int
    n_predictions: int


def default_batch_size(length: int, device: torch.device) -> int:
    """Return how many contexts of ``length`` tokens go through the model at once."""
    return max(1, (2048 if device.type == "cpu" else 16384) // length)


class Pass:
    """One pass for all SAEs of one site.

    Args:
        port: The site on the model.
        saes: The SAEs, all of that site.
        metrics: Metric classes to feed.
        corpus: The contexts.
        splice_bos: Whether position 0 is replaced as well.
        batch_size: Contexts at a time; chosen from the length if ``None``.

    Raises:
        InputError: An SAE's width is not the site's.
    """

    def __init__(
        self,
        port: Port,
        saes: Sequence[SAE],
        metrics: Sequence[type[Metric]],
        corpus: Corpus,
        *,
        splice_bos: bool = False,
        batch_size: int | None = None,
    ) -> None:
        self.port, self.saes, self.corpus, self.splice_bos = port, list(saes), corpus, splice_bos
        self.device = port.model.device
        self.batch_size = batch_size or default_batch_size(corpus.context_length, self.device)
        needs = set().union(*(m.needs for m in metrics)) if metrics else set()
        self._losses = "losses" in needs
        self._acts = bool(needs)
        self._scored = corpus.scored
        self._predicted = corpus.predicted
        check_widths(port, [sae.config for sae in self.saes])
        self._first: tuple[slice, Clean] | None = None
        reference = self._reference_mean() if self._acts else torch.zeros(port_width(port)[1])
        self._metrics = [[m(self._setting(sae, reference)) for m in metrics] for sae in self.saes]

    def run(self, on_batch: Callable[[int], None] = lambda _n: None) -> list[PassResult]:
        """Run the pass and return one result per SAE, in the order given.

        Args:
            on_batch: Called with the number of contexts done after each batch.
        """
        with np.errstate(all="ignore"):  # what overflows becomes a score without a value, with its reason
            return self._run(on_batch)

    def _run(self, on_batch: Callable[[int], None]) -> list[PassResult]:
        corpus = self.corpus
        zero = self._ablation(torch.zeros(port_width(self.port)[1], device=self.device)) if self._losses else None
        total = torch.zeros(port_width(self.port)[1], dtype=torch.float64, device=self.device)
        for start in range(0, len(corpus.tokens) if self._acts else 0, self.batch_size):
            rows = slice(start, start + self.batch_size)
            clean = self._clean(rows)
            total += clean.target[self._scored[rows].to(self.device)].double().sum(0)
            self._batch(rows, clean, zero)
            on_batch(len(clean.tokens))
        n_acts, n_predictions = int(self._scored.sum()), int(self._predicted.sum())
        after = After(self._mean_ablation(total / max(n_acts, 1)) if self._losses else None)
        return [
            PassResult(results=[m.finish(after) for m in metrics], n_acts=n_acts, n_predictions=n_predictions)
            for metrics in self._metrics
        ]

    def _batch(self, rows: slice, clean: Clean, zero: Ablation | None) -> None:
        valid = self.corpus.valid[rows].to(self.device)
        where = valid.clone()
        where[:, 0] &= self.splice_bos
        scored = self._scored[rows].to(self.device)
        predicted = self._predicted[rows].to(self.device)
        head = self.port.model.head
        passes: list[Logits] = []
        for sae, metrics in zip(self.saes, self._metrics, strict=True):
            recon = self._reconstruct(sae, metrics, clean, scored, where & ~scored, rows.start)
            if self._losses:
                passes.append(from_hidden(head, self.port.splice(clean, recon, where)[predicted]))
            del recon
        if not self._losses:
            return
        assert clean.final is not None and zero is not None
        targets = clean.tokens.roll(-1, 1)[predicted]
        passes.append(zero.logits(clean, where, predicted))
        losses = loss_rows(from_hidden(head, clean.final[predicted]), passes, targets, d_vocab=self.port.model.d_vocab)
        context, position = _places(predicted, rows.start)
        ce, kl, top1 = (t.double().cpu().numpy() for t in (losses.ce, losses.kl, losses.top1))
        ce_clean = losses.ce_clean.cpu().numpy()
        for i, metrics in enumerate(self._metrics):
            of = LossRowsOf(
                ce_clean=ce_clean,
                ce_spliced=ce[i],
                kl=kl[i],
                top1=top1[i],
                ce_zero=ce[-1],
                kl_zero=kl[-1],
                context=context,
                position=position,
            )
            for metric in metrics:
                if "losses" in metric.needs:
                    metric.update_losses(of)

    def _reconstruct(
        self,
        sae: SAE,
        metrics: list[Metric],
        clean: Clean,
        scored: Bool[Tensor, "B L"],
        unscored: Bool[Tensor, "B L"],
        first_context: int,
    ) -> Float[Tensor, "B L O"]:
        """Return the recon at every replaced position, in the model's space; metrics see the scored ones on the way."""
        out = torch.zeros_like(clean.target)
        context, position = _places(scored, first_context)
        reads, writes = centring(self.port, sae.config)
        acts, _ = sae_space(sae, clean.acts[scored], reads)
        target, mean = sae_space(sae, clean.target[scored], writes)
        filled = target.new_empty(target.shape)
        done = 0
        for latents, recon in sae.run(acts):
            part = slice(done, done + len(recon))
            chunk = ActRows(acts[part], target[part], recon, latents, context[part], position[part])
            for metric in metrics:
                if "acts" in metric.needs:
                    metric.update_acts(chunk)
            filled[part] = recon
            done += len(recon)
        out[scored] = (filled + mean).to(out.dtype)
        if bool(unscored.any()):
            out[unscored] = recon_of(self.port, sae, clean.acts[unscored], clean.target[unscored])
        return out

    def _setting(self, sae: SAE, reference: Float[Tensor, " O"]) -> Setting:
        length = self.corpus.context_length
        windows = [Window(name=n, start=a, stop=b) for n, a, b in windows_for(sae.config.context_length, length)]
        if centring(self.port, sae.config)[1]:
            reference = reference - reference.mean()
        return Setting(
            sae=sae,
            n_contexts=len(self.corpus.tokens),
            context_length=length,
            windows=tuple(windows),
            reference_mean=reference,
        )

    def _clean(self, rows: slice) -> Clean:
        if self._first is not None and rows == self._first[0]:
            (_, clean), self._first = self._first, None
            return clean
        return self.port.clean(self.corpus.tokens[rows].to(self.device), final=self._losses)

    def _reference_mean(self) -> Float[Tensor, " O"]:
        n = max(1, _REFERENCE_TOKENS // self.corpus.context_length)
        contexts = slice(0, n)
        same = n == self.batch_size
        clean = self.port.clean(self.corpus.tokens[contexts].to(self.device), final=self._losses and same)
        if same:  # the first batch need not be run again
            self._first = (contexts, clean)
        return clean.target[self._scored[contexts].to(self.device)].float().mean(0)

    def _ablation(self, value: Float[Tensor, " O"]) -> Ablation:
        return Ablation(self.port, value, self.corpus.tokens, keep_first=not self.splice_bos)

    def _mean_ablation(self, mean: Float[Tensor, " O"]) -> Float[np.ndarray, "C L"]:
        """Return the CE of every prediction under mean ablation; a second sweep only where one forward cannot serve all."""
        corpus, model = self.corpus, self.port.model
        ablation = self._ablation(mean)
        if ablation.shared:
            return ablation.shared_ce(model.head, corpus.tokens, self._predicted)
        ce = np.full(tuple(corpus.tokens.shape), np.nan)
        for start in range(0, len(corpus.tokens), self.batch_size):
            rows = slice(start, start + self.batch_size)
            clean = self.port.clean(corpus.tokens[rows].to(self.device), final=False)
            where = corpus.valid[rows].to(self.device)
            where[:, 0] &= self.splice_bos
            predicted = self._predicted[rows].to(self.device)
            targets = clean.tokens.roll(-1, 1)[predicted]
            logits = ablation.logits(clean, where, predicted)
            found = loss_rows(logits, [], targets, d_vocab=model.d_vocab).ce_clean
            ce[rows][self._predicted[rows].numpy()] = found.cpu().numpy()
        return ce


def centring(port: Port, sae: SAEConfig) -> tuple[bool, bool]:
    """Return whether x − mean_D(x) takes the place of x where this SAE reads, and where it writes.

    So it is for an SAE that expects the centred stream, at a site that ``center_writing_weights`` of TransformerLens centres
    (the stream, and what attention and MLP add to it), in a model whose LayerNorm makes that the same model.
    """
    if sae.residual != "centred" or not port.model.uses_layer_norm:
        return False, False
    return port.read.written_to_stream, port.write.written_to_stream


def recon_of(port: Port, sae: SAE, acts: Float[Tensor, "m D"], target: Float[Tensor, "m O"]) -> Float[Tensor, "m O"]:
    """Return what the splice puts in the place of ``target``: the recon of ``acts``, in the model's space and dtype.

    Args:
        port: The site.
        sae: An SAE as it was loaded; where it expects centred acts, they are centred here.
        acts: Clean acts at the site that is read.
        target: Clean acts at the site that is written.
    """
    reads, writes = centring(port, sae.config)
    known, _ = sae_space(sae, acts, reads)
    _, mean = sae_space(sae, target, writes)
    return (sae.reconstruct(known) + mean).to(target.dtype)


def sae_space(sae: SAE, acts: Float[Tensor, "m D"], centred: bool) -> tuple[Float[Tensor, "m D"], Float[Tensor, "m one"]]:
    """Return (acts as the SAE knows them, what to add to get the model's own): the mean over D, or 0."""
    acts = acts.to(sae.dtype)
    mean = acts.mean(1, keepdim=True) if centred else acts.new_zeros(len(acts), 1)
    return acts - mean, mean


def port_width(port: Port) -> tuple[int, int]:
    """Return the widths (read, written) of the port, found by one tiny forward and kept."""
    if port.widths is None:
        token = torch.zeros(1, 2, dtype=torch.long, device=port.model.device)
        clean = port.clean(token, final=False)
        port.widths = clean.acts.shape[-1], clean.target.shape[-1]
    return port.widths


def check_widths(port: Port, saes: Sequence[SAEConfig]) -> None:
    """Raise ``InputError`` if an SAE does not fit the site."""
    read, written = port_width(port)
    for c in saes:
        if (c.d_in, c.d_out) != (read, written):
            raise InputError(
                f"{c.name} reads {c.d_in} and writes {c.d_out} dimensions, but {port.read.name} of {port.model.id} has "
                f"{read} and {port.write.name} has {written}; give the model and site it was trained on (--model, --site)"
            )


def _places(mask: Bool[Tensor, "B L"], first_context: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (context, position) of every true entry, row by row."""
    where = mask.nonzero().cpu().numpy()
    return where[:, 0] + first_context, where[:, 1]

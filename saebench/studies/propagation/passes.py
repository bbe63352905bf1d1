"""The passes: one clean forward for all SAEs of a model, one suffix an SAE, read at every SAE behind it.

Letters: ``S`` SAEs, ``Q`` quantities (of :data:`QUANTITIES`), ``C`` contexts, ``N`` predictions, ``B`` contexts of a batch,
``L`` positions, ``D`` width read, ``O`` width written, ``m`` tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.chain import Chain
from saebench.lm.losses import from_hidden, target_rows
from saebench.lm.port import Clean, Port
from saebench.sae import SAE
from saebench.stats import add_at
from saebench.stream import centring, default_batch_size, recon_of, sae_space

QUANTITIES = ("mse", "l0", "norm")
"""What is read at a site, summed over tokens: ‖x − x̂‖², the number of latents ≠ 0, ‖x‖."""


class Member(NamedTuple):
    """One SAE and where it belongs."""

    site: int
    """Number of its port in the chain."""
    sae: SAE
    label: str
    """``<site>/<sae>-<sha8>``."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the passes have seen."""

    clean: Float[np.ndarray, "S Q C"]
    """Sums of each SAE on the clean forward."""
    spliced: dict[tuple[int, int], Float[np.ndarray, "Q C"]]
    """(earlier, later) SAE → sums of the later one while the earlier one is spliced in."""
    counts: Float[np.ndarray, " C"]
    """Tokens behind those sums."""
    ce_clean: Float[np.ndarray, " N"]
    """CE of each prediction on the clean forward, nats."""
    delta_ce: Float[np.ndarray, "S N"]
    """CE of each prediction with the SAE spliced in, minus ``ce_clean``."""
    context: Int[np.ndarray, " N"]
    position: Int[np.ndarray, " N"]
    """Where the prediction is made; what is predicted stands at the next position."""


@torch.inference_mode()
def run_passes(
    chain: Chain,
    members: Sequence[Member],
    corpus: Corpus,
    *,
    splice_bos: bool = False,
    batch_size: int | None = None,
    advance: Callable[[int], None] = lambda _n: None,
) -> Found:
    """Run the corpus through the model, clean and with each SAE spliced in.

    Acts are read on the clean forward, and the recon is put at every position but 0 and padding. Behind it the acts are read at
    the same scored positions of the same tokens, both times in batches of the same rows, so that a splice that changes nothing
    gives the clean sums, bit for bit.

    Args:
        chain: The sites.
        members: The SAEs.
        corpus: The contexts.
        splice_bos: Whether position 0 is replaced as well.
        batch_size: Contexts at a time; chosen from the length if ``None``.
        advance: Told how many contexts are done.
    """
    model, n_contexts = chain.model, len(corpus.tokens)
    size = batch_size or default_batch_size(corpus.context_length, model.device)
    predictions = corpus.predicted.nonzero().numpy()
    clean_sums = np.zeros((len(members), len(QUANTITIES), n_contexts))
    spliced_sums = {
        (i, j): np.zeros((len(QUANTITIES), n_contexts))
        for i, earlier in enumerate(members)
        for j, later in enumerate(members)
        if later.site in chain.behind(earlier.site)
    }
    lnp = np.zeros((len(members) + 1, len(predictions)))
    done = 0
    for start in range(0, n_contexts, size):
        rows = slice(start, start + size)
        batch = _Batch(corpus, rows, model.device, splice_bos)
        part = slice(done, done + len(batch.targets))
        clean = chain.clean(batch.tokens)
        assert clean[0].final is not None
        lnp[-1, part] = _lnp(chain, clean[0].final, batch)
        for i, member in enumerate(members):
            here = clean[member.site]
            recon, numbers = _read(chain.ports[member.site], member.sae, here.acts[batch.scored], here.target[batch.scored])
            _add(clean_sums[i], batch, numbers)
            whole = _whole_recon(chain.ports[member.site], member.sae, here, recon, batch)
            behind = chain.splice(member.site, here, whole, batch.where)
            lnp[i, part] = _lnp(chain, behind.final, batch)
            for j, later in enumerate(members):
                if (i, j) in spliced_sums:
                    acts, target = behind.acts[later.site]
                    _, numbers = _read(chain.ports[later.site], later.sae, acts[batch.scored], target[batch.scored])
                    _add(spliced_sums[i, j], batch, numbers)
        done = part.stop
        advance(len(batch.tokens))
    return Found(
        clean=clean_sums,
        spliced=spliced_sums,
        counts=corpus.scored.sum(1).double().numpy(),
        ce_clean=-lnp[-1],
        delta_ce=lnp[-1] - lnp[:-1],
        context=predictions[:, 0],
        position=predictions[:, 1],
    )


class _Batch:
    """Some contexts on the model's device, and where they are replaced, scored and predicted."""

    def __init__(self, corpus: Corpus, rows: slice, device: torch.device, splice_bos: bool) -> None:
        self.tokens: Int[Tensor, "B L"] = corpus.tokens[rows].to(device)
        self.scored: Bool[Tensor, "B L"] = corpus.scored[rows].to(device)
        self.predicted: Bool[Tensor, "B L"] = corpus.predicted[rows].to(device)
        self.where = corpus.valid[rows].clone().to(device)
        self.where[:, 0] &= splice_bos
        self.targets: Int[Tensor, " n"] = self.tokens.roll(-1, 1)[self.predicted]
        self.context: NDArray[np.int64] = self.scored.nonzero()[:, 0].cpu().numpy() + rows.start


def _lnp(chain: Chain, final: Float[Tensor, "B L M"], batch: _Batch) -> Float[np.ndarray, " n"]:
    """Return ln p of every predicted token of the batch."""
    logits = from_hidden(chain.model.head, final[batch.predicted])
    return target_rows(logits, batch.targets, d_vocab=chain.model.d_vocab).lnp.cpu().numpy()


def _read(
    port: Port, sae: SAE, acts: Float[Tensor, "m D"], target: Float[Tensor, "m O"]
) -> tuple[Float[Tensor, "m O"], Float[Tensor, "Q m"]]:
    """Return (recon in the model's space, quantities of each token in the SAE's own space)."""
    sae = sae.to(device=acts.device)
    reads, writes = centring(port, sae.config)
    x, _ = sae_space(sae, acts, reads)
    y, mean = sae_space(sae, target, writes)
    recon = y.new_empty(y.shape)
    numbers = torch.zeros(len(QUANTITIES), len(y), dtype=torch.float64, device=y.device)
    done = 0
    for latents, found in sae.run(x):
        part = slice(done, done + len(found))
        recon[part] = found
        exact = y[part].double()
        numbers[:, part] = torch.stack([(exact - found.double()).square().sum(1), latents.l0().double(), exact.norm(dim=1)])
        done = part.stop
    return (recon + mean).to(target.dtype), numbers


def _whole_recon(port: Port, sae: SAE, clean: Clean, scored: Float[Tensor, "m O"], batch: _Batch) -> Float[Tensor, "B L O"]:
    """Return the recon at every position that is replaced: ``scored`` where it is known, and the rest (separators, BOS)."""
    out = torch.zeros_like(clean.target)
    out[batch.scored] = scored
    rest = batch.where & ~batch.scored
    if bool(rest.any()):
        out[rest] = recon_of(port, sae.to(device=out.device), clean.acts[rest], clean.target[rest])
    return out


def _add(sums: Float[np.ndarray, "Q C"], batch: _Batch, numbers: Float[Tensor, "Q m"]) -> None:
    for row, values in zip(sums, numbers.cpu().numpy(), strict=True):
        add_at(row, batch.context, values)

"""What happens to ln p of the answer when one latent is taken out of the recon: the causal check of the scores by latent.

The rest of the recon is spliced as it is: latents are those of the clean forward, none takes another's place. Each text is
encoded once for all latents that are ablated in it, and stands in every forward with an ablated copy of itself, so a difference
is one of texts that went through the model side by side.

Letters: ``B`` rows of a batch, ``L`` positions, ``m`` active entries, ``P`` predictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from saebench.lm.branches import PADDING
from saebench.lm.losses import from_hidden, target_rows
from saebench.lm.port import Clean, Port
from saebench.sae import SAE, Latents
from saebench.stream import default_batch_size
from saebench.studies.cloze.encoding import Encoded, Row, batches, make_rows
from saebench.studies.cloze.passes import tensors
from saebench.studies.cloze.recon import recon_seen

Floats = NDArray[np.float64]


def answer_rows(encoded: Sequence[Encoded], answers: Sequence[int]) -> list[Row]:
    """Return one row an example, in order: the prompt and the right answer, nothing of the prompt predicted."""
    alone = [
        dataclasses.replace(one, branches=[one.branches[i]], n_word=[one.n_word[i]], n_prompt=0)
        for one, i in zip(encoded, answers, strict=True)
    ]
    return make_rows(alone, side_by_side=False)


@torch.inference_mode()
def ablate(
    port: Port,
    sae: SAE,
    rows: Sequence[Row],
    prompts: Mapping[int, Sequence[int]],
    *,
    splice_bos: bool = False,
    batch_size: int | None = None,
    advance: Callable[[float], None] = lambda _share: None,
) -> dict[int, Floats]:
    """Return ln p_ablated − ln p_spliced of the answer, nats, by latent, in the order of its prompts.

    Ablated: recon − f_j W_dec[j], the input's normalisation undone, at every position where the recon is spliced in.

    Args:
        port: The site.
        sae: The SAE.
        rows: One a prompt, as :func:`answer_rows` makes them.
        prompts: The prompts in which each latent is to be ablated.
        splice_bos: Whether position 0 is replaced as well.
        batch_size: Texts in a forward at most (two at least); chosen from their length if ``None``.
        advance: Told which share of the prompts is done.
    """
    latents = list(prompts)
    found = np.full((len(rows), len(latents)), np.nan)
    wanted: dict[int, list[int]] = {}
    for slot, latent in enumerate(latents):
        for prompt in prompts[latent]:
            wanted.setdefault(prompt, []).append(slot)
    chosen = [rows[prompt] for prompt in sorted(wanted)]
    done = 0
    for batch in batches(chosen, batch_size, default_batch_size(1, port.model.device)):
        text = _Spliced(port, sae, batch, latents, splice_bos=splice_bos)
        pairs = [(i, slot) for i, row in enumerate(batch) for slot in wanted[row.example]]
        for some in _together(pairs, max(2, len(batch))):
            for (i, slot), change in zip(some, text.changes(some), strict=True):
                found[batch[i].example, slot] = change
        done += len(batch)
        advance(done / len(chosen))
    return {latent: found[list(prompts[latent]), slot] for slot, latent in enumerate(latents)}


def _together(pairs: Sequence[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield (row, latent's number) in groups that are ``size`` texts, with one unablated text for each row."""
    group: list[tuple[int, int]] = []
    rows: set[int] = set()
    for pair in pairs:
        if group and len(group) + 1 + len(rows | {pair[0]}) > size:
            yield group
            group, rows = [], set()
        group.append(pair)
        rows.add(pair[0])
    if group:
        yield group


class _Spliced:
    """A batch of texts, their recons, and where in them the latents that may be ablated are active."""

    def __init__(self, port: Port, sae: SAE, batch: Sequence[Row], latents: Sequence[int], *, splice_bos: bool) -> None:
        self.port, self.sae, self.batch = port, sae, batch
        device = port.model.device
        tokens, branch, *_ = tensors(batch, device)
        self.clean = port.clean(tokens, final=False)
        self.where = branch != PADDING
        self.where[:, 0] &= splice_bos
        self._slot = torch.full((sae.config.d_sae,), -1, device=device)
        self._slot[latents] = torch.arange(len(latents), device=device)
        self._acts: list[Tensor] = []
        self._entries: list[tuple[Tensor, Tensor, Tensor]] = []
        acts, target = self.clean.acts[self.where], self.clean.target[self.where]
        self.recon = torch.zeros_like(self.clean.target)
        self.recon[self.where] = recon_seen(port, sae, acts, target, self._see)
        none = torch.zeros(0, dtype=torch.long, device=device)
        self.acts = torch.cat(self._acts) if self._acts else acts.to(sae.dtype)
        parts = zip(*self._entries, strict=True) if self._entries else (none, none, none.to(sae.dtype))
        self.token, self.latent, self.value = (torch.cat([*part]) if self._entries else part for part in parts)
        self.row, self.column = self.where.nonzero().T

    def _see(self, tokens: slice, acts: Float[Tensor, "m D"], latents: Latents) -> None:
        kept = self._slot[latents.indices] >= 0
        self._acts.append(acts)
        self._entries.append((latents.rows()[kept] + tokens.start, latents.indices[kept], latents.values[kept]))

    def changes(self, pairs: Sequence[tuple[int, int]]) -> Floats:
        """Return ln p_ablated − ln p_spliced of the answer for each pair (row of the batch, latent's number)."""
        plain = sorted({i for i, _ in pairs})
        taken = torch.tensor([*plain, *(i for i, _ in pairs)], device=self.where.device)
        recon = self.recon[taken]
        copy = self._slot.new_full((len(self.batch), int(self._slot.max()) + 1), -1)
        rows, slots = (torch.tensor(part, device=copy.device) for part in zip(*pairs, strict=True))
        copy[rows, slots] = torch.arange(len(plain), len(taken), device=copy.device)
        at = copy[self.row[self.token], self._slot[self.latent]]
        here = at >= 0
        token = self.token[here]
        lost = self.sae.contributions(self.acts[token], self.latent[here], self.value[here])
        recon[at[here], self.column[token]] -= lost.to(recon.dtype)
        c = self.clean
        final = self.port.splice(
            Clean(c.tokens[taken], c.start[taken], c.acts[taken], c.target[taken], None), recon, self.where[taken]
        )
        lnp = self._answers(final, taken.tolist())
        place = {i: k for k, i in enumerate(plain)}
        return lnp[len(plain) :] - lnp[[place[i] for i, _ in pairs]]

    def _answers(self, final: Float[Tensor, "B L M"], rows: Sequence[int]) -> Floats:
        """Return ln p of the answer in each row."""
        counts = [len(self.batch[i].at) for i in rows]
        of = np.repeat(np.arange(len(rows)), counts)
        at, targets = (
            torch.from_numpy(np.concatenate([getattr(self.batch[i], name) for i in rows])).to(final.device)
            for name in ("at", "target")
        )
        hidden = final[torch.from_numpy(of).to(final.device), at]
        found = target_rows(from_hidden(self.port.model.head, hidden), targets, d_vocab=self.port.model.d_vocab)
        return np.bincount(of, found.lnp.cpu().numpy(), len(rows)).astype(np.float64)

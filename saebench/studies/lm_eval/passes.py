"""What lm-eval asks, computed for the clean pass and all spliced ones together.

Letters: ``B`` rows of a batch, ``L`` positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.lm.branches import takes_branches
from saebench.lm.lm_eval import Answer, Group, Writing
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.stream import default_batch_size, recon_of
from saebench.studies.cloze.encoding import Encoded, make_rows
from saebench.studies.cloze.passes import answers

_ROW = 2048
"""Positions of a row with several continuations, at most, unless one alone is longer."""


class Passes:
    """The clean pass and one an SAE, on token ids (see :class:`saebench.lm.lm_eval.Answerer`).

    Acts are read on the clean forward and replaced at every position of a text but position 0.

    Args:
        port: The site.
        saes: SAEs of the site.
        splice_bos: Whether position 0 is replaced as well.
        batch_size: Rows of a batch; chosen from their length if ``None``.
        advance: Told how many requests are done.
    """

    def __init__(
        self,
        port: Port,
        saes: Sequence[SAE],
        *,
        splice_bos: bool = False,
        batch_size: int | None = None,
        advance: Callable[[int], None] = lambda _n: None,
    ) -> None:
        self.port, self.saes = port, list(saes)
        self.splice_bos, self.batch_size, self.advance = splice_bos, batch_size, advance

    @property
    def n_passes(self) -> int:
        """The clean pass and one an SAE."""
        return 1 + len(self.saes)

    def continuations(self, groups: Sequence[Group]) -> list[list[list[Answer]]]:
        """Return ``[group][branch][pass]``: ln p of each continuation, and whether it is what the pass would write."""
        parts = [(number, part) for number, group in enumerate(groups) for part in _parts(group)]
        encoded = [
            Encoded(
                trunk=list(part.trunk),
                branches=[list(branch) for branch in part.branches],
                n_word=[len(branch) for branch in part.branches],
                has_bos=False,
                cut=0,
                n_prompt=0,
            )
            for _, part in parts
        ]
        several = any(len(one.branches) > 1 for one in encoded)
        longest = max(one.length for one in encoded), max(one.length_together for one in encoded)
        done = answers(
            self.port,
            self.saes,
            make_rows(encoded, side_by_side=several and takes_branches(self.port, *longest)),
            [len(one.branches) for one in encoded],
            splice_bos=self.splice_bos,
            batch_size=self.batch_size,
            advance=self.advance,
        )
        out: list[list[list[Answer]]] = [[] for _ in groups]
        for row, (number, part) in enumerate(parts):
            out[number] += [[(float(one.lnp[row, c]), bool(one.best[row, c])) for one in done] for c in range(len(part.branches))]
        return out

    @torch.inference_mode()
    def write(self, which: int, texts: Sequence[Writing]) -> list[list[int]]:
        """Return the tokens that pass ``which`` writes behind each prompt, the most likely one each time.

        Every step runs the whole text again: its cost grows with the square of the length.
        """
        written: list[list[int]] = [[] for _ in texts]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i].prompt))
        start = 0
        while start < len(order):
            longest = len(texts[order[start]].prompt) + texts[order[start]].n_new
            batch = order[start : start + (self.batch_size or default_batch_size(longest, self.port.model.device))]
            alive = [i for i in batch if texts[i].n_new]
            while alive:
                best = self._next(which, [texts[i].prompt + written[i] for i in alive])
                for i, token in zip(alive, best, strict=True):
                    written[i].append(token)
                alive = [i for i in alive if len(written[i]) < texts[i].n_new and not texts[i].finished(written[i])]
            start += len(batch)
            if which == 0:
                self.advance(len(batch))
        return written

    def _next(self, which: int, texts: Sequence[list[int]]) -> list[int]:
        """Return the most likely next token of each text."""
        length = max(map(len, texts))
        tokens = torch.tensor([[*text, *[0] * (length - len(text))] for text in texts], device=self.port.model.device)
        ends = torch.tensor([len(text) - 1 for text in texts], device=tokens.device)
        final = self._final(which, tokens, ends)
        hidden = final[torch.arange(len(texts), device=tokens.device), ends]
        return self.port.model.head(hidden).float().argmax(1).tolist()

    def _final(self, which: int, tokens: Int[Tensor, "B L"], ends: Int[Tensor, " B"]) -> Float[Tensor, "B L M"]:
        clean = self.port.clean(tokens, final=which == 0)
        if which == 0:
            assert clean.final is not None
            return clean.final
        where = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        where[:, 0] &= self.splice_bos
        recon = torch.zeros_like(clean.target)
        recon[where] = recon_of(self.port, self.saes[which - 1], clean.acts[where], clean.target[where])
        return self.port.splice(clean, recon, where)


def _parts(group: Group) -> Iterator[Group]:
    """Yield ``group`` in parts, each with its own copy of the context, that make rows of bounded length."""
    room = max(_ROW - len(group.trunk), max(map(len, group.branches)))
    part, used = Group(group.trunk), 0
    for branch in group.branches:
        if part.branches and used + len(branch) > room:
            yield part
            part, used = Group(group.trunk), 0
        part.branches.append(branch)
        used += len(branch)
    yield part

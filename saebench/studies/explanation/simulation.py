"""The chosen latents of one SAE as their patterns say, and what they write.

Letters: ``C`` latents that were chosen, ``W`` ways of matching, ``m`` tokens, ``D`` width read, ``O`` width written,
``Z`` entries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saebench.sae import SAE, Latents
from saebench.studies.n2g.automaton import Automaton
from saebench.studies.n2g.judging import WAYS
from saebench.studies.n2g.patterns import Trie


class Entries:
    """Values of chosen latents at some tokens: those that are not 0, sorted by token and latent.

    Args:
        row: Token of each.
        latent: Number of its latent, below ``n_latents``.
        value: Each one's.
        n_latents: ``C``.
    """

    def __init__(
        self, row: Int[np.ndarray, " Z"], latent: Int[np.ndarray, " Z"], value: Float[np.ndarray, " Z"], n_latents: int
    ) -> None:
        key = row * n_latents + latent
        order = np.argsort(key, kind="stable")
        self.row, self.latent, self.value, self.key = row[order], latent[order], value[order], key[order]


class Sums:
    """Sums over tokens of the chosen latents, a, and of what is said of them, s."""

    def __init__(self, n_latents: int) -> None:
        self.n_tokens = 0
        self.a, self.aa = np.zeros(n_latents), np.zeros(n_latents)
        self.s, self.ss, self.sa = (np.zeros((len(WAYS), n_latents)) for _ in range(3))

    def add(self, n_tokens: int, true: Entries, said: Sequence[Entries]) -> None:
        """Take some tokens."""
        n = len(self.a)
        self.n_tokens += n_tokens
        self.a += np.bincount(true.latent, true.value, n)
        self.aa += np.bincount(true.latent, true.value**2, n)
        for i, one in enumerate(said):
            self.s[i] += np.bincount(one.latent, one.value, n)
            self.ss[i] += np.bincount(one.latent, one.value**2, n)
            if not len(one.key):
                continue
            at = np.minimum(np.searchsorted(one.key, true.key), len(one.key) - 1)
            both = one.key[at] == true.key
            self.sa[i] += np.bincount(true.latent[both], true.value[both] * one.value[at[both]], n)

    def scale(self) -> Float[np.ndarray, "W C"]:
        """Return E[s·a] / E[s²], which makes E[(a − scale·s)²] least; 0 for latents of which nothing is said."""
        return np.divide(self.sa, self.ss, out=np.zeros_like(self.sa), where=self.ss > 0)

    def correlation(self) -> Float[np.ndarray, "W C"]:
        """Return the correlation of s and a over tokens: NaN where a does not vary, 0 where s does not."""
        n = max(1, self.n_tokens)
        var_a = self.aa / n - (self.a / n) ** 2
        var_s = self.ss / n - (self.s / n) ** 2
        product = np.sqrt(np.maximum(var_a, 0) * np.maximum(var_s, 0))
        r = np.divide(self.sa / n - self.s * self.a / n**2, product, out=np.zeros_like(self.sa), where=product > 0)
        return np.where(var_a > 0, r, np.nan)


class Simulation:
    """Says what the chosen latents are, by their patterns and in truth.

    Args:
        sae: As it was loaded.
        latents: The chosen ones, ascending ``[C]``.
        tries: Their patterns.
        d_vocab: Of the model.
        first: Position where texts begin.
    """

    def __init__(self, sae: SAE, latents: Int[np.ndarray, " C"], tries: Sequence[Trie], d_vocab: int, first: int) -> None:
        self.sae, self.latents, self._first = sae, latents, first
        self._automaton = Automaton(tries, d_vocab)
        self._number = np.full(sae.config.d_sae, -1, dtype=np.int64)
        self._number[latents] = np.arange(len(latents))
        self.trained, self.judged = Sums(len(latents)), Sums(len(latents))
        """Sums over either half."""

    def said(self, tokens: Int[np.ndarray, "B L"], where: Bool[np.ndarray, "B L"]) -> list[Entries]:
        """Return what the patterns promise, for each way of matching; rows are the true places of ``where``, in order."""
        rows = np.full(where.shape, -1, dtype=np.int64)
        rows[where] = np.arange(int(where.sum()))
        found = []
        for way in WAYS:
            match = self._automaton.matches(tokens, where, first=self._first, backtrack=way == "backtracking")
            found.append(Entries(rows[match.context, match.position], match.latent, match.act, len(self.latents)))
        return found

    def true(self, latents: Latents, among: Bool[np.ndarray, " m"] | None = None) -> Entries:
        """Return the values of the chosen latents.

        Args:
            latents: Of some tokens.
            among: Which of these are wanted, and counted; all if ``None``.
        """
        number, rows = self._number[latents.indices.cpu().numpy()], latents.rows().cpu().numpy()
        ours = number >= 0
        if among is not None:
            ours &= among[rows]
            rows = (np.cumsum(among) - 1)[rows]
        return Entries(rows[ours], number[ours], latents.values.double().cpu().numpy()[ours], len(self.latents))

    def written(self, entries: Entries, n_tokens: int, scale: Float[np.ndarray, " C"] | None = None) -> Float[Tensor, "m O"]:
        """Return Σ_j scale_j f_j W_dec[j] over the entries of each token, in the space that the decoder writes in.

        Args:
            entries: Of some tokens.
            n_tokens: How many.
            scale: 1 if ``None``.
        """
        w = self.sae.W_dec
        value = entries.value if scale is None else entries.value * scale[entries.latent]
        offsets = np.concatenate([[0], np.bincount(entries.row, minlength=n_tokens).cumsum()])
        return torch.nn.functional.embedding_bag(
            torch.from_numpy(self.latents[entries.latent]).to(w.device), w, torch.from_numpy(offsets).to(w.device), mode="sum",
            per_sample_weights=torch.from_numpy(value).to(w.device, w.dtype), include_last_offset=True,
        )  # fmt: skip

"""The tables beside a record: every ablation, and every ablated latent with the tokens that it promotes and suppresses.

Letters: ``K`` latents, ``M`` d_model, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saebench.data import Corpus
from saebench.lm.effects import logits_of
from saebench.lm.model import LanguageModel
from saebench.metrics.base import finite_or_none
from saebench.studies.ablation.sample import Sampled
from saebench.studies.ablation.scores import Found

_CHUNK_BYTES = 48 << 20


class Moved:
    """What taking a latent out does to the final norm's output, summed over its ablations.

    The head is linear, so the mean change of the logits is the head of the mean change: nothing of size latents × vocabulary is
    kept.
    """

    def __init__(self, d_sae: int) -> None:
        self._slot = np.full(d_sae, -1)
        self._latents: list[int] = []
        self._sums: Tensor | None = None
        self._n: np.ndarray = np.zeros(0, dtype=np.int64)

    def add(self, latents: Int[np.ndarray, " A"], change: Float[Tensor, "A T M"]) -> None:
        """Add some ablations.

        Args:
            latents: Which latent each is of.
            change: Taken out less unchanged.
        """
        new = np.unique(latents[self._slot[latents] < 0])
        self._slot[new] = np.arange(len(new)) + len(self._latents)
        self._latents += new.tolist()
        sums = change.new_zeros(len(new), 2, change.shape[2], dtype=torch.float32)
        self._sums = sums if self._sums is None else torch.cat([self._sums, sums])
        slots = self._slot[latents]
        later = change[:, 1:].mean(1) if change.shape[1] > 1 else torch.zeros_like(change[:, 0])
        self._sums.index_add_(0, torch.from_numpy(slots).to(change.device), torch.stack([change[:, 0], later], 1).float())
        self._n = np.concatenate([self._n, np.zeros(len(new), dtype=np.int64)]) + np.bincount(slots, minlength=len(self._latents))

    def columns(self, model: LanguageModel, n: int) -> tuple[Int[np.ndarray, " K"], dict[str, list[Any]]]:
        """Return (latents, their most promoted and most suppressed tokens).

        A token is promoted as far as its logit falls when the latent is taken out, the fall of the median token taken off; in the
        mean over its ablations. ``…_next``: of the next token; ``…_later``: in the mean over the other positions.

        Args:
            model: Whose head and tokenizer.
            n: Tokens a list.
        """
        order = np.argsort(self._latents, kind="stable")
        out: dict[str, list[Any]] = {}
        for when, name in enumerate(("next", "later")):
            for start in range(0, len(order), step := max(1, _CHUNK_BYTES // (4 * model.d_vocab))):
                part = order[start : start + step]
                assert self._sums is not None
                sums = self._sums[torch.from_numpy(part).to(self._sums.device), when]
                mean = -sums / torch.from_numpy(self._n[part]).to(sums)[:, None]
                logits = logits_of(model, mean.to(model.dtype))
                logits -= logits.median(1, keepdim=True).values
                for sign, what in ((1, "promoted"), (-1, "suppressed")):
                    top = (sign * logits).topk(min(n, model.d_vocab), dim=1)
                    ids = top.indices.tolist()
                    out.setdefault(f"{what}_{name}", []).extend([model.tokenizer.decode([i]) for i in row] for row in ids)
                    out.setdefault(f"{what}_{name}_ids", []).extend(ids)
                    values = (sign * top.values).double().tolist()
                    out.setdefault(f"{what}_{name}_logits", []).extend([finite_or_none(v) for v in row] for row in values)
        return np.array(self._latents, dtype=np.int64)[order], out


def ablation_rows(found: Mapping[str, Found], corpus: Corpus, sampled: Sampled) -> dict[str, list[Any]]:
    """Return one row for each thing taken out, its spliced variant in the same row.

    Args:
        found: By suffix.
        corpus: The text.
        sampled: The tokens.
    """
    names = {"": "latents", "_channels": "channels", "_pca": "pca", "_random": "random"}
    columns: dict[str, list[Any]] = {}
    tokens = corpus.tokens.numpy()
    for suffix, source in names.items():
        one, spliced = found[suffix], found["_spliced"] if not suffix else None
        at = one.column("token")
        context, position = sampled.context[at], sampled.position[at]
        rows = {
            "source": [source] * len(at),
            "context": context.tolist(),
            "position": position.tolist(),
            "token": tokens[context, position].tolist(),
            "which": [None if source == "random" else i for i in one.column("which").tolist()],
            "value": _or_null(one.column("value")),
        }
        for tail, of in (("", one), ("_spliced", spliced)):
            for name in ("norm", "sparsity", "sparsity_next", "next_share"):
                rows[f"{name}{tail}"] = [None] * len(at) if of is None else _or_null(of.column(name))
        for name, values in rows.items():
            columns.setdefault(name, []).extend(values)
    return columns


def latent_rows(
    found: Mapping[str, Found], moved: Moved, density: Float[np.ndarray, " S"], model: LanguageModel, *, n: int
) -> dict[str, list[Any]]:
    """Return one row for each latent that was taken out.

    Args:
        found: By suffix.
        moved: What that did to the final norm's output.
        density: Share of tokens at which each latent is active.
        model: For the tokens' names.
        n: Tokens a list.
    """
    clean, spliced = found[""], found["_spliced"]
    which = clean.column("which")
    latents, tokens = moved.columns(model, n)
    number = np.searchsorted(latents, which)
    count = np.bincount(number, minlength=len(latents))
    rows: dict[str, list[Any]] = {
        "latent": latents.tolist(),
        "density": density[latents].tolist(),
        "ablations": count.tolist(),
        "mean_value": _or_null(np.bincount(number, clean.column("value"), len(latents)) / np.maximum(count, 1)),
    }
    for tail, one in (("", clean), ("_spliced", spliced)):
        known = one.known()
        n_known = np.bincount(number[known], minlength=len(latents))
        for name in ("sparsity", "sparsity_next", "next_share"):
            sums = np.bincount(number[known], one.column(name)[known], len(latents))
            rows[f"{name}{tail}"] = _or_null(sums / np.where(n_known > 0, n_known, np.nan))
    return rows | tokens


def _or_null(values: np.ndarray) -> list[float | None]:
    return [finite_or_none(v) for v in values.tolist()]

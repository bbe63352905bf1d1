"""Scores by latent as histograms, each against what chance gives latents that are active as often.

Letters: ``T`` latents that were tested, ``N`` prompts, ``G`` bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saebench.report.figures.examples import examples_of, has_examples
from saebench.report.figures.picture import COLOURS, Drawable, Picture, legend_below, title
from saebench.report.figures.sources import Source, folder_of, task_name, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
TABLE = "latent_scores"
_COLUMNS = ("latent", "n_active", "delta_lnp_mean", "sign_mean", "p", "sign_p")
_SCORE_BINS, _P_BINS = 50, 20


class Histogram(NamedTuple):
    """How many latents lie where, and how many would by chance."""

    score: str
    edges: Floats
    """[G + 1]"""
    latents: Floats
    """[G]"""
    expected: Floats
    """[G]"""


def draw(sources: Sequence[Source]) -> Drawable:
    """Return a picture an SAE and set of examples."""
    pictures, missing = [], []
    for source in (s for s in sources if s.study == "cloze"):
        about = f"scores by latent, {task_name(source.record)}"
        if not (source.has(TABLE, *_COLUMNS) and has_examples(source)):
            missing.append(f"{about}: no table {TABLE} beside the record; run the task again")
            continue
        found = histograms(source)
        if found:
            pictures.append(_picture(source, found))
        else:
            missing.append(f"{about}: no latent could be tested")
    return Drawable(pictures, missing)


def histograms(source: Source) -> list[Histogram]:
    """Return the histograms of both scores and of their p values over the latents that were tested; none if none was.

    Expected is the sum over these latents of what each would give if its prompts had been drawn from all, without replacement:
    for the mean a normal distribution with the draw's exact mean and variance, for the ±1 score and its p the hypergeometric
    distribution, for the p of the mean the uniform one.
    """
    table = source.read(TABLE, *_COLUMNS)
    tested = np.isfinite(table["p"])
    delta = examples_of(source).delta_lnp
    delta = delta[np.isfinite(delta)]
    if not tested.any():
        return []
    n = table["n_active"][tested]
    mean, sign, p, sign_p = (table[name][tested] for name in ("delta_lnp_mean", "sign_mean", "p", "sign_p"))
    spread = delta.std() * np.sqrt((len(delta) - n) / (n * (len(delta) - 1)))
    low, high = min(mean.min(), (delta.mean() - 3 * spread).min()), max(mean.max(), (delta.mean() + 3 * spread).max())
    edges, signs, shares = (
        np.linspace(*to) for to in ((low, high, _SCORE_BINS + 1), (-1, 1, _SCORE_BINS + 2), (0, 1, _P_BINS + 1))
    )
    by_sign, by_p = _hypergeometric(int((delta >= 0).sum()), len(delta), n, signs, shares)
    return [
        Histogram("delta_lnp_mean", edges, _counts(mean, edges), _normal(edges, float(delta.mean()), spread)),
        Histogram("p", shares, _counts(p, shares), np.full(_P_BINS, len(p) / _P_BINS)),
        Histogram("sign_mean", signs, _counts(sign, signs), by_sign),
        Histogram("sign_p", shares, _counts(sign_p, shares), by_p),
    ]


def _counts(values: Floats, edges: Floats) -> Floats:
    return np.histogram(values, edges)[0].astype(np.float64)


def _normal(edges: Floats, mean: float, spread: Floats) -> Floats:
    """Return the expected number of means in each bin ``[G]``; ``spread``: standard deviation of each latent's ``[T]``."""
    from scipy.special import ndtr

    widths, counts = np.unique(spread, return_counts=True)
    return counts @ np.diff(ndtr((edges - mean) / widths[:, None]), axis=1)


def _hypergeometric(n_good: int, size: int, n: NDArray[np.int64], signs: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """Return the expected numbers of ±1 scores and of their two-sided p in bins; ``n``: prompts of each latent ``[T]``."""
    from scipy.special import gammaln

    log = gammaln(np.arange(size + 2) + 1.0)

    def choose(a: int, b: Any) -> Any:
        return log[a] - log[b] - log[a - b]

    by_sign, by_p = np.zeros(len(signs) - 1), np.zeros(len(shares) - 1)
    for drawn, times in zip(*np.unique(n, return_counts=True), strict=True):
        good = np.arange(max(0, drawn - (size - n_good)), min(drawn, n_good) + 1)
        mass = np.exp(choose(n_good, good) + choose(size - n_good, drawn - good) - choose(size, drawn))
        p = np.minimum(1.0, 2 * np.minimum(np.cumsum(mass), np.cumsum(mass[::-1])[::-1]))
        by_sign += times * np.histogram((2 * good - drawn) / drawn, signs, weights=mass)[0]
        by_p += times * np.histogram(p, shares, weights=mass)[0]
    return by_sign, by_p


def _picture(source: Source, found: Sequence[Histogram]) -> Picture:
    r, sizes = source.record, [len(one.latents) for one in found]
    return Picture(
        name=f"{folder_of(r)}/seed{r.seed}.latent_scores.{source.slug}",
        columns={
            "score": np.repeat([one.score for one in found], sizes),
            "from": np.concatenate([one.edges[:-1] for one in found]),
            "to": np.concatenate([one.edges[1:] for one in found]),
            "latents": np.concatenate([one.latents for one in found]),
            "expected": np.concatenate([one.expected for one in found]),
        },
        paint=lambda figure: _paint(figure, found, f"{r.sae.name} at {r.sae.site}", title_of(r)),
    )


_LABELS = {
    "delta_lnp_mean": "mean Δ ln p of the answer where the latent is active (nats)",
    "p": "p of the mean, two-sided",
    "sign_mean": "±1 score: share of Δ ln p ≥ 0 less share of Δ ln p < 0, where it is active",
    "sign_p": "p of the ±1 score, two-sided",
}


def _paint(figure: Figure, found: Sequence[Histogram], *about: str) -> None:
    figure.set_size_inches(12, 7.5)
    axes = figure.subplots(2, 2, width_ratios=[3, 2])
    for axis, one in zip(axes.flat, found, strict=True):
        _histogram(axis, one)
    n = int(found[0].latents.sum())
    title(figure, *about, f"{n:,} latents that were tested")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    legend_below(figure, handles, labels)


def _histogram(axis: Axes, one: Histogram) -> None:
    axis.stairs(one.latents, one.edges, fill=True, color=COLOURS[5], alpha=0.7, label="latents")
    axis.stairs(one.expected, one.edges, color="black", linewidth=1.4, label="expected by chance of latents as frequent")
    axis.set_xlabel(_LABELS[one.score])
    axis.set_ylabel("latents")
    if one.score in ("delta_lnp_mean", "sign_mean"):
        axis.axvline(0, color=COLOURS[3], linewidth=0.8, linestyle="--")
        axis.set_yscale("log")
        axis.set_ylim(0.5, 2 * max(one.latents.max(), one.expected.max(), 1))
    else:
        axis.set_ylim(0, None)

"""Scores by latent as pictures, and what they say chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import StepPatch
from scipy.stats import hypergeom

from saebench.report.figures.latents import histograms
from saebench.report.figures.picture import Picture
from tests.report.figure_cases import (
    SAE,
    cloze_record,
    examples,
    figure,
    points,
    put,
    rows,
    sources,
)


def test_histograms_of_latent_scores(results: Path, drawn: Mapping[str, Picture]):
    picture = drawn[f"m/gaps@1/seed0.latent_scores.{SAE}"]
    said = rows(picture)
    for axis, score in zip(figure(picture).axes, ("delta_lnp_mean", "p", "sign_mean", "sign_p"), strict=True):
        own = [row for row in said if row["score"] == score]
        observed, expected = (p for p in axis.patches if isinstance(p, StepPatch))
        for patch, name in ((observed, "latents"), (expected, "expected")):
            values, edges, _ = patch.get_data()
            assert list(values) == [row[name] for row in own] and list(edges[:-1]) == [row["from"] for row in own]
        assert sum(row["latents"] for row in own) == 59, "the latent that was not tested is left out"
        assert sum(row["expected"] for row in own) == pytest.approx(59, rel=0.02)


def test_what_is_expected_of_the_sign_is_hypergeometric(results: Path):
    (source,) = [s for s in sources(results) if s.slug == SAE and s.study == "cloze"]
    found = {one.score: one for one in histograms(source)}
    delta = np.array(examples(4)["lnp_spliced"], dtype=np.float64) - examples(4)["lnp_clean"]
    delta = delta[np.isfinite(delta)]
    n_active = source.read("latent_scores", "n_active")["n_active"][1:]
    by_sign, by_p = np.zeros(len(found["sign_mean"].expected)), np.zeros(len(found["sign_p"].expected))
    for n in n_active:
        null = len(delta), int((delta >= 0).sum()), n
        for k in range(n + 1):
            p = min(1.0, 2 * float(min(hypergeom.cdf(k, *null), hypergeom.sf(k - 1, *null))))
            by_sign += np.histogram([(2 * k - n) / n], found["sign_mean"].edges, weights=[hypergeom.pmf(k, *null)])[0]
            by_p += np.histogram([p - 1e-12 if p > 0.5 else p], found["sign_p"].edges, weights=[hypergeom.pmf(k, *null)])[0]
    np.testing.assert_allclose(found["sign_mean"].expected, by_sign, atol=1e-9)
    np.testing.assert_allclose(found["sign_p"].expected, by_p, atol=1e-9)


def test_what_is_expected_of_the_mean_is_what_draws_give(tmp_path: Path):
    """Draws without replacement, of which the mean has the variance of a finite population, not σ²/n."""
    table = examples(2)
    delta = np.array(table["lnp_spliced"], dtype=np.float64) - table["lnp_clean"]
    delta, g = delta[np.isfinite(delta)], np.random.default_rng(0)
    n_active = np.full(2000, 30)
    mean = np.array([g.permutation(delta)[:30].mean() for _ in n_active])
    ones = np.ones(2000) / 2
    scores = {
        "latent": np.arange(2000),
        "n_active": n_active,
        "delta_lnp_mean": mean,
        "sign_mean": 0 * ones,
        "p": ones,
        "sign_p": ones,
    }
    put(tmp_path, cloze_record("topk", 3, 0), {"examples": table, "latent_scores": scores})
    one = histograms(sources(tmp_path)[0])[0]
    off = (one.latents - one.expected)[one.expected > 20] / np.sqrt(one.expected[one.expected > 20])
    assert len(off) > 8 and np.square(off).mean() < 2.5
    assert np.abs(np.cumsum(one.latents - one.expected)).max() / 2000 < 0.04


def test_latents_that_were_ablated(drawn: Mapping[str, Picture]):
    picture = drawn[f"m/gaps@1/seed0.ablated_latents.{SAE}"]
    said = rows(picture)
    assert [row["latent"] for row in said] == [9, 39, 69, 99, 129, 159] and {row["role"] for row in said} == {
        "helpful", "harmful", "control",
    }  # fmt: skip
    (axis,) = figure(picture).axes
    for shown in (c for c in axis.containers if isinstance(c, ErrorbarContainer)):
        own = [row for row in said if row["role"] == str(shown.get_label()).split(" ")[0]]
        line = shown.lines[0]
        assert line is not None and points(line, "x") == [row["delta_lnp_z"] for row in own]
        assert points(line, "y") == [row["ablated_delta_lnp_mean"] for row in own]

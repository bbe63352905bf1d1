"""One pass against plain loops over all activations; what it may not depend on; odd inputs."""

from __future__ import annotations

import numpy as np
import pytest

from saebench.dashboard.collect import Collector, Seen, densities
from saebench.dashboard.histogram import BINS, Histogram
from saebench.studies.n2g.reading import Fired

N, LENGTH, D_SAE = 23, 12, 7
LATENTS = (5, 0, 6, 2)


@pytest.fixture
def acts() -> np.ndarray:
    """Activations [contexts, positions, latents] of several signs and ties; 6 is dead, 0 rare."""
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=(N, LENGTH, D_SAE)) * (rng.random((N, LENGTH, D_SAE)) < 0.3), 1)
    values[..., 6] = 0
    values[..., 0] *= rng.random((N, LENGTH)) < 0.05
    values[..., 5] = np.abs(values[..., 5])
    return values


def batches(acts: np.ndarray, size: int, tokens: int = 5) -> list[list[Fired]]:
    """Return activations as they are read: whole contexts, in chunks of tokens."""
    out = []
    for start in range(0, len(acts), size):
        flat = acts[start : start + size].reshape(-1, acts.shape[2])
        chunks = []
        for first in range(0, len(flat), tokens):
            token, latent = np.nonzero(flat[first : first + tokens])
            chunks.append(Fired(token + first + start * acts.shape[1], latent, flat[first : first + tokens][token, latent]))
        out.append(chunks)
    return out


def collect(acts: np.ndarray, size: int, latents: tuple[int, ...] = LATENTS, seed: int = 0, n: int = 3) -> list[Seen]:
    collector = Collector(np.array(latents), d_sae=D_SAE, length=LENGTH, n_top=n, n_random=n, seed=seed)
    for fired in batches(acts, size):
        collector.add(fired)
    return collector.seen()


def test_it_is_what_plain_loops_give(acts: np.ndarray):
    for seen, latent in zip(collect(acts, 4), LATENTS, strict=True):
        own = acts[..., latent]
        values = own[own != 0]
        assert (seen.latent, seen.n_fires) == (latent, len(values))
        if not len(values):
            assert seen.mean is seen.largest is None and seen.bars == seen.top == seen.random == []
            continue
        assert seen.mean == pytest.approx(values.mean())
        order = sorted(range(N), key=lambda c, own=own: (-np.abs(own[c]).max(), c))
        assert [e.context for e in seen.top] == [c for c in order if own[c].any()][:3]
        assert seen.largest is not None and abs(seen.largest) == np.abs(values).max()
        for example in (*seen.top, *seen.random):
            row = own[example.context]
            assert example.values == {p: row[p] for p in np.flatnonzero(row).tolist()}
            assert row[example.position] != 0
        assert all(abs(e.values[e.position]) == np.abs(own[e.context]).max() for e in seen.top)
        assert len(seen.random) == min(3, len(values))
        for bar in seen.bars:
            low, high = sorted((abs(bar.low), abs(bar.high)))
            inside = (np.abs(values) >= low) & (np.abs(values) < high) & ((values < 0) == (bar.low < 0))
            assert bar.n == inside.sum()
        assert sum(bar.n for bar in seen.bars) == len(values)


def test_neither_batches_nor_other_latents_matter(acts: np.ndarray):
    whole = collect(acts, N)
    for size in (1, 4):
        for one, other in zip(collect(acts, size), whole, strict=True):
            assert one.mean == pytest.approx(other.mean)
            assert (one.top, one.random, one.bars, one.largest) == (other.top, other.random, other.bars, other.largest)
    assert collect(acts, 4, (2,))[0].random == whole[3].random
    assert collect(acts, 4, seed=1)[3].random != whole[3].random


def test_random_activations_are_drawn_alike(acts: np.ndarray):
    own = acts[..., 2]
    drawn = np.zeros(own.shape)
    for seed in range(400):
        for example in collect(acts, N, (2,), seed)[0].random:
            drawn[example.context, example.position] += 1
    expected = 1200 / np.count_nonzero(own)
    assert not drawn[own == 0].any()
    assert ((drawn[own != 0] - expected) ** 2 / expected).sum() < 1.5 * np.count_nonzero(own), "χ²"


def test_memory_is_that_of_what_is_shown(acts: np.ndarray):
    collector = Collector(np.array([2, 5]), d_sae=D_SAE, length=LENGTH, n_top=2, n_random=1, seed=0)
    for fired in batches(acts, 1):
        collector.add(fired)
        assert len(collector._rows) <= 2 * 3


def test_what_is_not_finite_is_left_out_and_counted(acts: np.ndarray):
    acts[3, 4, 2], acts[5, 1, 2], acts[0, 2, 1] = np.inf, np.nan, np.inf
    collector = Collector(np.array([2]), d_sae=D_SAE, length=LENGTH, n_top=2, n_random=2, seed=0)
    for fired in batches(acts, 6):
        collector.add(fired)
    [seen] = collector.seen()
    assert collector.n_not_finite == 2 and seen.n_fires == np.isfinite(acts[..., 2])[acts[..., 2] != 0].sum()
    assert seen.mean is not None and np.isfinite(seen.mean)


def test_densities(acts: np.ndarray):
    assert densities(batches(acts, 4), D_SAE).tolist() == np.count_nonzero(acts, axis=(0, 1)).tolist()


def test_a_histogram_grows_to_any_range():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=300) * 10.0 ** rng.integers(-30, 3, 300), [0.0, 1e-300, 2.0**10, -3.0]])
    grown, at_once = Histogram(), Histogram()
    for part in np.array_split(values, 50):
        grown.add(part)
    grown.add(np.zeros(0))
    at_once.add(values)
    assert grown.bars() == at_once.bars() and sum(bar.n for bar in grown.bars()) == len(values)
    assert len(grown.bars()) <= 2 * BINS and grown.bars()[-1].low <= 2.0**10 < grown.bars()[-1].high
    assert Histogram().bars() == []

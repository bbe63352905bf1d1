"""Per-latent columns, quantiles, histogram and geometry against dense arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.data import Corpus
from saebench.lm.port import Port
from saebench.metrics import geometry
from saebench.metrics.sparsity import _quantile
from saebench.sae import sae as sae_module
from saebench.stream import Pass
from tests.metrics.conftest import measure, metric_classes, random_sae


@pytest.mark.parametrize("chunk_tokens", [1, 5, 1000])
@pytest.mark.parametrize("batch_size", [2, 11])
def test_columns_equal_dense_counts_whatever_the_chunks(
    port: Port, corpus: Corpus, chunk_tokens: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks end inside contexts here, so contexts in which a latent fires must not be counted twice."""
    monkeypatch.setattr(sae_module, "_CHUNK_BYTES", 4 * 40 * chunk_tokens)
    sae = random_sae()
    [result] = Pass(port, [sae], metric_classes(), corpus, batch_size=batch_size).run()
    columns = {name: values for part in result.results for name, values in part.per_latent.items()}
    acts = port.clean(corpus.tokens).acts
    f = sae.encode(acts.flatten(0, 1)).to_dense().view(11, 15, 40)[:, 1:]
    fired = (f != 0).numpy()
    np.testing.assert_array_equal(columns["firings"], fired.sum((0, 1)))
    np.testing.assert_allclose(columns["density"], fired.mean((0, 1)))
    np.testing.assert_array_equal(columns["contexts_fired"], fired.any(1).sum(0))
    np.testing.assert_allclose(columns["max_activation"], f.amax((0, 1)).numpy(), rtol=1e-5)
    alive = fired.any((0, 1))
    mean = f.sum((0, 1)).numpy() / np.maximum(fired.sum((0, 1)), 1)
    np.testing.assert_allclose(columns["mean_activation"], mean, rtol=1e-5, atol=1e-7)
    heuristic = fired.sum((0, 1))[alive] / fired.any(1).sum(0)[alive]
    np.testing.assert_allclose(columns["consistent_activation_heuristic"][alive], heuristic)
    assert np.isnan(columns["consistent_activation_heuristic"][~alive]).all()


def test_shares_and_histogram_by_dense_counts(port: Port, corpus: Corpus) -> None:
    sae = random_sae()
    [found] = measure(port, [sae], corpus)
    acts = port.clean(corpus.tokens).acts[:, 1:].flatten(0, 1)
    fired = (sae.encode(acts).to_dense() != 0).numpy()
    density, l0 = fired.mean(0), fired.sum(1)
    assert found["share_dense_10pct"].value == pytest.approx((density > 0.1).mean())
    assert found["mass_dense_10pct"].value == pytest.approx(density[density > 0.1].sum() / density.sum())
    assert found["n_dead"].value == (density == 0).sum()
    assert found["l0_p5"].value == pytest.approx(np.percentile(l0, 5))
    assert found["l0_p95"].value == pytest.approx(np.percentile(l0, 95))
    histogram = found["log10_density_histogram"]
    assert sum(histogram.value) == (density > 0).sum()
    for left, count in zip(histogram.x, histogram.value, strict=True):
        logs = np.log10(density[density > 0])
        last = left == histogram.x[-1]
        assert count == ((logs >= left) & ((logs < left + 0.25) | last)).sum()


@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.77, 0.95, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_quantiles_of_a_histogram_are_numpys(q: float, n: int) -> None:
    values = np.random.default_rng(n).integers(0, 30, n)
    assert _quantile(np.bincount(values, minlength=40), q) == pytest.approx(np.quantile(values, q))


@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
def test_largest_cosine_equals_the_dense_matrix(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_CHUNK", chunk)
    w = torch.randn(33, 9, generator=torch.Generator().manual_seed(0))
    w[4] = -w[5]
    w[7] = 0
    dense = torch.nn.functional.cosine_similarity(w[:, None], w[None], dim=2)
    dense.fill_diagonal_(-2)
    torch.testing.assert_close(geometry.max_cosine(w), dense.amax(1), rtol=1e-5, atol=1e-6)


def test_geometry_of_a_known_sae(port: Port, corpus: Corpus) -> None:
    sae = random_sae()
    [found] = measure(port, [sae], corpus)
    assert found["mean_decoder_norm"].value == pytest.approx(1, abs=1e-6)
    assert found["mean_encoder_decoder_cosine"].value == pytest.approx(1, abs=1e-6), "encoder and decoder are transposes here"
    dense = sae.W_dec @ sae.W_dec.T
    dense.fill_diagonal_(-2)
    assert found["mean_max_decoder_cosine"].value == pytest.approx(float(dense.amax(1).mean()), abs=1e-6)

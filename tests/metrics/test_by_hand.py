"""Scores worked out with pencil and paper: rows are put straight into a metric, with no model around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.metrics.base import ActRows, After, LossRowsOf, Metric, ScoreSpec, Setting
from saebench.metrics.geometry import Geometry
from saebench.metrics.reconstruction import Reconstruction
from saebench.metrics.splice import Splice
from saebench.record import Score
from saebench.sae import SAE, Latents, SAEConfig, SAEWeights
from saebench.stats import Estimate
from tests.metrics.conftest import identity_sae


def setting(sae: SAE, reference: list[float], contexts: int = 2) -> Setting:
    return Setting(sae=sae, n_contexts=contexts, context_length=4, windows=(), reference_mean=torch.tensor(reference))


def found(metric: Metric) -> dict[str, Score]:
    return {score.name: score for score in metric.finish(After(None)).scores}


def test_per_token_scores_and_norms() -> None:
    """Tokens (3, 4), (0, 5), (6, 8), recons (3, 0), (0, 5), (0, 0), x̄₀ = (0, 4): ‖x−x̂‖² is 16, 0, 100."""
    metric = Reconstruction(setting(identity_sae(2), [0.0, 4.0]))
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0], [6.0, 8.0]])
    recon = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, 0.0]])
    latents = Latents.from_dense(torch.zeros(3, 4))
    context, position = np.array([0, 0, 1]), np.array([1, 2, 1])
    for part in (slice(0, 1), slice(1, 3)):  # two chunks
        rows = (latents.to_dense()[part], context[part], position[part])
        metric.update_acts(ActRows(x[part], x[part], recon[part], Latents.from_dense(rows[0]), rows[1], rows[2]))
    v = {name: score.value for name, score in found(metric).items()}
    assert v["normalized_mse_per_token"] == pytest.approx((16 / 25 + 0 / 25 + 100 / 100) / 3)
    # ‖x−x̄₀‖² is 9, 1, 36 + 16
    assert v["explained_variance_per_token"] == pytest.approx(1 - (16 / 9 + 0 / 1 + 100 / 52) / 3)
    assert v["norm_in"] == pytest.approx((5 + 5 + 10) / 3)
    assert v["norm_out"] == pytest.approx((3 + 5 + 0) / 3)
    assert v["norm_ratio"] == pytest.approx((3 / 5 + 1 + 0) / 3)
    assert v["cosine"] == pytest.approx((3 / 5 + 1 + 0) / 3)
    assert v["relative_reconstruction_bias"] == pytest.approx((9 + 25 + 0) / (9 + 25 + 0))
    assert v["mse_per_dim"] == pytest.approx(116 / 3 / 2)
    # x̄ = (3, 17/3): Σ‖x−x̄‖² = 9 + 0 + 9 shifted squares: Σ‖x‖² − 3‖x̄‖²
    assert v["fvu"] == pytest.approx(116 / (150 - 3 * (9 + (17 / 3) ** 2)))
    # clustered by context: residuals of the ratio are summed in each of the two contexts
    residuals = np.array([3 + 5 - 2 * 8 / 3, 0 - 8 / 3])
    assert found(metric)["norm_out"].stderr == pytest.approx(np.sqrt(2 * np.square(residuals).sum()) / 3)


def losses(**columns: list[float]) -> LossRowsOf:
    names = ("ce_clean", "ce_spliced", "kl", "top1", "ce_zero", "kl_zero")
    n = len(next(iter(columns.values())))
    values = {name: np.array(columns.get(name, [0.0] * n)) for name in names}
    return LossRowsOf(**values, context=np.arange(n) % 2, position=np.arange(n) + 1)


def test_kl_recovered_divides_the_pooled_sums_by_that_of_zero_ablation() -> None:
    """Not by the clean or spliced loss, and not a mean of ratios (which would be (1/2 + 7/8 + 0)/3)."""
    metric = Splice(setting(identity_sae(2), [0.0, 0.0]))
    metric.update_losses(
        losses(kl=[1.0, 1.0], kl_zero=[2.0, 8.0], ce_clean=[3.0, 3.0], ce_spliced=[4.0, 4.0], ce_zero=[5.0, 8.0])
    )
    metric.update_losses(losses(kl=[4.0], kl_zero=[4.0], ce_clean=[3.0], ce_spliced=[4.0], ce_zero=[5.0]))
    v = found(metric)
    assert v["kl_recovered_zero"].value == pytest.approx((14 - 6) / 14)
    assert v["ce_recovered_zero"].value == pytest.approx((18 - 12) / (18 - 9))
    assert v["kl"].value == pytest.approx(2)
    assert v["kl_zero"].value == pytest.approx(14 / 3)


def test_kl_recovered_of_nothing_is_undefined() -> None:
    metric = Splice(setting(identity_sae(2), [0.0, 0.0]))
    metric.update_losses(losses(kl=[1.0, 2.0], kl_zero=[0.0, 0.0], ce_clean=[3.0, 3.0], ce_zero=[3.0, 3.0]))
    v = found(metric)
    for name in ("kl_recovered_zero", "ce_recovered_zero"):
        assert (v[name].value, v[name].stderr, v[name].status) == (None, None, "undefined")
        assert "ablation does not change" in str(v[name].reason)


def test_mean_norms_of_encoder_columns_and_decoder_rows() -> None:
    w_enc = torch.tensor([[3.0, 0.0, 0.0], [4.0, 2.0, 0.0]])  # columns of length 5, 2, 0
    w_dec = torch.tensor([[0.0, 1.0], [6.0, 8.0], [0.0, 0.0]])  # rows of length 1, 10, 0
    sae = SAE(
        SAEConfig(activation="relu", d_in=2, d_out=2, d_sae=3),
        SAEWeights(W_enc=w_enc, b_enc=torch.zeros(3), W_dec=w_dec, b_dec=torch.zeros(2)),
    )
    v = {name: score.value for name, score in found(Geometry(setting(sae, [0.0, 0.0]))).items()}
    assert v["mean_encoder_norm"] == pytest.approx((5 + 2 + 0) / 3)
    assert v["mean_decoder_norm"] == pytest.approx((1 + 10 + 0) / 3)
    assert v["mean_encoder_decoder_cosine"] == pytest.approx((4 / 5 + 8 / 10 + 0) / 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_null_with_a_reason(value: float) -> None:
    score = ScoreSpec(name="x", definition="x").score(Estimate(value=value, stderr=1.0, n=3))
    assert (score.value, score.stderr, score.status, score.n) == (None, None, "failed", 3)
    assert str(value) in str(score.reason)
    kept = ScoreSpec(name="x", definition="x").score(Estimate(value=1.0, stderr=value, n=3))
    assert (kept.value, kept.stderr, kept.status) == (1.0, None, "ok")

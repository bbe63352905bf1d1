"""The final norm of every family, found from outside; pushes are the slope of the logits; where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saebench.dashboard.logits import final_norm, pushes
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from tests.lm.families import build
from tests.metrics.conftest import random_sae

FINAL = {"gpt2": "ln_f", "gpt_neox": "final_layer_norm", "llama": "norm", "gemma2": "norm"}


@pytest.fixture(scope="module", params=FINAL)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder: Path = tmp_path_factory.mktemp("norms") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def test_gain_and_centring_are_those_of_the_module(model: LanguageModel):
    norm = final_norm(model)
    assert norm is not None and norm.centres == (model.family in ("gpt2", "gpt_neox"))
    weight = getattr(model.hf.base_model, FINAL[model.family]).weight
    expected = weight + 1 if model.family == "gemma2" else weight
    torch.testing.assert_close(norm.gain, expected.float(), atol=1e-4, rtol=1e-3)


def test_pushes_are_the_slope_of_the_logits_where_the_size_of_the_stream_does_not_change(model: LanguageModel):
    port, sae, latents = Port(model, "blocks.1.hook_resid_pre"), random_sae(), [3, 0]
    found = pushes(port, sae, latents, 96)
    assert not isinstance(found, str)
    norm = final_norm(model)
    assert norm is not None
    cap, scale = getattr(model.config, "final_logit_softcapping", None), 1e-3
    model.config.final_logit_softcapping = None  # the slope before the cap
    for latent, one in zip(latents, found, strict=True):
        d = sae.W_dec[latent].double()
        d = d - d.mean() if norm.centres else d
        x = torch.randn(24, generator=torch.Generator().manual_seed(latent), dtype=torch.float64)
        x = x - x.mean()
        x = x - d * (x @ d) / (d @ d)  # so that the norm's size stays as it is
        x = x / x.square().mean().sqrt()
        model.hf.double()
        tokens = torch.zeros(1, 2, dtype=torch.long)
        with torch.inference_mode():
            up, down = (
                model.head(model.stack.suffix(tokens, (x + s * scale * d).expand(1, 2, 24), model.n_layers))[0, -1]
                for s in (1, -1)
            )
        model.hf.float()
        slope = (up - down) / (2 * scale)
        slope -= slope.median()
        values = {p.token: p.value for p in one.promoted}
        assert [p.value for p in one.promoted] == sorted(values.values(), reverse=True)
        assert [p.token for p in one.suppressed] == [p.token for p in reversed(one.promoted)]
        torch.testing.assert_close(torch.tensor([values[i] for i in range(96)]).double(), slope, atol=2e-3, rtol=2e-3)
    model.config.final_logit_softcapping = cap


def test_a_site_that_is_not_of_the_stream_has_none(tmp_path: Path):
    build("gpt2", str(tmp_path))
    port = Port(load_model(str(tmp_path), device="cpu"), "blocks.1.attn.hook_z")
    assert "no direction of the residual stream" in str(pushes(port, random_sae(), [0], 3))

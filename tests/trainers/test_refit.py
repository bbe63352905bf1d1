"""``refit`` and ``stacked``: what is frozen stays, and what is fitted gets better."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from saebench.errors import InputError
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae, save_native
from saebench.trainers.recipe import Start
from saebench.trainers.recipes.refit import Refit, RefitSettings
from saebench.trainers.recipes.stacked import Stacked, StackedSettings
from saebench.trainers.run import train
from tests.trainers.test_recipes import D, atoms, planted
from tests.trainers.world import values


def shrunk(folder: Path) -> SAE:
    """An SAE that knows the atoms and makes every latent 30% too small, as L1 does, latent by latent."""
    w = atoms()
    share = torch.linspace(0.5, 0.9, len(w))
    weights = SAEWeights(
        W_enc=w.T.contiguous(), b_enc=torch.full((len(w),), -0.6), W_dec=w * share[:, None], b_dec=torch.zeros(D)
    )
    sae = SAE(SAEConfig(activation="relu", d_in=D, d_out=D, d_sae=len(w)), weights)
    save_native(sae, folder)
    return sae


@pytest.mark.parametrize("fit", ["decoder", "scale"])
def test_refit_undoes_shrinkage_and_leaves_the_encoder_alone(tmp_path: Path, fit: str) -> None:
    sae = shrunk(tmp_path)
    x = planted(4096, torch.Generator().manual_seed(1), atoms())
    start = Start(sample=x, generator=torch.Generator().manual_seed(0), steps=200)
    recipe = Refit(RefitSettings(sae=str(tmp_path), fit=fit), start)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(recipe.parameters(), lr=2e-2)
    since = torch.zeros(recipe.d_sae, dtype=torch.long)
    for step in range(200):
        optimizer.zero_grad()
        found = recipe.losses(x, since, step)
        found.total.backward()
        optimizer.step()
    refitted = SAE(SAEConfig(d_in=D, d_out=D, d_sae=recipe.d_sae, **recipe.sae_fields()), recipe.weights())
    before, after = ((s.reconstruct(x) - x).square().mean() for s in (sae, refitted))
    # least squares on the frozen latents is the best any decoder can do
    latents = sae.encode(x).to_dense()
    dense = torch.cat([latents, torch.ones(len(x), 1)], 1)
    best = (dense @ torch.linalg.lstsq(dense, x).solution - x).square().mean()
    assert float(after) < 0.6 * float(before)
    if fit == "decoder":
        assert float(after) == pytest.approx(float(best), rel=0.02)
    for name in ("W_enc", "b_enc"):
        assert torch.equal(getattr(refitted.weights, name), getattr(sae.weights, name))
    assert torch.equal(sae.encode(x).indices, refitted.encode(x).indices)


def test_refit_end_to_end_keeps_what_the_sae_was(world: Path, tmp_path: Path) -> None:
    train("topk", values(world, tmp_path / "first", k=3, lr=1e-3))
    given = values(world, tmp_path / "again", sae=str(tmp_path / "first"), lr=1e-3)
    given.pop("d_sae")
    train("refit", given)
    first, again = load_sae(tmp_path / "first"), load_sae(tmp_path / "again")
    for name in ("architecture", "activation", "k", "normalisation", "norm_scale", "residual", "d_sae"):
        assert getattr(first.config, name) == getattr(again.config, name), name
    assert torch.equal(first.weights.W_enc, again.weights.W_enc)
    assert not torch.equal(first.weights.W_dec, again.weights.W_dec)


def test_refit_refuses_what_it_cannot_take(world: Path, tmp_path: Path) -> None:
    shrunk(tmp_path / "wide")
    cases = [({}, "sae=PATH"), ({"sae": str(tmp_path / "none")}, "none"), ({"sae": str(tmp_path / "wide")}, "width 32")]
    for more, said in cases:
        given = values(world, tmp_path / "out", **more)
        given.pop("d_sae")
        with pytest.raises(InputError, match=said):
            train("refit", given)


def test_what_stage_one_reconstructs_leaves_stage_two_silent() -> None:
    """Stage one has room for half of the atoms only; acts made of those must not wake stage two."""
    w = atoms()
    g = torch.Generator().manual_seed(0)
    easy = planted(20_000, g, w[:20])
    hard = planted(2_000, g, w[20:])  # rare, so that stage one spends itself on the others
    x = torch.cat([easy, hard])[torch.randperm(22_000, generator=g)]
    settings = StackedSettings(d_sae=60, stage_latents=(30, 30), stage_l1=(0.01, 0.01), stage_shares=(0.5, 0.5), lr=5e-3)
    recipe = Stacked(settings, Start(sample=x[:4096], generator=g, steps=800))
    optimizer = torch.optim.Adam(recipe.parameters(), lr=5e-3)
    since = torch.zeros(60, dtype=torch.long)
    frozen = None
    for step in range(800):
        if step == 400:
            frozen = recipe.w_dec_stages[0].detach().clone()
        optimizer.zero_grad()
        batch = x[torch.randint(len(x), (512,), generator=g)]
        recipe.losses(batch, since, step).total.backward()
        recipe.after_backward()
        optimizer.step()
        recipe.after_step(optimizer, step, since)
    assert frozen is not None
    assert torch.equal(frozen, recipe.w_dec_stages[0].detach()), "stage one is frozen"
    sae = SAE(SAEConfig(d_in=D, d_out=D, d_sae=60, **recipe.sae_fields()), recipe.weights())
    second = [sae.encode(part).to_dense()[:, 30:].sum(1).mean() for part in (easy[:2000], hard)]
    assert float(second[0]) < 0.1 * float(second[1])


def test_stages_that_do_not_add_up_are_refused() -> None:
    x = planted(64, torch.Generator().manual_seed(0), atoms())
    start = Start(sample=x, generator=torch.Generator(), steps=10)
    for settings, said in [
        (StackedSettings(d_sae=60, stage_latents=(30, 20)), "add up to 50"),
        (StackedSettings(d_sae=60, stage_latents=(30, 30), stage_l1=(1.0,)), "one entry a stage"),
    ]:
        with pytest.raises(InputError, match=said):
            Stacked(settings, start)

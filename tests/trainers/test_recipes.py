"""Recipes on a planted dictionary: known sparse atoms must come back; and the constraints of each recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import InputError
from saebench.registry import RECIPES
from saebench.sae import SAE, SAEConfig
from saebench.trainers.norm import fit
from saebench.trainers.recipe import Recipe, Start
from saebench.trainers.rows import geometric_median, unit_rows_

D, ATOMS = 32, 40


def planted(n: int, generator: torch.Generator, atoms: Tensor, *, active: int = 2) -> Tensor:
    """Return sums of ``active`` random atoms with positive random sizes, and a little noise."""
    chosen = torch.rand(n, len(atoms), generator=generator).topk(active, 1).indices
    sizes = 1 + torch.rand(n, active, generator=generator)
    noise = 0.01 * torch.randn(n, atoms.shape[1], generator=generator)
    return torch.einsum("nk,nkd->nd", sizes, atoms[chosen]) + noise


def atoms() -> Tensor:
    w = torch.randn(ATOMS, D, generator=torch.Generator().manual_seed(11))
    w -= w.mean(1, keepdim=True)  # so that centring over D, which topk does, leaves them alone
    unit_rows_(w)
    return w


def started(name: str, steps: int, **settings: Any) -> tuple[Recipe, torch.Generator, Any]:
    """Return (recipe, generator, normalisation) before the first step."""
    g = torch.Generator().manual_seed(0)
    kind = RECIPES.get(name)
    own, sample = kind.Settings(**settings), planted(4096, g, atoms())
    norm = kind.given_norm(own) or fit(kind.norm_kind(own), sample)
    return kind(own, Start(sample=norm(sample), generator=g, steps=steps, batch_size=512)), g, norm


def trained(name: str, steps: int, **settings: Any) -> tuple[Recipe, Tensor]:
    recipe, g, norm = started(name, steps, **settings)
    s = recipe.settings
    groups = [{**group, "lr": s.lr * group["scale"]} for group in recipe.groups()]
    optimizer = torch.optim.Adam(groups, lr=s.lr, betas=(s.adam_beta1, s.adam_beta2))
    since = torch.zeros(recipe.d_sae, dtype=torch.long)
    for step in range(steps):
        x = norm(planted(512, g, atoms()))
        found = recipe.losses(x, since, step)
        optimizer.zero_grad()
        found.total.backward()
        recipe.after_backward()
        optimizer.step()
        since += len(x)
        since[found.fired] = 0
        recipe.after_step(optimizer, step, since)
    return recipe, since


def normalised(recipe_name: str, x: Tensor, **settings: Any) -> Tensor:
    """Return ``x`` as that recipe sees it, with the factor it was started with."""
    return started(recipe_name, 1, **settings)[2](x)


def mean_max_cosine(recipe: Recipe) -> float:
    """Return the mean over planted atoms of the largest cosine with a decoder row."""
    w = torch.nn.functional.normalize(recipe.weights().W_dec, dim=1)
    return float((atoms() @ w.T).amax(1).mean())


_WIDE = {"d_sae": 64, "lr": 6e-3}
PLANTED: list[tuple[str, dict[str, Any]]] = [
    ("topk", {"k": 2, "dead_after_tokens": 20_000}),
    ("topk", {"k": 2, "multi_k": 8, "dead_after_tokens": 20_000}),
    ("batchtopk", {"k": 2, "threshold_decay": 0.9, "dead_after_tokens": 20_000}),
    ("matryoshka", {"k": 2, "threshold_decay": 0.9, "dead_after_tokens": 20_000, "widths": (48, 64)}),
    ("relu-l1", {"l1": 0.01, "lr_warmup_steps": 0, "dead": "none"}),
    (
        "relu-l1",
        {
            "l1": 0.01,
            "lr_warmup_steps": 0,
            "dead": "none",
            "encoder_lr_scale": 3.0,
            "bias_lr_scale": 10.0,
            "l1_warmup_share": 0.2,
        },
    ),
    ("relu-l1", {"l1": 0.01, "lr_warmup_steps": 0, "dead": "ghost", "dead_after_tokens": 51_200}),
    ("relu-l1", {"l1": 0.01, "lr_warmup_steps": 0, "dead": "resample", "dead_after_tokens": 51_200, "resample_every": 300}),
    ("relu-april", {"l1": 2.0}),
    ("gated", {"l1": 0.4, "lr_warmup_steps": 0}),
    ("jumprelu", {"coefficient": 0.02, "bandwidth": 0.2, "threshold": 0.2, "lr_warmup_steps": 0}),
    ("jumprelu", {"penalty": "tanh", "coefficient": 2.0, "threshold": 0.3, "lr_warmup_steps": 0}),
    ("panneal", {"lr_warmup_steps": 0, "l1": 0.01, "dead_after_tokens": 51_200, "resample_every": 300}),
    ("stacked", {"stage_latents": (40, 24), "stage_l1": (0.01, 0.01), "stage_shares": (0.7, 0.3)}),
]


ONE_OF_EACH = [
    pytest.param(name, settings, marks=pytest.mark.slow if name in {other for other, _ in PLANTED[:i]} else ())
    for i, (name, settings) in enumerate(PLANTED)
]


@pytest.mark.parametrize(("name", "settings"), ONE_OF_EACH)
def test_planted_atoms_are_recovered(name: str, settings: dict[str, Any], record_property: Any) -> None:
    before = mean_max_cosine(trained(name, 0, **_WIDE, **settings)[0])
    after = mean_max_cosine(trained(name, 600, **_WIDE, **settings)[0])
    record_property("mean_max_cosine", after)
    assert before < 0.75
    assert after > 0.95, (before, after)


def test_every_built_in_recipe_is_tried_on_the_planted_dictionary() -> None:
    assert {name for name, _ in PLANTED} == set(RECIPES.names()) - {"refit"}  # which starts from an SAE: test_refit.py


@pytest.mark.parametrize(("name", "settings"), PLANTED)
def test_what_is_saved_is_the_function_that_was_trained(name: str, settings: dict[str, Any]) -> None:
    settings = _WIDE | settings
    recipe, _ = trained(name, 60, **settings)
    norm = started(name, 60, **settings)[2]
    config = SAEConfig(d_in=D, d_out=D, d_sae=64, normalisation=norm.kind, norm_scale=norm.scale, **recipe.sae_fields())
    x = planted(300, torch.Generator().manual_seed(5), atoms())
    trained_recon = recipe.losses(norm(x), torch.zeros(64, dtype=torch.long), 59).recon
    saved = norm(SAE(config, recipe.weights()).reconstruct(x)) if norm.kind != "layer_norm" else None
    if saved is None:
        mean, deviation = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        saved = (SAE(config, recipe.weights()).reconstruct(x) - mean) / deviation
    if name in ("batchtopk", "matryoshka"):  # one threshold for all batches is close to each batch's own, not equal
        assert float((saved - trained_recon).norm() / trained_recon.norm()) < 0.25
    else:
        torch.testing.assert_close(saved, trained_recon, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["topk", "relu-l1", "gated", "jumprelu", "batchtopk"])
def test_decoder_rows_keep_unit_norm(name: str) -> None:
    settings = {"k": 2} if name in ("topk", "batchtopk") else {}
    recipe, _ = trained(name, 30, d_sae=32, lr=1e-3, **settings)
    torch.testing.assert_close(recipe.decoder().norm(dim=1), torch.ones(32))


def test_the_gradient_along_decoder_rows_is_dropped() -> None:
    recipe, _ = trained("relu-l1", 1, d_sae=32)
    x = planted(64, torch.Generator().manual_seed(6), atoms())
    recipe.losses(x, torch.zeros(32, dtype=torch.long), 0).total.backward()
    recipe.after_backward()
    assert ((recipe.w_dec.grad * recipe.w_dec).sum(1).abs() < 1e-6).all()


@pytest.mark.parametrize("name", ["topk", "relu-l1"])
def test_terms_for_dead_latents_are_absent_until_there_are_some_and_reach_only_those(name: str) -> None:
    settings = {"k": 2, "dead_after_tokens": 10_000} if name == "topk" else {"dead": "ghost", "dead_after_tokens": 51_200}
    term = "aux" if name == "topk" else "ghost"
    recipe, _ = trained(name, 5, d_sae=32, lr=1e-3, **settings)
    x = normalised(name, planted(3, torch.Generator().manual_seed(7), atoms()), d_sae=32, **settings)
    since = torch.zeros(32, dtype=torch.long)
    assert term not in recipe.losses(x, since, 0).parts
    dead = recipe.losses(x, since, 0).fired.logical_not().nonzero()[:, 0]
    assert len(dead), "the test needs a latent that does not fire here"
    since[dead[0]] = 100 * 512
    recipe.zero_grad()
    with_dead = recipe.losses(x, since, 0)
    assert float(with_dead.parts[term]) > 0
    with_dead.total.backward()
    assert recipe.w_enc.grad[dead[0]].abs().sum() > 0, "the dead latent learns"
    assert not len(dead) > 1 or recipe.w_enc.grad[dead[1]].abs().sum() == 0, "one that is merely silent does not"


@pytest.mark.parametrize("name", ["relu-l1", "relu-april", "gated", "panneal"])
def test_the_penalty_rises_over_its_share_of_the_run(name: str) -> None:
    more = {"anneal_start_share": 0.5} if name == "panneal" else {}
    recipe, _, _ = started(name, 100, d_sae=32, l1=2.0, l1_warmup_share=0.2, **more)
    x = planted(64, torch.Generator().manual_seed(1), atoms())
    since = torch.zeros(32, dtype=torch.long)
    totals = [recipe.losses(x, since, step).total.item() for step in (0, 5, 10, 19, 20, 90)]
    rise = [(t - totals[0]) / (totals[4] - totals[0]) for t in totals]
    at = [0.0, 0.25, 0.5, 0.95, 1.0]
    assert rise[:5] == pytest.approx(at, abs=1e-5)
    assert name == "panneal" or rise[5] == pytest.approx(1.0, abs=1e-5)


def test_resampling_points_dead_latents_at_badly_reconstructed_acts() -> None:
    recipe, _ = trained("relu-l1", 0, d_sae=32, dead="resample", dead_after_tokens=512, resample_every=10)
    recipe.steps = 20
    x = planted(512, torch.Generator().manual_seed(8), atoms())
    since = torch.zeros(32, dtype=torch.long)
    recipe.losses(x, since, 9)
    since[4] = 10**9
    optimizer = torch.optim.Adam(recipe.parameters())
    kept = recipe.w_dec.data[5].clone()
    recipe.after_step(optimizer, 9, since)
    candidates = torch.nn.functional.normalize(x - recipe.b_dec.data, dim=1)
    assert float((candidates @ recipe.w_dec.data[4]).max()) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(recipe.w_dec.data[5], kept)
    assert since[4] == 0
    resampled = recipe.w_dec.data[4].clone()
    since[4] = 10**9
    recipe.after_step(optimizer, 19, since)
    assert torch.equal(recipe.w_dec.data[4], resampled), "not at the end: what is resampled must have time to learn"
    assert since[4] == 10**9, "and its death is not hidden"


def test_a_latent_of_the_ghosts_that_wakes_with_a_large_value_leaves_the_loss_finite() -> None:
    recipe, _ = trained("relu-l1", 0, d_sae=32, dead="ghost", dead_after_tokens=512)
    since = torch.zeros(32, dtype=torch.long)
    since[4] = 1000
    recipe.b_enc.data[4] = 200.0  # exp of it is infinite in float32
    found = recipe.losses(planted(64, torch.Generator().manual_seed(8), atoms()), since, 0)
    found.total.backward()
    assert float(found.parts["ghost"]) > 0
    assert all(bool(p.grad.isfinite().all()) for p in recipe.parameters() if p.grad is not None)


def test_a_resampled_latent_is_forgotten_by_the_optimiser_and_the_bias_of_a_square_sae_is_not() -> None:
    recipe, _ = trained("relu-l1", 0, d_sae=D)
    optimizer = torch.optim.Adam(recipe.parameters())
    recipe.losses(planted(64, torch.Generator().manual_seed(8), atoms()), torch.zeros(D, dtype=torch.long), 1).total.backward()
    optimizer.step()
    recipe.forget(optimizer, torch.tensor([4]))
    moments = {name: optimizer.state[p]["exp_avg_sq"] for name, p in recipe.named_parameters()}
    for name in ("w_enc", "w_dec", "b_enc"):
        assert float(moments[name][4].abs().sum()) == 0, name
    assert bool((moments["b_dec"] > 0).all())


def test_the_threshold_of_a_short_run_is_that_of_its_end() -> None:
    recipe, _, _ = started("batchtopk", 400, d_sae=32, k=2)
    for size in [1.0] * 300 + [4.0] * 100:  # as if what is kept had grown
        recipe._follow(torch.tensor([size, 9.0]))
    assert float(recipe.threshold()) == pytest.approx(4.0, rel=0.01)
    assert started("batchtopk", 10**6, d_sae=32, k=2)[0].decay == 0.999
    assert started("batchtopk", 400, d_sae=32, k=2, threshold_decay=0.99)[0].decay == 0.99


def test_geometric_median_by_hand_and_against_outliers() -> None:
    line = torch.tensor([[0.0], [1.0], [100.0]])
    assert float(geometric_median(line, iterations=10_000, tolerance=0.0)) == pytest.approx(1.0, abs=1e-3)
    cloud = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    spoilt = torch.cat([cloud, torch.full((20, 3), 1e4)])
    assert float(geometric_median(spoilt).norm()) < 0.3 < float(spoilt.mean(0).norm())


@pytest.mark.parametrize("settings", [{"k": 0}, {"k": 33}, {"k": 4, "multi_k": 3}, {"k": 4, "multi_k": 40}])
def test_impossible_k_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="d_sae=32"):
        trained("topk", 0, d_sae=32, **settings)

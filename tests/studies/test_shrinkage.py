"""The study shrinkage: SAEs whose shrinkage is known, refinement against scipy's, core's numbers, what refit mends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from numpy.testing import assert_allclose

from saebench.cli import main
from saebench.data import Corpus
from saebench.lm.port import Port
from saebench.record import Score
from saebench.sae import SAE, Latents, SAEConfig, SAEWeights, load_sae, save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.shrinkage import Shrinkage, ShrinkageSettings
from saebench.studies.shrinkage import refine as refining
from saebench.studies.shrinkage.refine import refine, without_zeros
from saebench.tasklist import TaskCorpus
from saebench.trainers.recipe import Start
from saebench.trainers.recipes.refit import Refit, RefitSettings
from tests.lm.families import build
from tests.metrics.conftest import (  # fixtures too
    SITE,
    constant_sae,
    corpus,  # noqa: F401
    identity_sae,
    make_corpus,
    measure,
    model,  # noqa: F401
    port,  # noqa: F401
    random_sae,
)

D = 24


def run(port: Port, corpus: Corpus, *saes: SAE, max_active: int = 2048, **more: Any) -> list[StudyResult]:  # noqa: F811
    settings = ShrinkageSettings(corpus=TaskCorpus(source="unused", n_contexts=1), max_active=max_active)
    return Shrinkage(StudySetting(**{"port": port, "seed": 0, "corpus": corpus} | more), settings).run(saes)


def values(result: StudyResult) -> dict[str, Any]:
    return {score.name: score.value for score in result.scores}


def ratios(result: StudyResult) -> Any:
    return result.per_latent["activation_ratio"]


def series(result: StudyResult, name: str) -> Any:
    return next(s for s in result.series if s.name == name)


def changed(sae: SAE, **weights: torch.Tensor) -> SAE:
    return SAE(sae.config, SAEWeights(**dict(sae.weights.items()) | weights))


def shrunk(share: torch.Tensor) -> SAE:
    """Return an SAE of all acts that makes what latent i writes too small by the factor share[i]."""
    sae = identity_sae()
    return changed(sae, W_dec=sae.W_dec * share[:, None])


def test_an_sae_that_halves_everything_is_mended_by_doubling(port: Port, corpus: Corpus) -> None:  # noqa: F811
    (result,) = run(port, corpus, shrunk(torch.full((2 * D,), 0.5)))
    found = values(result)
    for name, expected in (
        ("norm_ratio", 0.5), ("refined_norm_ratio", 1), ("relative_reconstruction_bias", 0.5), ("refined_explained_variance", 1),
        ("refinement_mse_ratio", 0), ("activation_ratio", 2), ("activation_ratio_mean", 2), ("activation_change", 1),
        ("activations_zeroed", 0), ("l0", D), ("refined_l0", D), ("refined_delta_ce", 0), ("refined_kl", 0),
    ):  # fmt: skip
        assert found[name] == pytest.approx(expected, abs=1e-4), name
    assert abs(found["delta_ce"]) > 1e-3 and found["kl"] > 1e-2
    assert found["refinement_delta_ce"] == pytest.approx(-found["delta_ce"], abs=1e-5)
    assert found["refinement_delta_kl"] == pytest.approx(-found["kl"], abs=1e-5)
    assert found["refinement_explained_variance"] == pytest.approx(1 - found["explained_variance"], abs=1e-5)
    assert_allclose(ratios(result), 2, rtol=1e-4)
    by_density = series(result, "activation_ratio_by_density")
    assert [v for v in by_density.value if v is not None] == pytest.approx([2.0] * sum(1 for n in by_density.n if n), rel=1e-4)
    assert sum(by_density.n) == 2 * D
    histogram = series(result, "activation_ratio_histogram")
    near_two = sum(h for x, h in zip(histogram.x, histogram.value, strict=True) if x in (1.9, 2.0))
    assert near_two == sum(histogram.value) == result.raw["entries"] == corpus.scored.sum() * D
    assert result.raw["tokens_unsettled"] == result.raw["tokens_not_refined"] == 0


def test_what_an_l1_penalty_takes_off_is_found_again(port: Port, corpus: Corpus) -> None:  # noqa: F811
    """A bias of −0.05 takes as much off every activation that is left: refinement puts it back, latent by latent."""
    sae = identity_sae()
    (result,) = run(port, corpus, changed(sae, b_enc=torch.full((2 * D,), -0.05)))
    x = port.clean(corpus.tokens).acts[corpus.scored]
    kept = x.abs() > 0.05
    f, z = (x.abs() - 0.05)[kept], x.abs()[kept]
    found = values(result)
    assert found["activation_ratio"] == pytest.approx(float(z.sum() / f.sum()), rel=1e-4)
    assert found["activation_ratio_mean"] == pytest.approx(float((z / f).mean()), rel=1e-2)
    assert found["refined_mse"] == pytest.approx(float(torch.where(kept, 0.0, x).square().sum(1).mean()), rel=1e-4)
    assert found["l0"] == pytest.approx(float(kept.sum(1).float().mean()))


def test_without_refinement_it_is_what_core_says(port: Port, corpus: Corpus) -> None:  # noqa: F811
    saes = [random_sae(), random_sae(seed=1, k=7, normalisation="layer_norm")]
    results = run(port, corpus, *saes)
    for result, scores in zip(results, measure(port, saes, corpus), strict=True):
        for name in ("l0", "norm_ratio", "relative_reconstruction_bias", "explained_variance", "mse", "delta_ce", "kl"):
            mine = next(s for s in result.scores if s.name == name)
            assert mine.value == pytest.approx(scores[name].value, rel=1e-4)
            assert mine.stderr == pytest.approx(scores[name].stderr, rel=1e-3)
            theirs = scores[name]
            assert isinstance(theirs, Score) and (mine.unit, mine.better) == (theirs.unit, theirs.better)
    assert [s.name for s in results[0].scores] == [spec.name for spec in Shrinkage.specs]
    assert all(s.stderr is not None for s in results[0].scores)
    found = values(results[0])
    assert found["refinement_mse_ratio"] == pytest.approx(found["refined_mse"] / found["mse"], rel=1e-5)
    gain = found["refined_explained_variance"] - found["explained_variance"]
    assert found["refinement_explained_variance"] == pytest.approx(gain, rel=1e-4) and gain > 0
    assert found["refinement_delta_ce"] == pytest.approx(found["refined_delta_ce"] - found["delta_ce"], abs=1e-6)


KINDS = {
    "relu": {"activation": "relu", "k": None},
    "topk": {},
    "abstopk": {"activation": "abstopk"},
    "signed": {"activation": "signed_topk", "k": 9},
    "layer_norm": {"normalisation": "layer_norm"},
    "unit_norm": {"normalisation": "unit_norm"},
    "scaled": {"normalisation": "constant_scale", "norm_scale": 0.3},
}


@pytest.mark.parametrize("kind", [*KINDS, "skip", "transcoder", "long rows", "chunks"])
def test_the_refined_values_are_scipys(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, D, generator=g) + 0.5
    target = x
    sae = random_sae(**KINDS.get(kind, {}))
    if kind in ("skip", "transcoder"):
        sae = changed(sae, W_skip=0.3 * torch.randn(D, D, generator=g))
    if kind == "transcoder":
        sae, target = sae.with_config(site_out="blocks.1.hook_mlp_out"), torch.randn(40, D, generator=g)
    if kind == "long rows":
        sae = changed(sae, W_dec=sae.W_dec * torch.linspace(0, 100, 40)[:, None])  # the first of length 0
    if kind == "chunks":
        monkeypatch.setattr(refining, "_CHUNK_BYTES", 8 * 5 * (2 * D + 25) * 7)  # seven tokens, or one of them
    latents = sae.encode(x)
    recon = sae.decode(latents, x)
    found = refine(sae, x, target, latents, recon, max_active=2048)
    assert bool(found.settled.all()) and not bool(found.left.any())
    assert torch.equal(found.latents.indices, latents.indices)
    new = sae.decode(found.latents, x)
    empty = without_zeros(Latents(
        values=torch.zeros_like(latents.values), indices=latents.indices, offsets=latents.offsets, d_sae=latents.d_sae
    ))  # fmt: skip
    rest = target - sae.decode(empty, x)
    dense, moved = latents.to_dense(), 0
    for i in range(len(x)):
        active = dense[i].nonzero()[:, 0]
        one = sae.contributions(x[i : i + 1].expand(len(active), -1), active, torch.ones(len(active))).T.double().numpy()
        aim = rest[i].double().numpy()
        if kind in ("abstopk", "signed"):
            theirs = np.linalg.lstsq(one, aim, rcond=None)[0]
        else:
            theirs = scipy.optimize.nnls(one, aim)[0]
        mine, before = found.latents.to_dense()[i, active].numpy(), dense[i, active].numpy()
        if kind == "long rows":  # what a row of zeros has is its own affair
            used = np.linalg.norm(one, axis=0) > 0
            assert_allclose(mine[~used], before[~used])
            mine, theirs, before, one = mine[used], theirs[used], before[used], one[:, used]
        best = np.square(one @ theirs - aim).sum()
        assert float((new[i] - target[i]).square().sum()) == pytest.approx(best, rel=1e-3, abs=1e-5)
        if len(active) < D:
            assert_allclose(mine, theirs, atol=2e-3 * max(1.0, np.abs(theirs).max()))
        moved += int(np.abs(mine - before).max(initial=0) > 1e-3)
    assert moved > 30
    if kind in ("abstopk", "signed"):
        assert bool((found.latents.values < 0).any())
    else:
        assert bool((found.latents.values >= 0).all())


def test_tokens_with_too_many_latents_are_left_and_counted(port: Port, corpus: Corpus) -> None:  # noqa: F811
    (result,) = run(port, corpus, random_sae(k=6), max_active=5)
    found = values(result)
    assert result.raw["tokens_not_refined"] == int(corpus.scored.sum())
    assert found["refinement_mse_ratio"] == 1 and found["activation_ratio"] == 1 and found["activation_change"] == 0
    assert found["refinement_delta_ce"] == pytest.approx(0, abs=1e-9)


def test_a_silent_sae_has_nothing_to_refine(port: Port, corpus: Corpus) -> None:  # noqa: F811
    (result,) = run(port, corpus, constant_sae(torch.ones(D)))
    by_name = {s.name: s for s in result.scores}
    assert by_name["activation_ratio"].value is None and by_name["activation_ratio"].reason == "no latent is active"
    assert by_name["refinement_mse_ratio"].value == 1 and by_name["refined_l0"].value == 0
    assert np.isnan(ratios(result)).all()


def test_neither_batch_size_nor_padding_nor_other_saes_matter(port: Port, corpus: Corpus) -> None:  # noqa: F811
    saes = random_sae(), random_sae(seed=2, k=9)
    both = run(port, corpus, *saes)
    tokens = torch.cat([corpus.tokens, torch.zeros(11, 3, dtype=torch.long)], 1)
    padded = make_corpus(tokens, torch.cat([corpus.valid, torch.zeros(11, 3, dtype=torch.bool)], 1))
    for others in (
        run(port, corpus, *saes, batch_size=4), run(port, padded, *saes), run(port, corpus, *saes[::-1])[::-1],
    ):  # fmt: skip
        for one, other in zip(both, others, strict=True):
            assert_allclose(list(values(one).values()), list(values(other).values()), rtol=1e-4, atol=1e-5)
            assert_allclose(ratios(one), ratios(other), rtol=1e-4)


@pytest.mark.parametrize("fit", ["scale", "decoder"])
def test_refit_mends_shrinkage_and_the_study_shows_it(port: Port, corpus: Corpus, tmp_path: Path, fit: str) -> None:  # noqa: F811
    sae = shrunk(torch.linspace(0.5, 0.9, 2 * D))
    save_native(sae, tmp_path)
    x = port.clean(corpus.tokens).acts[corpus.scored].clone()
    start = Start(sample=x, generator=torch.Generator().manual_seed(0), steps=300)
    recipe = Refit(RefitSettings(sae=str(tmp_path), fit=fit), start)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(recipe.parameters(), lr=1e-2)
    for step in range(300):
        optimizer.zero_grad()
        recipe.losses(x, torch.zeros(recipe.d_sae, dtype=torch.long), step).total.backward()
        optimizer.step()
    config = SAEConfig(d_in=D, d_out=D, d_sae=recipe.d_sae, site=SITE, **recipe.sae_fields())
    before, after = (values(r) for r in run(port, corpus, load_sae(tmp_path), SAE(config, recipe.weights())))
    assert before["norm_ratio"] < 0.8 and before["activation_ratio"] > 1.3
    assert after["norm_ratio"] == pytest.approx(1, abs=0.03) and after["activation_ratio"] == pytest.approx(1, abs=0.03)
    assert after["mse"] < 0.02 * before["mse"] and after["kl"] < 0.1 * before["kl"]
    assert before["refinement_mse_ratio"] < 1e-6, "all of its error is shrinkage"
    assert before["l0"] == after["l0"]


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(), tmp_path / "sae")
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(4, 90, (6, 12)))
    task = (
        "name: mine\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: shrinkage\n"
        f"settings: {{corpus: {{source: {tmp_path / 'tokens.npy'}, n_contexts: 4}}, max_active: 99}}\n"
    )
    words = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    words += ["--task", str(tmp_path / "task.yaml"), "--out", str(tmp_path / "out")]
    (tmp_path / "task.yaml").write_text(task.replace("99", "0"))
    assert main(words) == 2
    assert "max_active" in capsys.readouterr().err
    (tmp_path / "task.yaml").write_text(task)
    assert main(words) == 0
    (path,) = find_records(tmp_path / "out")
    assert {s.name for s in read_record(path).scores} == {spec.name for spec in Shrinkage.specs}
    table = pd.read_parquet(path.with_name("seed0.latents.parquet"))
    assert len(table) == 40 and {"density", "activation_ratio"} <= set(table.columns)
    for name in ("shrinkage", "storyworld_shrinkage"):
        assert main(["show", "task", name]) == 0
        assert "study: shrinkage" in capsys.readouterr().out

"""Scores by latent: naive loops, plain forwards with a latent's decoder row set to 0, a planted latent, and odd cases."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.sae import SAE, Latents, SAEConfig, SAEWeights
from saebench.studies.base import StudyResult
from saebench.studies.cloze.active import Active, Watch
from saebench.studies.cloze.encoding import encode, encode_first, make_rows
from saebench.studies.cloze.examples import Example
from saebench.studies.cloze.latents import LatentSettings, choose, observe, prompts_of
from tests.lm.families import build
from tests.metrics.conftest import constant_sae, identity_sae, random_sae
from tests.studies.cloze_cases import SITE, candidate_examples, plain, run, values, words

MOST = 6
FEW = LatentSettings(window=4, min_prompts=3, listed=1, ablated_prompts=MOST)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("latents") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


def without(sae: SAE, latent: int) -> SAE:
    """Return the SAE whose decoder has nothing for ``latent``."""
    rows = sae.weights.W_dec.clone()
    rows[latent] = 0
    return SAE(sae.config, dataclasses.replace(sae.weights, W_dec=rows))


def table(result: StudyResult) -> dict[str, Any]:
    return dict(result.tables["latent_scores"])


def active_by_hand(model: LanguageModel, sae: SAE, example: Example, window: int, splice_bos: bool) -> set[int]:
    ids = [1, *model.tokenizer(example.prompt, add_special_tokens=False)["input_ids"]]
    acts = model.stack.prefix(torch.tensor([ids]), 1)[0]
    first = max(0 if splice_bos else 1, len(ids) - window)
    return set(sae.encode(acts[first:]).indices.tolist())


@pytest.mark.parametrize(("answer", "splice_bos"), [("candidates", False), ("last_word", True)])
def test_scores_and_ablations_are_those_of_plain_forwards_and_loops(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, answer: str, splice_bos: bool
):
    sae, examples = random_sae(seed=4), candidate_examples(14)
    if answer == "last_word":
        examples = [dataclasses.replace(e, candidates=(e.candidates[0],), answer=0, rest="") for e in examples]
    (result,) = run(Port(model, SITE), [sae], examples, monkeypatch, answer=answer, latents=FEW, splice_bos=splice_bos)
    found = table(result)

    def lnp(example: Example, used: SAE | None) -> float:
        each, _, prompt = plain(model, example, example.candidates[example.answer], used, splice_bos=splice_bos)
        return each[prompt - 1 :].sum()

    spliced = np.array([lnp(e, sae) for e in examples])
    delta = spliced - np.array([lnp(e, None) for e in examples])
    active = [active_by_hand(model, sae, e, FEW.window, splice_bos) for e in examples]
    assert found["latent"].tolist() == sorted(set().union(*active))
    ablated: set[str] = set()
    for row, latent in enumerate(found["latent"].tolist()):
        where = np.array([latent in one for one in active])
        n, own = int(where.sum()), delta[where]
        assert found["n_active"][row] == n and found["delta_lnp_mean"][row] == pytest.approx(own.mean(), abs=1e-4)
        assert found["sign_mean"][row] == pytest.approx((own >= 0).mean() - (own < 0).mean())
        if not 3 <= n <= len(examples) - 3:
            assert all(found[name][row] is np.ma.masked for name in ("delta_lnp_z", "p", "q", "sign_p", "sign_q"))
            assert found["role"][row] == "" and found["ablated_n"][row] == 0
            continue
        z = (own.mean() - delta.mean()) / (delta.var() / n * (len(delta) - n) / (len(delta) - 1)) ** 0.5
        assert found["delta_lnp_z"][row] == pytest.approx(z, abs=1e-3)
        if found["role"][row]:
            ablated.add(found["role"][row])
            bare = without(sae, latent)
            change = np.array([lnp(e, bare) for e in examples])[where] - spliced[where]
            assert found["ablated_n"][row] == min(n, MOST)
            if n <= MOST:
                assert found["ablated_delta_lnp_mean"][row] == pytest.approx(change.mean(), abs=1e-4)
                assert found["ablated_delta_lnp_stderr"][row] == pytest.approx(change.std(ddof=1) / n**0.5, abs=1e-4)
            else:
                assert change.min() - 1e-4 <= found["ablated_delta_lnp_mean"][row] <= change.max() + 1e-4
    assert ablated == {"helpful", "harmful", "control"}
    tested = ~np.ma.getmaskarray(found["p"])
    assert values(result)["latents_tested"] == tested.sum()
    assert values(result)["latents_significant"] == (found["q"][tested] < 0.05).sum()
    for kind, sign in (("helpful", 1), ("harmful", -1)):
        of_kind = found["role"] == kind
        assert (np.sign(found["delta_lnp_z"][of_kind]) == sign).all()
        rest = tested & ~of_kind & (np.sign(np.ma.filled(found["delta_lnp_z"], 0)) == sign)
        assert not rest.any() or found["p"][of_kind].max() <= found["p"][rest].min()


def planted(model: LanguageModel) -> tuple[SAE, list[Example], int]:
    """Return an SAE, texts and a latent: all is identity, but where one token stands that latent writes against the answer.

    Other latents tell other tokens and write nothing.
    """
    tokens = model.hf.get_input_embeddings().weight[:96]
    told = tokens @ tokens.T
    other = told.masked_fill(torch.eye(96, dtype=torch.bool), -torch.inf)[:, 4:].amax(1)
    apart = (told.diag() - other)[4:]
    chosen = (apart.topk(9).indices + 4).tolist()
    d, s = tokens.shape[1], len(chosen)
    eye = torch.eye(d)
    against = -model.hf.get_output_embeddings().weight[10]
    W_enc = torch.cat([eye, -eye, tokens[chosen].T], 1)
    W_dec = torch.cat([eye, -eye, torch.zeros(s, d)])
    W_dec[2 * d] = 20 * against / against.norm() / (apart.max() / 2)
    b_enc = torch.zeros(2 * d + s)
    b_enc[2 * d :] = -(told.diag() + other)[chosen] / 2
    config = SAEConfig(activation="relu", d_in=d, d_out=d, d_sae=2 * d + s, name="planted", site="blocks.0.hook_resid_pre")
    g = np.random.default_rng(0)
    examples = []
    for i in range(40):
        before = g.choice(chosen[1:], 5).tolist()
        last = chosen[0] if i % 2 else int(g.choice(chosen[1:]))
        examples.append(Example(prompt=words(*before, last), candidates=("w10",), answer=0))
    return SAE(config, SAEWeights(W_enc=W_enc, b_enc=b_enc, W_dec=W_dec, b_dec=torch.zeros(d))), examples, 2 * d


def test_a_planted_harmful_latent_is_found_and_its_ablation_mends_it(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path_factory.mktemp("planted")
    build("llama", str(folder))
    with torch.no_grad():
        sae, examples, latent = planted(model := load_model(str(folder), device="cpu"))
    port = Port(model, "blocks.0.hook_resid_pre")
    (result,) = run(port, [sae], examples, monkeypatch, answer="last_word", latents=LatentSettings(listed=3, ablated_prompts=20))
    found, scores = table(result), values(result)
    assert (scores["latents_tested"] or 0) >= 5 and (scores["latents_significant"] or 0) >= 1
    row = found["latent"].tolist().index(latent)
    assert found["n_active"][row] == 20 and found["q"][row] < 0.001 and found["sign_q"][row] < 0.05
    assert found["p"][row] == found["p"].min() and found["role"][row] == "harmful"
    assert found["ablated_delta_lnp_mean"][row] == pytest.approx(-found["delta_lnp_mean"][row], abs=1e-4)
    assert found["ablated_delta_lnp_mean"][row] > 5 * found["ablated_delta_lnp_stderr"][row] > 0
    writes_nothing = (found["role"] != "") & (found["latent"] > latent)
    assert writes_nothing.sum() >= 2 and np.abs(found["ablated_delta_lnp_mean"][writes_nothing]).max() < 1e-6
    listed = next(s for s in result.series if s.name == "delta_lnp_harmful")
    mended = next(s for s in result.series if s.name == "ablated_delta_lnp_harmful")
    assert listed.x[0] == mended.x[0] == latent and (mended.value[0] or 0) > 0
    assert not any("no latent" in note for note in result.notes)


def test_company_and_batch_size_change_nothing(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    port, examples = Port(model, SITE), candidate_examples(12)
    saes = [random_sae(seed=s) for s in range(3)]
    together = run(port, saes, examples, monkeypatch, latents=FEW)
    alone = run(port, saes[1:2], examples, monkeypatch, latents=FEW)
    small = run(port, saes[1:2], examples, monkeypatch, latents=FEW, batch_size=1)
    wanted = table(together[1])
    for name, column in table(alone[0]).items():
        np.testing.assert_array_equal(np.ma.filled(column, 0), np.ma.filled(wanted[name], 0))
        if column.dtype == np.float64:
            np.testing.assert_allclose(np.ma.filled(table(small[0])[name], 0), np.ma.filled(wanted[name], 0), atol=1e-4)
    assert table(together[0])["latent"].tolist() != wanted["latent"].tolist() or values(together[0]) != values(together[1])


@pytest.mark.parametrize("normalisation", ["none", "constant_scale", "unit_norm", "layer_norm", "centred"])
def test_what_a_latent_contributes_is_what_the_recon_lacks_without_it(normalisation: str):
    config = {"normalisation": "none" if normalisation == "centred" else normalisation, "norm_scale": 0.3}
    sae = random_sae(seed=2, **config).that_centres(normalisation == "centred")
    acts = 3 * torch.randn(50, 24, generator=torch.Generator().manual_seed(0)) + 1
    dense = sae.encode(acts).to_dense()
    for latent in dense.abs().sum(0).topk(3).indices.tolist():
        lost = sae.contributions(acts, torch.full((50,), latent), dense[:, latent])
        bare = without(sae, latent).that_centres(sae.centres)
        torch.testing.assert_close(lost, sae.reconstruct(acts) - bare.reconstruct(acts), atol=1e-5, rtol=1e-4)


def test_windows_by_hand(model: LanguageModel):
    examples = [Example(prompt=words(*range(5, 5 + n)), candidates=("w20", "w21"), answer=0) for n in (2, 6)]
    encoded = encode(examples, model.tokenizer, max_context=64)
    batch = make_rows(encoded, side_by_side=False)
    owners = Watch(encoded, [8], size=4).owners(batch, 8)
    assert [row.example for row in batch] == [0, 0, 1, 1]
    assert owners.tolist() == [
        [0, 0, 0, -1, -1, -1, -1, -1],  # BOS and two words
        [-1] * 8,  # the same prompt with the other candidate
        [-1, -1, -1, 1, 1, 1, 1, -1],
        [-1] * 8,
    ]
    first = encode_first([examples[1]], model.tokenizer, max_context=64)
    owners = Watch(first, [8], size=4).owners(make_rows(first, side_by_side=False), 7)
    assert owners.tolist() == [[-1, -1, 0, 0, 0, 0, -1]], "Anders & Bloom leave out the prompt's last token"


def test_bits_are_what_a_dense_table_says():
    g = torch.Generator().manual_seed(0)
    dense = torch.relu(torch.randn(60, 21, generator=g) - 1.5)
    example = torch.randint(-1, 7, (60,), generator=g)
    active = Active(7, 21)
    for start in (0, 25):
        part = slice(start, start + 35 if start else 25)
        active.add(Latents.from_dense(dense[part]), example[part])
    wanted = np.array([[bool((dense[example == e, j] != 0).any()) for j in range(21)] for e in range(7)])
    np.testing.assert_array_equal(active.columns(0, 21), wanted)
    np.testing.assert_array_equal(active.columns(8, 19), wanted[:, 8:19])
    for j in range(21):
        np.testing.assert_array_equal(active.of(j), wanted[:, j])


def by_table(active: np.ndarray) -> Active:
    found = Active(*active.shape)
    found.add(Latents.from_dense(torch.from_numpy(active.astype(np.float32))), torch.arange(len(active)))
    return found


def test_latents_of_one_prompt_or_of_all_and_prompts_without_a_number_are_not_tested():
    g = np.random.default_rng(1)
    delta = np.append(np.round(g.normal(size=29)), np.nan)
    active = g.random((30, 6)) < 0.5
    active[:, 0], active[:, 1], active[:, 2] = True, np.arange(30) == 3, False
    active[:, 5] = active[:, 4]
    seen = observe(by_table(active), delta, 5)
    assert seen.latent.tolist() == [0, 1, 3, 4, 5] and seen.n_active[:2].tolist() == [29, 1]
    assert seen.n_prompts == 29 and seen.tested.tolist() == [False, False, True, True, True]
    assert seen.mean[0] == pytest.approx(delta[:29].mean()) and seen.mean[1] == delta[3]
    zero = delta == 0
    assert zero.any() and seen.sign_mean[0] == pytest.approx(((delta[:29] >= 0) * 2 - 1).mean()), "a tie counts +1"
    assert (seen.p[3], seen.q[3], seen.z[3]) == (seen.p[4], seen.q[4], seen.z[4])
    roles = choose(seen, 1, torch.Generator().manual_seed(0))
    assert set(roles) <= {3, 4, 5} and len(roles) >= 2
    same = observe(by_table(active), np.full(30, -0.5), 5)
    assert not same.tested.any() and choose(same, 3, torch.Generator().manual_seed(0)) == {}


def test_controls_are_as_frequent_and_no_latent_has_two_roles():
    g = np.random.default_rng(2)
    share = np.linspace(0.1, 0.9, 90)
    active = by_table(g.random((200, 90)) < share)
    seen = observe(active, g.normal(size=200), 10)
    roles = choose(seen, 8, torch.Generator().manual_seed(1))
    kinds = list(roles.values())
    assert (kinds.count("helpful"), kinds.count("harmful"), kinds.count("control")) == (8, 8, 16)
    n = dict(zip(seen.latent.tolist(), seen.n_active.tolist(), strict=True))
    listed, controls = ([n[j] for j, kind in roles.items() if (kind == "control") == which] for which in (False, True))
    assert np.abs(np.array(listed) - np.array(controls)).max() < 60
    assert choose(seen, 8, torch.Generator().manual_seed(1)) == roles != choose(seen, 8, torch.Generator().manual_seed(2))
    assert choose(seen, 0, torch.Generator().manual_seed(1)) == {}
    everywhere = np.ones(200, dtype=bool)
    for most, each in ((8, 8), (None, 200 // 32)):
        prompts = prompts_of(active, roles, everywhere, most, torch.Generator().manual_seed(0))
        assert all(len(prompts[j]) == min(each, n[j]) and active.of(j)[prompts[j]].all() for j in roles)


def test_an_sae_that_never_fires_and_a_task_that_does_not_ask(model: LanguageModel, monkeypatch: pytest.MonkeyPatch):
    port, examples = Port(model, SITE), candidate_examples(8)
    silent = constant_sae(torch.zeros(24))
    (result,) = run(port, [silent], examples, monkeypatch, latents=FEW)
    scores = {score.name: score for score in result.scores}
    assert scores["latents_tested"].value == 0 and scores["latents_tested"].n == 0
    assert scores["latents_significant"].status == "undefined" and "no latent can be tested" in (
        scores["latents_significant"].reason or ""
    )
    assert scores["causal_agreement"].status == "undefined" and len(table(result)["latent"]) == 0
    kinds = {name: str(pa.array(column).type) for name, column in table(result).items()}
    assert (kinds["latent"], kinds["p"], kinds["ablated_delta_lnp_mean"], kinds["role"]) == (
        "int64",
        "double",
        "double",
        "string",
    )
    assert result.series == [] and result.raw["latents_active"] == 0
    (bare,) = run(port, [silent], examples, monkeypatch, latents=None)
    assert set(bare.tables) == {"examples"} and "latents_tested" not in values(bare)
    (listed,) = run(port, [identity_sae()], examples, monkeypatch, latents=LatentSettings(window=1, min_prompts=2, listed=0))
    assert "`listed: 0`" in (next(s for s in listed.scores if s.name == "causal_agreement").reason or "")


def test_where_nothing_is_significant_the_most_extreme_are_listed_all_the_same(model: LanguageModel, monkeypatch):
    examples = candidate_examples(8)
    (result,) = run(Port(model, SITE), [random_sae(seed=1)], examples, monkeypatch, latents=FEW)
    assert values(result)["latents_significant"] == 0 and set(table(result)["role"]) > {"helpful", "harmful"}
    assert result.notes == (
        "no latent's mean Δ ln p differs from chance (q < 0.05) in random; the most extreme are listed all the same",
    )

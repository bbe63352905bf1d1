"""The study ablation: against a plain Hugging Face forward with a hook for each ablation, and what may not matter."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from transformers import AutoModelForCausalLM

from saebench.cli import main
from saebench.data import Corpus
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.sae import SAE, SAEConfig, SAEWeights, save_native
from saebench.store import find_records, read_record
from saebench.studies.ablation import Ablation, AblationSettings
from saebench.studies.ablation.measure import gaussian_sparsity
from saebench.studies.ablation.sample import in_parts, sample_tokens
from saebench.studies.base import StudyResult, StudySetting
from saebench.tasklist import TaskCorpus
from tests.lm.families import build
from tests.metrics.conftest import constant_sae, corpus, identity_sae, make_corpus, model, random_sae  # noqa: F401  (fixtures too)

SITE, LAYER = "blocks.1.hook_resid_pre", 1
SETTINGS = AblationSettings(
    corpus=TaskCorpus(source="unused", n_contexts=1), tokens=8, positions=4, baseline=3, gaussian=3, listed=2
)


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny models by family."""
    folders = {}
    for family in ("gpt2", "llama", "gemma2"):
        folders[family] = str(tmp_path_factory.mktemp("ablation") / family)
        build(family, folders[family])
    return folders


def run(
    model: LanguageModel,  # noqa: F811
    corpus: Corpus,  # noqa: F811
    *saes: SAE,
    site: str = SITE,
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> list[StudyResult]:
    setting = StudySetting(**{"port": Port(model, site), "seed": 0, "corpus": corpus} | more)
    return Ablation(setting, SETTINGS.model_copy(update=settings or {})).run(list(saes))


def values(result: StudyResult) -> dict[str, float | None]:
    return {score.name: score.value for score in result.scores}


def rows(result: StudyResult, table: str = "ablations", **where: Any) -> list[dict[str, Any]]:
    columns = result.tables[table]
    found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in found if all(row[key] == value for key, value in where.items())]


def same(a: StudyResult, b: StudyResult, tolerance: float = 0.0) -> None:
    """Check that two results say the same."""
    for one, other in zip(a.scores, b.scores, strict=True):
        assert (one.name, one.n, one.reason) == (other.name, other.n, other.reason)
        if one.value is not None:
            assert one.value == pytest.approx(other.value, abs=tolerance, rel=tolerance), one.name
    for name, columns in a.tables.items():
        for key, column in columns.items():
            if len(column) and isinstance(column[0], float):
                theirs = np.array(b.tables[name][key], dtype=float)
                assert_allclose(np.array(column, dtype=float), theirs, atol=tolerance, rtol=100 * tolerance)
            elif "suppressed" not in key and "promoted" not in key:
                assert list(column) == list(b.tables[name][key])


def effect(hf: Any, tokens: Tensor, position: int, change: Tensor, recon: Tensor | None) -> Tensor:
    """Return the change of logits at four positions of two whole forwards, with and without the change."""
    blocks = hf.transformer.h if hasattr(hf, "transformer") else hf.model.layers
    logits = []
    for added in (torch.zeros_like(change), change):

        def hook(_module, args, kwargs, added=added):
            acts = (args[0] if args else kwargs["hidden_states"]).clone()
            if recon is not None:
                acts[:, 1:] = recon[1:]
            acts[0, position] += added
            return ((acts, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": acts})

        handle = blocks[LAYER].register_forward_pre_hook(hook, with_kwargs=True)
        logits.append(hf(input_ids=tokens[None]).logits[0, position : position + 4])
        handle.remove()
    return (logits[1] - logits[0]).double()


def by_definition(e: Tensor) -> tuple[float, float, float]:
    """Return sparsity over all positions and at the first, and the share of the first."""
    e = e - e.median(1, keepdim=True).values
    all_, first = (float(x.abs().sum() ** 2 / x.square().sum() / x.numel()) for x in (e, e[0]))
    return all_, first, float(e[0].square().sum() / e.square().sum())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
@torch.inference_mode()
def test_every_ablation_is_a_full_forward_with_a_hook(named: dict[str, str], family: str) -> None:
    hf = AutoModelForCausalLM.from_pretrained(named[family]).eval()
    lm = load_model(named[family], device="cpu")
    tokens = torch.randint(4, 90, (6, 14), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = 1
    plain, normed = random_sae(k=4), random_sae(seed=3, k=3, normalisation="layer_norm")
    for sae, result in zip((plain, normed), run(lm, make_corpus(tokens), plain, normed), strict=True):
        found = rows(result, source="latents")
        assert len(found) == result.raw["ablations"] and len({(r["context"], r["position"]) for r in found}) == 8
        for row in found:
            acts = Port(lm, SITE).clean(tokens[row["context"], None]).acts[0]
            recon, dense = sae.reconstruct(acts), sae.encode(acts).to_dense()[row["position"]]
            assert dense[row["which"]] == pytest.approx(row["value"], rel=1e-5)
            without = dense.clone()
            without[row["which"]] = 0
            scale = acts[row["position"]].std() if sae is normed else 1.0
            change = scale * (without - dense) @ sae.W_dec
            for tail, spliced in (("", None), ("_spliced", recon)):
                e = effect(hf, tokens[row["context"]], row["position"], change, spliced)
                for name, value in zip(("sparsity", "sparsity_next", "next_share"), by_definition(e), strict=True):
                    assert row[f"{name}{tail}"] == pytest.approx(value, abs=1e-4)
        sparsities = np.array([row["sparsity"] for row in found])
        assert values(result)["ablation_sparsity"] == pytest.approx(sparsities.mean())
        assert values(result)["ablation_sparsity_median"] == pytest.approx(np.median(sparsities))
        for source, column in (("channels", "channels"), ("pca", "pca"), ("random", "random")):
            some = [row["sparsity"] for row in rows(result, source=source)]
            assert len(some) == 24 and values(result)[f"ablation_sparsity_{column}"] == pytest.approx(np.mean(some))
        for row in rows(result, source="channels")[:5]:
            change = torch.zeros(24)
            change[row["which"]] = -row["value"]
            e = effect(hf, tokens[row["context"]], row["position"], change, None)
            assert row["sparsity"] == pytest.approx(by_definition(e)[0], abs=1e-4)


@torch.inference_mode()
def test_latents_promote_what_their_ablation_takes_away(named: dict[str, str]) -> None:
    hf = AutoModelForCausalLM.from_pretrained(named["llama"]).eval()
    lm = load_model(named["llama"], device="cpu")
    tokens = torch.randint(4, 90, (6, 14), generator=torch.Generator().manual_seed(0))
    sae = random_sae(k=4)
    (result,) = run(lm, make_corpus(tokens), sae)
    found = rows(result, source="latents")
    for latent in rows(result, "ablated_latents")[:6]:
        own = [row for row in found if row["which"] == latent["latent"]]
        assert latent["ablations"] == len(own)
        assert latent["sparsity"] == pytest.approx(np.mean([row["sparsity"] for row in own]))
        e = torch.stack([
            effect(hf, tokens[r["context"]], r["position"], -r["value"] * sae.W_dec[r["which"]], None) for r in own
        ]).mean(0)  # fmt: skip
        for name, falls in (("next", -e[0]), ("later", -e[1:].mean(0))):
            falls = falls - falls.median()
            for what, sign in (("promoted", 1), ("suppressed", -1)):
                top = (sign * falls).topk(2)
                assert latent[f"{what}_{name}_ids"] == top.indices.tolist()
                assert_allclose(latent[f"{what}_{name}_logits"], (sign * top.values).numpy(), atol=1e-4)
                assert latent[f"{what}_{name}"] == [lm.tokenizer.decode([i]) for i in top.indices.tolist()]


def test_neither_batch_size_nor_other_saes_matter(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    saes = random_sae(seed=0), random_sae(seed=1, k=9)
    both = run(model, corpus, *saes)
    for one, other in zip(both, run(model, corpus, *saes, batch_size=3), strict=True):
        same(one, other, 1e-5)
    same(both[1], run(model, corpus, saes[1])[0], 1e-6)


@pytest.mark.parametrize("site", ["blocks.2.hook_mlp_out", "blocks.1.attn.hook_z"])
def test_other_sites(model: LanguageModel, corpus: Corpus, site: str) -> None:  # noqa: F811
    (result,) = run(model, corpus, random_sae(site=site), site=site)
    assert all(0 < row["sparsity"] <= 1 for row in rows(result))
    last = "2" in site
    first = [row["sparsity_next"] for row in rows(result, source="latents")]
    assert values(result)["ablation_sparsity_next"] == pytest.approx(np.mean(first))
    assert (values(result)["ablation_next_share"] == 1.0) == last, "behind the last block nobody looks back"
    assert any("whole context" in note for note in result.notes) == (not last)


def test_a_transcoder_changes_what_it_writes(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    read, written = "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"
    sae = random_sae(site=read, site_out=written)
    setting = StudySetting(port=Port(model, read, written), seed=0, corpus=corpus)
    (result,) = Ablation(setting, SETTINGS).run([sae])
    assert result.raw["ablations"] == 8 * 5 and 0 < (values(result)["ablation_sparsity"] or 0) < 1


def test_an_identity_spliced_is_the_clean_stream(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    (result,) = run(model, corpus, identity_sae())
    for row in rows(result, source="latents"):
        assert row["sparsity"] == pytest.approx(row["sparsity_spliced"], abs=1e-5)
    channels = {(r["context"], r["position"], r["which"]): r for r in rows(result, source="channels")}
    latents = {(r["context"], r["position"], r["which"] % 24): r for r in rows(result, source="latents")}
    assert len(channels) == 24
    for key, row in channels.items():
        assert row["sparsity"] == pytest.approx(latents[key]["sparsity"], abs=1e-5), "each of its latents is a channel's half"


def test_all_or_some_latents_of_a_token(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    whole, some = (run(model, corpus, random_sae(k=9), settings={"per_token": n})[0] for n in (None, 2))
    assert (whole.raw["ablations"], some.raw["ablations"]) == (72, 16)
    everything = {(r["context"], r["position"], r["which"]): r["sparsity"] for r in rows(whole, source="latents")}
    for row in rows(some, source="latents"):
        assert row["sparsity"] == pytest.approx(everything[row["context"], row["position"], row["which"]], abs=1e-5)


def test_tokens_are_spread_over_the_positions_and_have_room_behind_them(corpus: Corpus) -> None:  # noqa: F811
    many = make_corpus(torch.randint(4, 90, (50, 40), generator=torch.Generator().manual_seed(0)))
    sampled = sample_tokens(many, n=96, width=8, seed=1)
    assert sampled.position.min() >= 1 and sampled.position.max() <= 32
    assert len({*zip(sampled.context.tolist(), sampled.position.tolist(), strict=True)}) == 96
    counts = np.histogram(sampled.position, bins=np.arange(9) * 4 + 1)[0]
    assert (counts == 12).all(), "as many from each eighth"
    assert not np.array_equal(sampled.context, sample_tokens(many, n=96, width=8, seed=2).context)
    valid = torch.ones_like(corpus.tokens, dtype=torch.bool)
    valid[:10, 6:] = False
    padded = sample_tokens(make_corpus(corpus.tokens, valid), n=1000, width=4, seed=0)
    assert set(padded.position[padded.context < 10].tolist()) == {1, 2}
    assert set(padded.position[padded.context == 10].tolist()) == set(range(1, 12))


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_parts_hold_every_token_once_and_are_as_long_as_it_takes(corpus: Corpus, size: int) -> None:  # noqa: F811
    sampled = sample_tokens(corpus, n=20, width=3, seed=0)
    parts = list(in_parts(sampled, width=3, size=size))
    numbers = np.concatenate([part.number for part in parts])
    assert sorted(numbers.tolist()) == list(range(len(sampled.context)))
    contexts = np.concatenate([part.context for part in parts]).tolist()
    assert sorted(contexts) == np.unique(sampled.context).tolist()
    for part in parts:
        assert len(part.context) <= size and (np.diff(part.number) > 0).all()
        assert part.context[part.row].tolist() == sampled.context[part.number].tolist()
        assert part.length == (sampled.position[part.number] + 3).max()
    assert [part.length for part in parts] == sorted(part.length for part in parts)


def test_normal_effects_give_two_over_pi(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    draws = gaussian_sparsity(16, 20_000, draws=12, seed=0)
    error = draws.std(ddof=1) / math.sqrt(12)
    assert error < 1e-3 and abs(draws.mean() - 2 / math.pi) < 4 * error
    score = next(s for s in run(model, corpus, random_sae())[0].scores if s.name == "ablation_sparsity_gaussian")
    assert score.n == 3 and score.stderr and score.value == pytest.approx(2 / math.pi, abs=0.1)


def test_densities_quantiles_and_means_by_latent(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    sae = random_sae(s=40)
    (result,) = run(model, corpus, sae)
    acts = Port(model, SITE).clean(corpus.tokens).acts[corpus.scored]
    density = (sae.encode(acts).to_dense() != 0).double().mean(0).numpy()
    table = rows(result, "ablated_latents")
    assert_allclose([row["density"] for row in table], density[[row["latent"] for row in table]])
    assert result.raw["latents_dead"] == (density == 0).sum() and result.raw["tokens_read"] == len(acts)
    assert values(result)["ablation_sparsity_by_latent"] == pytest.approx(np.mean([row["sparsity"] for row in table]))
    series = {one.name: one for one in result.series}
    found = rows(result, source="latents")
    sparsity = np.array([row["sparsity"] for row in found])
    quantiles = series["ablation_sparsity_quantiles"]
    assert_allclose(np.array(quantiles.value, dtype=float), np.quantile(sparsity, quantiles.x))
    by = series["ablation_sparsity_by_density"]
    half = np.floor(2 * np.log10(density[[row["which"] for row in found]])).clip(max=-1)
    assert by.n is not None and sum(by.n) == len(found)
    assert_allclose(np.array(by.x), (np.unique(half) + 0.5) / 2)
    assert_allclose(np.array(by.value, dtype=float), [sparsity[half == h].mean() for h in np.unique(half)])


def test_silent_saes_say_so(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    silent, other = run(model, corpus, constant_sae(torch.zeros(24)), random_sae())
    found = {s.name: s for s in silent.scores}
    for name in ("ablation_sparsity", "ablation_sparsity_spliced", "ablation_sparsity_random", "ablation_sparsity_by_latent"):
        assert found[name].value is None and found[name].reason == "no latent is active at the sampled tokens"
    assert found["ablation_sparsity_channels"].value == values(other)["ablation_sparsity_channels"]
    assert silent.raw["latents_dead"] == 7 and "ablated_latents" not in silent.tables and not silent.series


def test_latents_without_effect_are_counted_and_left_out(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    sae = random_sae()
    none = SAE(sae.config, SAEWeights(**dict(sae.weights.items()) | {"W_dec": torch.zeros_like(sae.W_dec)}))
    (result,) = run(model, corpus, none)
    score = next(s for s in result.scores if s.name == "ablation_sparsity")
    assert score.value is None and score.reason == "no ablation changes a prediction"
    assert result.raw["ablations_without_effect"] == result.raw["ablations"] == 40
    w = sae.W_dec.clone()
    w[:20] = 0
    (half,) = run(model, corpus, SAE(sae.config, SAEWeights(**dict(sae.weights.items()) | {"W_dec": w})))
    found = rows(half, source="latents")
    assert {row["sparsity"] is None for row in found if row["which"] < 20} == {True}
    assert values(half)["ablation_sparsity"] == pytest.approx(np.mean([r["sparsity"] for r in found if r["which"] >= 20]))


def test_an_sae_that_is_not_finite_fails_alone(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    wild = SAE(
        SAEConfig(activation="relu", d_in=24, d_out=24, d_sae=4, name="wild", site=SITE),
        SAEWeights(W_enc=torch.zeros(24, 4), b_enc=torch.ones(4), W_dec=torch.full((4, 24), 3e38), b_dec=torch.zeros(24)),
    )
    bad, good = run(model, corpus, wild, random_sae())
    assert next(s for s in bad.scores if s.name == "ablation_sparsity_spliced").status == "failed"
    assert (values(good)["ablation_sparsity"] or 0) > 0


def test_through_the_command_line(named: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokens = np.random.default_rng(0).integers(4, 90, (6, 12))
    tokens[:, 0] = 1
    np.save(tmp_path / "tokens.npy", tokens)
    save_native(random_sae(), tmp_path / "sae")
    (tmp_path / "task.yaml").write_text(
        "name: mine\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: ablation\n"
        f"settings: {{corpus: {{source: {tmp_path / 'tokens.npy'}, n_contexts: 4}}, tokens: 6, positions: 4}}\n"
    )
    words = ["run", "--sae", str(tmp_path / "sae"), "--model", named["gpt2"], "--task", str(tmp_path / "task.yaml")]
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "out")]) == 0
    (path,) = find_records(tmp_path / "out")
    record = read_record(path)
    assert sorted(record.tables) == ["ablated_latents", "ablations"] and record.settings["study"] == "ablation@1"
    found = pq.read_table(path.with_name("seed0.ablations.parquet")).to_pydict()
    assert found["source"].count("latents") == 30 and set(found["token"]) <= set(tokens.flatten().tolist())
    latents = pq.read_table(path.with_name("seed0.ablated_latents.parquet")).to_pylist()
    assert all(len(row["promoted_next"]) == 10 and row["promoted_next"][0].startswith("w") for row in latents)
    capsys.readouterr()
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "more"), "--context-length", "4"]) == 2
    assert "mine: an effect over 4 positions does not fit contexts of 4 tokens" in capsys.readouterr().err.splitlines()[-1]
    text = (tmp_path / "task.yaml").read_text().replace("n_contexts: 4", "n_contexts: 4, context_length: 4")
    (tmp_path / "task.yaml").write_text(text)
    assert main([*words, "--device", "cpu", "--out", str(tmp_path / "more")]) == 2
    assert "4 positions do not fit contexts of 4 tokens, whose first is left out" in capsys.readouterr().err
    for name in ("ablation", "storyworld_ablation"):
        assert main(["show", "task", name]) == 0
        assert "study: ablation" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    for positions in (15, 99):
        with pytest.raises(InputError, match=r"an effect over \d+ positions does not fit contexts of 15 tokens"):
            run(model, corpus, random_sae(), settings={"positions": positions})
    valid = torch.zeros_like(corpus.tokens, dtype=torch.bool)
    valid[:, :4] = True
    with pytest.raises(InputError, match="no token is followed by 3 more"):
        run(model, make_corpus(corpus.tokens, valid), random_sae())
    (result,) = run(model, corpus, random_sae(), settings={"tokens": 1000, "positions": 14})
    assert result.raw["ablation_tokens"] == 11 and any("only 11 of 1000 tokens" in note for note in result.notes)

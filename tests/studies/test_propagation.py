"""The study propagation: identities, a plain Hugging Face forward with hooks, and what may not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor
from transformers import AutoModelForCausalLM

from saebench.data import Corpus
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.reference import model_folder
from saebench.sae import SAE, SAEConfig, SAEWeights, load_sae
from saebench.studies.base import StudyResult
from saebench.studies.propagation import passes
from saebench.studies.propagation import study as study_module
from tests.metrics.conftest import corpus, identity_sae, make_corpus, measure, model, random_sae  # noqa: F401  (fixtures too)
from tests.studies.propagation_cases import EARLY, LATE, MIDDLE, SETTINGS, at, rows, run, values

THREE = (at(EARLY, random_sae(seed=0)), at(MIDDLE, random_sae(seed=1), random_sae(seed=2, k=9)), at(LATE, random_sae(seed=3)))


def same(a: StudyResult, b: StudyResult) -> bool:
    tables = a.tables.keys() == b.tables.keys() and all(
        a.tables[t].keys() == b.tables[t].keys() and all(np.array_equal(a.tables[t][c], b.tables[t][c]) for c in a.tables[t])
        for t in a.tables
    )
    return (a.scores, a.raw, a.data) == (b.scores, b.raw, b.data) and tables


def test_an_identity_changes_nothing_at_all(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    saes = (at(EARLY, identity_sae()), at(MIDDLE, identity_sae(), random_sae(seed=1)), at(LATE, random_sae(seed=2)))
    results = run(model, corpus, *saes)
    for result in (results[0], results[1]):
        table = rows(result, "propagation")
        assert {row["metric"] for row in table} == {"mse", "l0", "norm"}
        for row in table:
            if "identity" in row["sae"] and row["metric"] == "mse":
                assert (row["clean"], row["spliced"], row["fraction"]) == (0.0, 0.0, None), "nothing to take a share of"
            else:
                assert row["fraction"] == 0.0 and row["stderr"] == 0.0 and row["clean"] == row["spliced"] > 0
        found = values(result)
        assert (found["propagation_l0"], found["propagation_norm"], found["delta_ce"]) == (0.0, 0.0, 0.0)
        missing = {s.name: str(s.reason) for s in result.scores if s.value is None}
        assert "does not vary" in missing["delta_ce_pearson"] and "not above 0" in missing["delta_ce_worst5"]
    assert values(results[2])["propagation_mse"] != 0.0 and values(results[2])["delta_ce"] != 0.0
    assert [row["pearson"] is None for row in rows(results[2], "correlations")] == [True, True, False]


def test_an_identity_inside_a_block_changes_nothing_either(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    sites = ("blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", "blocks.1.hook_mlp_out")
    results = run(model, corpus, *(at(site, identity_sae()) for site in sites), at("blocks.2.hook_resid_post", random_sae()))
    for result in results[:3]:
        fractions = [row["fraction"] for row in rows(result, "propagation") if "random" in row["sae"]]
        assert fractions == [0.0, 0.0, 0.0] and values(result)["delta_ce"] == 0.0


def test_a_plain_hooked_forward_of_the_bundled_model_says_the_same() -> None:
    folder = model_folder("reference")
    hf: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).eval()
    lm = load_model("reference", device="cpu")
    tokens = torch.randint(4, lm.d_vocab, (3, 24), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = lm.tokenizer.bos_token_id
    names = ("topk-layer1", "relu-l1-layer3", "topk-layer5")
    saes = [load_sae(f"reference:{name}").to(dtype=torch.float32) for name in names]
    layers = [1, 3, 5]
    assert [sae.config.site for sae in saes] == [f"blocks.{layer}.hook_resid_pre" for layer in layers]

    def forward(spliced: int | None) -> tuple[dict[int, Tensor], Tensor]:
        """Return (the stream before each block that is read, CE of every prediction) of one whole forward."""
        seen: dict[int, Tensor] = {}

        def hook(layer: int):
            def look(_module, args):
                acts = args[0]
                if spliced is not None and layers[spliced] == layer:
                    recon = saes[spliced].reconstruct(acts[:, 1:].flatten(0, 1)).view_as(acts[:, 1:])
                    return (torch.cat([acts[:, :1], recon], 1), *args[1:])
                seen[layer] = acts[:, 1:].flatten(0, 1)
                return None

            return look

        handles = [hf.transformer.h[layer].register_forward_pre_hook(hook(layer)) for layer in layers]
        with torch.inference_mode():
            logits = hf(tokens).logits
        for handle in handles:
            handle.remove()
        ce = torch.nn.functional.cross_entropy(logits[:, 1:-1].flatten(0, 1).double(), tokens[:, 2:].flatten(), reduction="none")
        return seen, ce

    def quantities(sae: SAE, acts: Tensor) -> list[float]:
        sse = (sae.reconstruct(acts).double() - acts.double()).square().sum()
        return [float(sse), float(sae.encode(acts).l0().sum()), float(acts.double().norm(dim=1).sum())]

    every = SETTINGS.model_copy(update={"sample": 1000})
    results = run(lm, make_corpus(tokens), *(at(str(sae.config.site), sae) for sae in saes), settings=every)
    sample = results[0].tables["token_delta_ce"]
    clean, ce_clean = forward(None)
    for i, result in enumerate(results):
        spliced, ce = forward(i)
        wanted = []
        for j in range(i + 1, 3):
            before, after = quantities(saes[j], clean[layers[j]]), quantities(saes[j], spliced[layers[j]])
            wanted += [(b / 69, a / 69, (a - b) / b) for b, a in zip(before, after, strict=True)]
        table = rows(result, "propagation") if i < 2 else []
        assert_allclose([(r["clean"], r["spliced"], r["fraction"]) for r in table], wanted, rtol=2e-4, atol=2e-5)
        column = next(key for key in sample if names[i] in key)
        assert_allclose(sample[column], (ce - ce_clean).numpy(), atol=2e-4)
        assert_allclose(sample["ce_clean"], ce_clean.numpy(), atol=2e-4)
        assert values(result)["delta_ce"] == pytest.approx(float((ce - ce_clean).mean()), abs=1e-4)


def test_each_sae_alone_is_what_the_task_core_says(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    results = run(model, corpus, *THREE)
    for n, (site, saes) in enumerate((site, sae) for site, some in THREE for sae in some):
        (alone,) = measure(Port(model, site), [saes], corpus)
        assert values(results[n])["delta_ce"] == pytest.approx(alone["delta_ce"].value, abs=1e-7)
        assert results[n].scores[3].stderr == pytest.approx(alone["delta_ce"].stderr, rel=1e-5)
        raw = {key: value or 0.0 for key, value in results[n].raw.items()}
        for ours, theirs in (("mse", "mse"), ("l0", "l0"), ("norm", "norm_in")):
            assert raw[f"sum_clean_{ours}"] / raw["tokens_scored"] == pytest.approx(alone[theirs].value, rel=1e-6)


def test_neither_the_order_nor_the_batch_size_matters(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    first, second, third, fourth = run(model, corpus, *THREE)
    early, middle, late = THREE
    shuffled = run(model, corpus, late, (middle[0], middle[1][::-1]), early)
    for one, other in zip((fourth, third, second, first), shuffled, strict=True):
        assert same(one, other)
    for one, other in zip((first, second, third, fourth), run(model, corpus, *THREE, batch_size=4), strict=True):
        assert one.tables.keys() == other.tables.keys()
        assert_allclose(*([v or 0.0 for v in values(result).values()] for result in (one, other)), rtol=1e-4, atol=1e-6)


def test_padding_moves_nothing(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    tokens = torch.cat([corpus.tokens, torch.zeros(11, 6, dtype=torch.long)], 1)
    valid = torch.cat([corpus.valid, torch.zeros(11, 6, dtype=torch.bool)], 1)
    for one, other in zip(run(model, corpus, *THREE), run(model, make_corpus(tokens, valid), *THREE), strict=True):
        assert_allclose(*([v or 0.0 for v in values(result).values()] for result in (one, other)), rtol=1e-4, atol=1e-6)
        assert one.raw["predictions"] == other.raw["predictions"] == 11 * 13


def test_the_first_position_is_spliced_if_asked(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    plain, bos = run(model, corpus, *THREE), run(model, corpus, *THREE, splice_bos=True)
    assert bool(corpus.valid.all()), "the corpus is left as it was"
    assert values(plain[0])["delta_ce"] != values(bos[0])["delta_ce"]
    assert plain[0].raw["sum_clean_mse"] == bos[0].raw["sum_clean_mse"], "it is not scored all the same"
    (alone,) = measure(Port(model, EARLY), list(THREE[0][1]), corpus, splice_bos=True)
    assert values(bos[0])["delta_ce"] == pytest.approx(alone["delta_ce"].value, abs=1e-7)


def test_scores_are_means_over_the_saes_behind_and_beside(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    results = run(model, corpus, *THREE)
    assert [len(rows(r, "propagation")) // 3 if "propagation" in r.tables else 0 for r in results] == [3, 1, 1, 0]
    found = {s.name: s for s in results[0].scores}
    for metric in ("mse", "l0", "norm"):
        fractions = [row["fraction"] for row in rows(results[0], "propagation") if row["metric"] == metric]
        assert found[f"propagation_{metric}"].value == pytest.approx(np.mean(fractions))
        assert found[f"propagation_{metric}"].n == 3
    only = rows(results[1], "propagation")
    for row, score in zip(only, results[1].scores, strict=False):
        assert (score.value, score.stderr) == (pytest.approx(row["fraction"]), pytest.approx(row["stderr"]))
    last = {s.name: s for s in results[3].scores}
    assert last["propagation_mse"].value is None and last["propagation_mse"].reason == "no SAE lies behind this one"
    for result in results:
        table = rows(result, "correlations")
        assert len(table) == 3 and all(row["n"] == 143 and row["overlap_chance"] == 8 / 143 for row in table)
        for name in ("pearson", "spearman", "overlap"):
            score = next(s for s in result.scores if s.name == f"delta_ce_{name}")
            assert score.value == pytest.approx(np.mean([row[name] for row in table]))
            assert score.stderr is not None and all(row[f"{name}_stderr"] >= (row[name] > 0) * 1e-4 for row in table)
    there, back = rows(results[0], "correlations")[2], rows(results[3], "correlations")[0]
    assert there["pearson"] == back["pearson"] and there["spearman_stderr"] == pytest.approx(back["spearman_stderr"])


def test_sampled_tokens_are_where_they_say(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    results = run(model, corpus, *THREE)
    sample = results[0].tables["token_delta_ce"]
    assert all(same(replace(one, scores=[], raw={}, tables={"t": one.tables["token_delta_ce"]}),
                    replace(one, scores=[], raw={}, tables={"t": sample})) for one in results)  # fmt: skip
    context, position = np.array(sample["context"]), np.array(sample["position"])
    assert len(context) == 40 and list(zip(context, position, strict=True)) == sorted({*zip(context, position, strict=True)})
    assert np.array_equal(sample["token"], corpus.tokens.numpy()[context, position])
    assert np.array_equal(sample["next_token"], corpus.tokens.numpy()[context, position + 1])
    assert len(sample) == 5 + 4
    other = run(model, corpus, *THREE, seed=1)[0].tables["token_delta_ce"]
    assert not np.array_equal(other["position"], sample["position"])


def test_saes_of_one_site_are_compared_and_nothing_propagates(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    for result in run(model, corpus, THREE[1]):
        assert "propagation" not in result.tables and len(rows(result, "correlations")) == 1
        assert values(result)["delta_ce_pearson"] is not None and values(result)["propagation_norm"] is None
        assert "nothing propagates" in result.notes[0]


def test_a_transcoder_and_an_sae_of_the_same_block(model: LanguageModel, corpus: Corpus) -> None:  # noqa: F811
    d = model.d_model
    config = SAEConfig(activation="relu", d_in=d, d_out=d, d_sae=30, name="across", site_out="blocks.1.hook_mlp_out")
    g = torch.Generator().manual_seed(4)
    weights = SAEWeights(
        W_enc=torch.randn(d, 30, generator=g),
        b_enc=torch.zeros(30),
        W_dec=torch.randn(30, d, generator=g) / 9,
        b_dec=torch.zeros(d),
    )
    across = at("blocks.1.mlp.hook_in", SAE(config, weights))
    first, second, third = run(model, corpus, at(EARLY, random_sae()), across, at(LATE, random_sae(seed=1)))
    assert [row["site"] for row in rows(first, "propagation")[::3]] == ["blocks.1.mlp.hook_in", LATE]
    assert [row["site"] for row in rows(second, "propagation")[::3]] == [LATE]
    (alone,) = measure(Port(model, "blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out"), list(across[1]), corpus)
    clean = {row["metric"]: row["clean"] for row in rows(first, "propagation")[:3]}
    assert clean["mse"] == pytest.approx(alone["mse"].value, rel=1e-5)
    assert "propagation" not in third.tables


def test_an_sae_whose_losses_overflow_is_left_out_of_what_the_others_are_compared_with(
    model: LanguageModel, corpus: Corpus, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    def overflows(*args, **options) -> passes.Found:
        found = passes.run_passes(*args, **options)
        delta = found.delta_ce.copy()
        delta[0, 5] = np.nan
        return replace(found, delta_ce=delta)

    plain = run(model, corpus, *THREE)
    monkeypatch.setattr(study_module, "run_passes", overflows)
    with np.errstate(all="ignore"):
        broken, *others = run(model, corpus, *THREE)
    found = {s.name: s for s in broken.scores}
    assert found["delta_ce"].status == "failed" and "not finite" in str(found["delta_ce_worst1"].reason)
    assert found["delta_ce_pearson"].value is None and all(r["pearson"] is None for r in rows(broken, "correlations"))
    for one, other in zip(others, plain[1:], strict=True):
        assert values(one)["delta_ce"] == values(other)["delta_ce"]
        assert next(s.n for s in one.scores if s.name == "delta_ce_pearson") == 2
        assert [r["pearson"] for r in rows(one, "correlations")[1:]] == [r["pearson"] for r in rows(other, "correlations")[1:]]

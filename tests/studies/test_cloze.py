"""The cloze study: identities, an oracle of plain forwards, and what is done with long texts and odd ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.cloze import Cloze, ClozeSettings
from saebench.studies.cloze.encoding import encode, make_rows
from saebench.studies.cloze.examples import Example
from saebench.trainers.reference_text import save_tokenizer, train_tokenizer
from tests.lm.families import build
from tests.metrics.conftest import identity_sae, random_sae
from tests.studies.cloze_cases import SITE, candidate_examples, last_word_examples, plain, run, values


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("cloze") / request.param
    build(request.param, str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random GPT-2 that reads storyworld by 400 tokens, so that most words are several."""
    folder = tmp_path_factory.mktemp("reader")
    tokenizer = train_tokenizer(vocab_size=400, n_documents=20, seed=0)
    save_tokenizer(tokenizer, folder, context_length=800)
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=800, n_embd=24, n_layer=3, n_head=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def generated(reader: LanguageModel, examples: str, answer: Any, n: int = 5, **options: Any) -> list[StudyResult]:
    settings = ClozeSettings(examples=examples, answer=answer, n=n, ngram_words=options.pop("ngram_words", 3000))
    saes = [random_sae(seed=1), identity_sae()]
    return Cloze(StudySetting(port=Port(reader, SITE), seed=0, **options), settings).run(saes)


@pytest.mark.parametrize("answer", ["candidates", "last_word"])
def test_an_identity_changes_nothing(model: LanguageModel, monkeypatch, answer: str):
    port = Port(model, SITE)
    examples = candidate_examples() if answer == "candidates" else last_word_examples(model)
    (result,) = run(port, [identity_sae()], examples, monkeypatch, answer=answer)
    found = values(result)
    assert found["acc_delta"] == 0 and found["mcnemar_p"] == 1
    assert abs(found["delta_lnp_mean"] or 0) < 1e-5 and abs(found["delta_lnp_median"] or 0) < 1e-5
    assert found["ce_spliced"] == pytest.approx(found["ce_clean"], abs=1e-5)
    assert found["n_clean_only"] == found["n_spliced_only"] == 0
    rows = result.tables["examples"]
    np.testing.assert_allclose(rows["lnp_spliced"], rows["lnp_clean"], atol=1e-5)


@pytest.mark.parametrize("splice_bos", [False, True])
def test_candidates_are_those_of_plain_forwards_with_a_hook(model: LanguageModel, monkeypatch, splice_bos: bool):
    port, sae, examples = Port(model, SITE), random_sae(seed=2), candidate_examples()
    (result,) = run(port, [sae], examples, monkeypatch, splice_bos=splice_bos)
    rows = result.tables["examples"]
    ce: list[list[float]] = [[], []]
    for number, example in enumerate(examples):
        for which, used in (("clean", None), ("spliced", sae)):
            sums, word_sums = [], []
            for candidate in example.candidates:
                lnp, _, prompt = plain(model, example, candidate, used, splice_bos=splice_bos)
                sums.append(lnp[prompt - 1 :].sum())
                word_sums.append(lnp[prompt - 1])
            assert rows[f"lnp_{which}"][number] == pytest.approx(sums[example.answer], abs=1e-4)
            assert rows[f"right_{which}"][number] == (int(np.argmax(sums)) == example.answer)
            assert rows[f"choice_{which}"][number] == example.candidates[int(np.argmax(sums))]
            assert rows[f"right_word_{which}"][number] == (int(np.argmax(word_sums)) == example.answer)
            ce[used is not None].append((-lnp[1 : prompt - 1]).tolist())
    for which, name in enumerate(("ce_clean", "ce_spliced")):
        score = next(s for s in result.scores if s.name == name)
        together = np.concatenate(ce[which])
        assert score.n == len(together) and score.value == pytest.approx(together.mean(), abs=1e-4)


def test_last_words_are_those_of_plain_forwards_with_a_hook(model: LanguageModel, monkeypatch):
    port, sae, examples = Port(model, SITE), random_sae(seed=2), last_word_examples(model, 12)
    (result,) = run(port, [sae], examples, monkeypatch, answer="last_word")
    rows, wanted = result.tables["examples"], []
    for number, example in enumerate(examples):
        clean, best_clean, prompt = plain(model, example, example.candidates[0])
        bent, best_bent, _ = plain(model, example, example.candidates[0], sae)
        assert rows["lnp_clean"][number] == pytest.approx(clean[prompt - 1 :].sum(), abs=1e-4)
        assert rows["lnp_spliced"][number] == pytest.approx(bent[prompt - 1 :].sum(), abs=1e-4)
        wanted.append((bool(best_clean[prompt - 1 :].all()), bool(best_bent[prompt - 1 :].all())))
    assert list(zip(rows["right_clean"], rows["right_spliced"], strict=True)) == wanted
    found = values(result)
    assert 0 < (found["acc_clean"] or 0) < 1, "the case must hold both kinds"
    assert found["n_both"] == wanted.count((True, True)) and found["n_clean_only"] == wanted.count((True, False))
    assert found["n_spliced_only"] == wanted.count((False, True)) and found["n_neither"] == wanted.count((False, False))


@pytest.mark.parametrize("examples", ["storyworld_lambada", "storyworld_cbt"])
def test_words_of_several_tokens_are_those_of_plain_forwards(reader: LanguageModel, examples: str):
    from saebench.studies.cloze.examples import SOURCES

    answer = "last_word" if examples.endswith("lambada") else "candidates"
    result = generated(reader, examples, answer, 4)[0]
    texts = SOURCES.get(examples)(0, 4, None).examples
    rows, several = result.tables["examples"], 0
    for number, example in enumerate(texts):
        for which, sae in (("clean", None), ("spliced", random_sae(seed=1))):
            lnp, _, prompt = plain(reader, example, example.candidates[example.answer], sae)
            several += len(lnp) - prompt + 1 > 1
            assert rows[f"lnp_{which}"][number] == pytest.approx(lnp[prompt - 1 :].sum(), abs=2e-3, rel=1e-5)
            assert rows[f"ce_{which}"][number] == pytest.approx(-lnp[1 : prompt - 1].mean(), abs=1e-4)
    assert several, "no word has several tokens"


def test_neither_batch_size_nor_order_nor_company_moves_a_score(model: LanguageModel, monkeypatch):
    port, examples = Port(model, SITE), candidate_examples(9)
    saes = [random_sae(seed=s) for s in range(3)]
    whole = run(port, saes, examples, monkeypatch)
    alone = run(port, saes[1:2], examples, monkeypatch, batch_size=1)
    turned = run(port, saes[1:2], examples[::-1], monkeypatch, batch_size=4)
    for other in (alone[0], turned[0]):
        for name, value in values(whole[1]).items():
            assert values(other)[name] == pytest.approx(value, abs=1e-5), name
    assert whole[1].data.sha256 == alone[0].data.sha256 != turned[0].data.sha256
    assert values(whole[0])["delta_lnp_mean"] != values(whole[1])["delta_lnp_mean"]


def test_one_row_a_candidate_gives_what_one_row_for_all_gives(model: LanguageModel, monkeypatch):
    port, examples, sae = Port(model, SITE), candidate_examples(), random_sae(seed=3)
    together = run(port, [sae], examples, monkeypatch)
    monkeypatch.setattr("saebench.studies.cloze.study.takes_branches", lambda *_: False)
    for name, value in values(run(port, [sae], examples, monkeypatch)[0]).items():
        assert values(together[0])[name] == pytest.approx(value, abs=1e-5), name


def test_a_longer_prompt_is_cut_at_the_left_and_counted(model: LanguageModel, monkeypatch):
    long = Example(prompt=" ".join(f"w{4 + i % 90}" for i in range(80)), candidates=("w5", "w6"), answer=0, rest=" w9 w8")
    short = candidate_examples(3)
    (result,) = run(Port(model, SITE), [identity_sae()], [*short, long], monkeypatch)
    assert result.raw["prompts_cut"] == 1 and result.raw["tokens_cut"] == 80 - (model.n_ctx - 3)
    assert "1 of 4 prompts" in result.notes[0] and result.data.context_length == model.n_ctx
    (one,) = encode([long], model.tokenizer, max_context=model.n_ctx)
    assert (one.trunk[0], one.trunk[-1]) == (1, 4 + 79) and one.length == model.n_ctx
    ids = torch.tensor([[*one.trunk, *one.branches[0]]])[:, :-1]
    logits = model.hf(input_ids=ids, use_cache=False).logits[0].double().log_softmax(1)
    want = sum(logits[len(one.trunk) - 1 + t, token].item() for t, token in enumerate(one.branches[0]))
    assert result.tables["examples"]["lnp_clean"][3] == pytest.approx(want, abs=1e-4)


def test_what_is_predicted_by_hand(model: LanguageModel):
    example = Example(prompt="w10 w11", candidates=("w20", "w21"), answer=0, rest=" w30")
    (one,) = encode([example], model.tokenizer, max_context=64)
    assert (one.trunk, one.branches, one.n_word, one.cut) == ([1, 10, 11], [[20, 30], [21, 30]], [1, 1], 0)
    (row,) = make_rows([one], side_by_side=True)
    assert row.tokens.tolist() == [1, 10, 11, 20, 21] and row.position.tolist() == [0, 1, 2, 3, 3]
    assert row.branch.tolist() == [0, 0, 0, 1, 2] and row.at.tolist() == [1, 2, 3, 2, 4]
    assert row.target.tolist() == [11, 20, 30, 21, 30] and row.candidate.tolist() == [-1, 0, 0, 1, 1]
    assert row.of_word.tolist() == [False, True, False, True, False]
    apart = make_rows([one], side_by_side=False)
    assert [r.counts for r in apart] == [True, False]
    assert apart[1].tokens.tolist() == [1, 10, 11, 21] and apart[1].at.tolist() == [2, 3]


def test_the_last_sentence_is_the_one_of_the_gap(reader: LanguageModel):
    example = Example(prompt='It rained. "Who has it?" asked Ann. Now it was', candidates=("Bo",), answer=0)
    assert example.last_sentence().prompt == "Now it was"
    assert Example(prompt="Now it was", candidates=("Bo",), answer=0).last_sentence().prompt == "Now it was"
    for result in generated(reader, "storyworld_cbt", "candidates", 6):
        assert {"acc_last_sentence", "acc_5gram", "acc_chance"} <= set(values(result))
        assert values(result)["acc_chance"] == pytest.approx(0.1)


def test_progress_is_told_of_all_that_was_announced(reader: LanguageModel):
    told: list[int] = []
    generated(reader, "storyworld_cbt", "candidates", 3, advance=told.append)
    settings = ClozeSettings(examples="storyworld_cbt", answer="candidates", n=3)
    assert sum(told) == Cloze(StudySetting(port=Port(reader, SITE), seed=0), settings).total() == 9


@pytest.mark.parametrize(
    ("example", "answer", "message"),
    [
        ({"answer": 2}, "candidates", "example 1: the answer is not among the candidates"),
        ({"candidates": ("w5", " ")}, "candidates", "example 1: a candidate is empty"),
        ({"candidates": ("w5", "w5")}, "candidates", "example 1: 'w5' is a candidate twice"),
        ({"candidates": ("w5",)}, "candidates", "example 1: 'w5' is the only candidate"),
        ({}, "last_word", "example 0: it has 2 candidates"),
        ({"rest": " w9" * 70}, "candidates", "example 1: what fills the gap is too long for a model of 64 positions"),
    ],
)
def test_an_example_that_cannot_be_scored_is_named(model: LanguageModel, monkeypatch, example, answer: str, message: str):
    good = Example(prompt="w5 w6", candidates=("w7", "w8"), answer=1)
    fields = {"prompt": "w5", "candidates": ("w7", "w8"), "answer": 0} | example
    with pytest.raises(InputError, match=message):
        run(Port(model, SITE), [identity_sae()], [good, Example(**fields)], monkeypatch, answer=answer)


def test_no_examples_and_no_such_source(model: LanguageModel, monkeypatch):
    settings = ClozeSettings(examples="storyworld_lambda", answer="last_word")
    with pytest.raises(InputError, match=r"unknown cloze source 'storyworld_lambda'\. Did you mean 'storyworld_lambada'"):
        Cloze(StudySetting(port=Port(model, SITE), seed=0), settings).run([identity_sae()])
    monkeypatch.setattr("saebench.studies.cloze.sources.storyworld.lambada", lambda *_: [])
    with pytest.raises(InputError, match="storyworld:lambada gives no examples"):
        Cloze(StudySetting(port=Port(model, SITE), seed=0), ClozeSettings(examples="storyworld_lambada", answer="last_word")).run(
            []
        )


def test_a_recon_that_is_not_finite_is_wrong_and_said_to_have_failed(model: LanguageModel, monkeypatch):
    broken = random_sae(seed=1)
    broken.weights.b_dec[0] = float("nan")
    examples = last_word_examples(model, 6)
    (result,) = run(Port(model, SITE), [broken], examples, monkeypatch, answer="last_word")
    by_name = {score.name: score for score in result.scores}
    assert by_name["acc_spliced"].value == 0 and by_name["delta_lnp_mean"].status == "failed"
    assert by_name["ce_clean"].value is not None and by_name["ce_spliced"].status == "failed"
    assert result.tables["examples"]["lnp_spliced"] == [None] * 6


def test_seeds_choose_examples_and_the_limit_their_number(reader: LanguageModel):
    one, other = (generated(reader, "storyworld_lambada", "last_word", 4, limit=limit)[0] for limit in (None, 3))
    assert (one.data.n_contexts, other.data.n_contexts) == (4, 3)
    assert other.tables["examples"]["answer"] == one.tables["examples"]["answer"][:3]


def test_stories260k(shared_dir: Path):
    """On a real small model the identity stays the identity, and an SAE of it costs something."""
    from saebench.sae import load_sae

    model = load_model(str(shared_dir / "models/stories260K"), device="cpu")
    sae = load_sae(shared_dir / "saes/stories260K/saelens-relu")
    assert sae.config.site is not None
    settings = ClozeSettings(examples="storyworld_lambada", answer="last_word", n=8, ngram_words=0)
    results = Cloze(StudySetting(port=Port(model, sae.config.site), seed=0), settings).run([sae, identity_sae(model.d_model)])
    spliced, same = map(values, results)
    assert (spliced["ce_spliced"] or 0) - (spliced["ce_clean"] or 0) > 0.1
    assert same["ce_spliced"] == pytest.approx(same["ce_clean"], abs=1e-5)
    assert same["delta_lnp_mean"] == pytest.approx(0, abs=1e-4)

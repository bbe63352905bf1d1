"""The whole study, from a tiny GPT-2 to records' rows: planted acts, what may not matter, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from saebench.data import packing
from saebench.data.spec import CorpusSpec
from saebench.data.storyworld import VARIABLES, tokens
from saebench.data.storyworld.tokens import token_labels
from saebench.errors import InputError
from saebench.lm.model import LanguageModel
from saebench.lm.port import Clean, Port
from saebench.record import Score
from saebench.registry import STUDIES
from saebench.sae import SAE, SAEConfig, SAEWeights
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.truth import Truth, TruthSettings
from saebench.studies.truth import columns as columns_module
from saebench.studies.truth.columns import Latents
from saebench.studies.truth.text import read_halves
from saebench.tasklist import StudyTask, load_task
from saebench.trainers.reference_text import END, train_tokenizer  # pyright: ignore[reportMissingImports]
from tests.studies.truth_cases import copying_sae

SITE = "blocks.1.hook_resid_pre"
D, S = 24, 64
FEW = TruthSettings(n_contexts=24, context_length=64, min_tokens=8, min_contexts=3)
MEANS = ("f1_adjusted", "f1", "auc", "mi", "mi_share", "recovered")


@pytest.fixture(scope="module", autouse=True)
def few_documents_at_once():
    """Make no more text than is needed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_AT_ONCE", 16)
        patch.setattr(tokens, "_AT_ONCE", 16)
        yield


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    core: Tokenizer = train_tokenizer(vocab_size=500, n_documents=30, seed=0)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END)


@pytest.fixture(scope="module")
def port(tokenizer) -> Port:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=500, n_positions=128, n_embd=D, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    return Port(LanguageModel(GPT2LMHeadModel(config), tokenizer, id="tiny"), SITE)


def topk(seed: int = 0, *, d: int = D, s: int = S, k: int | None = 6, **config: Any) -> SAE:
    g = torch.Generator().manual_seed(seed)
    w = torch.nn.functional.normalize(torch.randn(s, d, generator=g), dim=1)
    return SAE(
        SAEConfig(**{"activation": "topk", "d_in": d, "d_out": d, "d_sae": s, "k": k, "name": "t", "site": SITE} | config),
        SAEWeights(W_enc=w.T.contiguous(), b_enc=0.1 * torch.randn(s, generator=g), W_dec=w, b_dec=torch.zeros(d)),
    )


def run(port: Port, *saes: SAE, settings: TruthSettings = FEW, seed: int = 0, **setting: Any) -> list[StudyResult]:
    study = Truth(StudySetting(port=port, seed=seed, **setting), settings)
    return study.run(saes)


def values(result: StudyResult) -> dict[str, float]:
    return {row.name: row.value for row in result.scores if row.value is not None}


def score_of(result: StudyResult, name: str) -> Score:
    return next(row for row in result.scores if row.name == name)


@pytest.fixture(scope="module")
def result(port) -> StudyResult:
    return run(port, topk())[0]


class PlantedPort(Port):
    """A site whose acts say of every token which kind of every variable holds."""

    def __init__(self, model: LanguageModel, settings: TruthSettings, seed: int) -> None:
        super().__init__(model, SITE)
        size: dict[str, Any] = {"n_contexts": settings.n_contexts, "context_length": settings.context_length}
        halves = read_halves(Port(model, SITE), seed=seed, **size)
        spec = CorpusSpec(source="storyworld:eval")
        names = list(VARIABLES)
        labels = [token_labels(half.corpus, spec, model.tokenizer, names, seed=2 * seed + i) for i, half in enumerate(halves)]
        kinds = {name: len(VARIABLES[name].values) for name in names}  # some are found only as text is made
        self.names = [[name, kind] for name in names for kind in VARIABLES[name].values]
        self.width = len(self.names)
        self.known: dict[tuple[int, ...], Tensor] = {}
        for half, own in zip(halves, labels, strict=True):
            acts = torch.cat([one_hot(own[name].long().clamp(min=0), n) for name, n in kinds.items()], 2).float()
            self.known |= {tuple(row): of for row, of in zip(half.corpus.tokens.tolist(), acts, strict=True)}

    def clean(self, tokens: Tensor, *, final: bool = True) -> Clean:
        assert not final
        acts = torch.stack([self.known[tuple(row)] for row in tokens.tolist()])
        return Clean(tokens, acts, acts, acts, None)


def test_an_sae_that_holds_the_labels_scores_1_and_its_neurons_do_too(port):
    planted = PlantedPort(port.model, FEW, seed=3)
    [found] = run(planted, copying_sae(planted.width), seed=3)
    rows = {name: np.array(column) for name, column in found.tables["kinds"].items()}
    assert (rows["f1_selection"][np.isin(rows["source"], ["sae", "neurons"])] == 1).all()
    own = rows["source"] == "sae"
    pairs = [list(pair) for pair in zip(rows["variable"], rows["kind"], strict=True)]
    exact = own & np.array([planted.names[int(latent)] == pair for latent, pair in zip(rows["latent"], pairs, strict=True)])
    assert exact.sum() > 0.8 * own.sum()  # in so little text some kinds of two variables hold at the same tokens of a half
    for name in ("f1", "f1_adjusted", "auc", "mi_share"):
        assert_allclose(rows[name][exact], 1.0)
        for tail in ("", "_neurons"):
            assert 0.95 < values(found)[f"truth_{name}{tail}"] <= 1.0 + 1e-9
    assert values(found)["truth_f1_adjusted_random"] < 0.9 and values(found)["truth_recovered_random"] < 0.9
    n = score_of(found, "truth_f1_adjusted").n
    assert n is not None and n >= 25
    assert set(rows["asked"]) == {"presence", "absence"}


def test_every_score_series_and_row_is_there(result):
    assert {row.name for row in result.scores} == {spec.name for spec in Truth.specs} and len(result.scores) == 25
    for row in result.scores:
        assert row.status == "ok" and row.stderr is not None and row.unit_n == "variables"
        assert row.value is not None and 0 <= row.value <= 1.5
        assert row.better == ("none" if row.name.endswith(("_neurons", "_pca", "_random", "_chance")) else "higher")
    kinds, variables = result.tables["kinds"], result.tables["variables"]
    n_questions, n_variables = int(result.raw["truth_questions"]), int(result.raw["truth_variables"])
    assert {len(column) for column in kinds.values()} == {4 * n_questions}
    assert {len(column) for column in variables.values()} == {4 * n_variables}
    assert score_of(result, "truth_f1").n == n_variables
    assert [s.name for s in result.series] == [f"truth_f1_adjusted_by_variable{t}" for t in ("", "_neurons", "_pca", "_random")]
    assert all(len(s.x) == len(VARIABLES) and sum(s.n or []) == n_questions for s in result.series)
    assert result.raw["truth_l0"] == pytest.approx(6, abs=0.5) and result.raw["truth_random_k"] == 6


def test_means_are_those_of_the_rows(result):
    kinds = {name: np.array(column) for name, column in result.tables["kinds"].items()}
    found = values(result)
    for source in ("sae", "neurons", "pca", "random"):
        mine = kinds["source"] == source
        tail = "" if source == "sae" else f"_{source}"
        for name in ("f1_adjusted", "f1", "auc", "mi", "mi_share"):
            per = [kinds[name][mine & (kinds["variable"] == v)].mean() for v in dict.fromkeys(kinds["variable"])]
            assert found[f"truth_{name}{tail}"] == pytest.approx(np.mean(per))
            assert score_of(result, f"truth_{name}{tail}").stderr == pytest.approx(np.std(per, ddof=1) / len(per) ** 0.5)
            if name == "f1_adjusted":
                assert found[f"truth_recovered{tail}"] == pytest.approx(np.mean(np.array(per) >= 0.5))
    chance = 2 * (p := kinds["n"] / (result.data.n_tokens_scored / 2)) / (1 + p)
    assert_allclose(kinds["f1_chance"], chance, rtol=0.02)  # the halves differ by a few separators
    assert (kinds["n"] >= 8).all() and (kinds["n_selection"] >= 8).all()
    assert set(kinds["sign"][kinds["source"] == "sae"]) == {1} and set(kinds["sign"][kinds["source"] == "pca"]) == {1, -1}


def test_where_the_text_comes_from(result, port):
    data = result.data
    assert (data.corpus, data.n_contexts, data.context_length) == ("storyworld:eval", 24, 64)
    first, second = read_halves(port, seed=0, n_contexts=24, context_length=64)
    assert data.n_tokens_scored == len(first.labelled) + len(second.labelled) == len(first.acts) + len(second.acts)
    assert not torch.equal(first.corpus.tokens, second.corpus.tokens)
    other = read_halves(port, seed=1, n_contexts=24, context_length=64)
    four = [half.corpus.tokens for half in (first, second, *other)]
    assert len({tuple(row.tolist()) for tokens in four for row in tokens}) == 48
    assert run(port, topk(), seed=1)[0].data.sha256 != data.sha256


def test_acts_stand_beside_their_labels(port):
    first, _ = read_halves(port, seed=0, n_contexts=24, context_length=64, batch_size=5)
    labels = token_labels(first.corpus, CorpusSpec(source="storyworld:eval"), port.model.tokenizer, ["shape"], seed=0)["shape"]
    acts = port.clean(first.corpus.tokens).acts
    at = 0
    for i, row in enumerate(first.corpus.tokens.tolist()):
        for j, token in enumerate(row):
            if j and token != port.model.tokenizer.eos_token_id:
                assert first.labelled.context[at] == i and first.labelled.labels["shape"][at] == labels[i, j]
                assert_allclose(first.acts[at], acts[i, j], atol=1e-5)
                at += 1
    assert at == len(first.labelled)


def test_batch_size_other_saes_and_the_order_of_latents_change_nothing(port, result):
    order = torch.randperm(S, generator=torch.Generator().manual_seed(5))
    sae = topk()
    w = sae.weights
    shuffled = SAE(sae.config, replace(w, W_enc=w.W_enc[:, order], b_enc=w.b_enc[order], W_dec=w.W_dec[order]))
    found = run(port, topk(1, s=128, k=9), shuffled, topk(), batch_size=7)
    for one in found[1:]:
        for name, value in values(result).items():
            if name.endswith("_pca"):  # components are worked out from acts whose last bits move with the batch size
                assert values(one)[name] == pytest.approx(value, abs=0.02), name
            else:
                assert values(one)[name] == pytest.approx(value, abs=1e-6), name
    latents = [np.array(one.tables["kinds"]["latent"], dtype=float) for one in (found[1], result)]
    mine = np.array(result.tables["kinds"]["source"]) == "sae"
    assert_allclose(order.numpy()[latents[0][mine].astype(int)], latents[1][mine])
    assert values(found[0])["truth_f1_adjusted"] != values(result)["truth_f1_adjusted"]
    assert found[0].raw["truth_random_d_sae"] == 128


def test_a_limit_and_progress(port):
    told: list[int] = []
    study = Truth(StudySetting(port=port, seed=0, limit=16, batch_size=3, advance=told.append), FEW)
    [found] = study.run([topk()])
    assert found.data.n_contexts == study.total() == sum(told) == 16 and told == [3, 3, 2, 3, 3, 2]
    assert Truth(StudySetting(port=port, seed=0), FEW).total() == 24


def test_an_sae_of_the_centred_stream_sees_it(port):
    plain = topk(activation="relu", k=None)
    w = plain.weights
    centred = replace(w, W_enc=w.W_enc - w.W_enc.mean(0))  # (x − mean_D x) W = x (W − mean_D W)
    folded = SAE(plain.config, centred)
    expecting = plain.with_config(residual="centred")
    found = [values(one) for one in run(port, expecting, folded, plain)]
    assert found[0]["truth_f1"] == pytest.approx(found[1]["truth_f1"], abs=1e-3)
    assert found[0]["truth_f1"] != pytest.approx(found[2]["truth_f1"], abs=1e-3)


def test_better_dictionaries_score_higher(port):
    less = FEW.model_copy(update={"n_contexts": 12})
    planted = PlantedPort(port.model, less, seed=0)
    g = torch.Generator().manual_seed(0)
    saes = []
    for amount in (0.0, 0.05, 0.3):
        sae = copying_sae(planted.width)
        blend = torch.eye(planted.width) + amount * torch.randn(planted.width, planted.width, generator=g)
        saes.append(SAE(sae.config, replace(sae.weights, W_enc=blend)))
    found = [values(one) for one in run(planted, *saes, settings=less)]
    for name in ("f1_adjusted", "f1", "auc", "mi_share", "recovered"):
        scores = [one[f"truth_{name}"] for one in found]
        assert np.diff(scores).max() < 0, (name, scores)


def test_an_sae_that_overflows_has_no_scores_and_spoils_no_others(port, result):
    sae = topk(activation="relu", k=None, normalisation="constant_scale", norm_scale=1e10)
    broken = SAE(sae.config, replace(sae.weights, W_enc=sae.weights.W_enc * 1e38))
    found = run(port, broken, topk())
    for row in found[0].scores:
        ours = not row.name.endswith(("_neurons", "_pca", "_random", "_chance"))
        assert row.status == ("failed" if ours else "ok") and (not ours or "overflowed" in (row.reason or ""))
    assert "sae" not in found[0].tables["kinds"]["source"]
    assert values(found[1]) == values(result)


def test_refusals(port):
    with pytest.raises(InputError, match=r"two halves of the text need a context each, 1 is too few; use --limit 2 or more"):
        run(port, topk(), limit=1)
    with pytest.raises(InputError, match=r"too few for any question.*give more contexts with --limit"):
        run(port, topk(), limit=2)
    slow = copy.copy(port)
    slow.model = copy.copy(port.model)
    slow.model.tokenizer = SimpleNamespace(is_fast=False, bos_token_id=0, eos_token_id=0)
    with pytest.raises(InputError, match="gives no offsets of its tokens; labels need a fast tokenizer"):
        run(slow, topk())
    with pytest.raises(InputError, match=r"contexts of 256 tokens do not fit the model, which takes 128"):
        run(port, topk(), settings=TruthSettings(context_length=256))


def test_little_memory_changes_nothing(port, result, monkeypatch):
    monkeypatch.setattr(columns_module, "MAX_ENTRIES", 2000)
    blocks = list(Latents(topk()).blocks(read_halves(port, seed=0, n_contexts=24, context_length=64)[0].acts))
    assert len(blocks) > 2
    assert values(run(port, topk())[0]) == pytest.approx(values(result), abs=1e-5)


def test_the_task_file_holds_the_defaults():
    assert STUDIES.get("truth") is Truth
    task = load_task("truth")
    assert isinstance(task, StudyTask)
    assert TruthSettings.model_validate(task.settings) == TruthSettings()
    assert task.version == Truth.version and task.study == "truth"

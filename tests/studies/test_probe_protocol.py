"""The study ``probes`` by the protocol of the package sae-probes: from texts to a record's rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.sae import SAE
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.probes import Probes, ProbesSettings, protocol
from saebench.studies.probes import study as study_module
from saebench.studies.probes.examples import MissingProbe
from saebench.studies.probes.ksparse import held_out, k_sparse
from saebench.studies.settings import settings_record, study_of
from saebench.tasklist import StudyTask, load_task
from tests.lm.families import build
from tests.metrics.conftest import random_sae
from tests.studies.cloze_cases import SITE
from tests.studies.test_probe_study import TASKS, Planted, table, values
from tests.studies.truth_cases import copying_sae

KS = (1, 5, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("protocol") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def port(model: LanguageModel) -> Port:
    return Port(model, SITE)


@pytest.fixture(autouse=True)
def given(monkeypatch):
    monkeypatch.setenv("SAEBENCH_CACHE", "off")

    def put(*tasks: Any) -> None:
        monkeypatch.setattr(study_module, "load_examples", lambda *_, **__: iter(tasks))
        monkeypatch.setattr(study_module, "probe_tasks", lambda _: list(tasks))

    put(*TASKS)
    return put


def run(port: Port, *saes: SAE, setting: dict[str, Any] | None = None, **settings: Any) -> list[StudyResult]:
    chosen = ProbesSettings(**{"protocol": "sae_probes", "ks": KS, "bootstrap": 20} | settings)
    return Probes(StudySetting(port=port, seed=0, **(setting or {})), chosen).run(saes)


def test_a_planted_latent_is_found(model):
    [found] = run(Planted(model, SITE), copying_sae(8), ks=(1, 2))
    got = values(found)
    for tail in ("k1", "k2", "acts"):
        assert got[f"k_sparse_auc_{tail}"] == got[f"k_sparse_acc_{tail}"] == got[f"k_sparse_f1_{tail}"] == 1.0
    assert [latents[0] for latents in table(found)["latents"]] == [3] * 6


def test_every_score_and_row_is_there(port):
    [found] = run(port, random_sae())
    tails = [*(f"k{k}" for k in KS), "acts"]
    assert [row.name for row in found.scores] == [f"k_sparse_{name}_{tail}" for tail in tails for name in ("auc", "acc", "f1")]
    assert {row.name for row in found.scores} <= {spec.name for spec in Probes.specs}
    for row in found.scores:
        assert row.status == "ok" and row.n == 3 and row.unit_n == "tasks" and row.stderr is not None
        assert row.better == ("none" if row.name.endswith("_acts") else "higher")
    rows, acts, got = table(found), table(found, "acts"), values(found)
    assert rows["k"].tolist() == [*KS] * 3 and acts["k"].tolist() == [None] * 3 and rows["task"].tolist()[::3] == ["a", "b", "c"]
    for name in ("auc", "acc", "f1"):
        for k in KS:
            assert got[f"k_sparse_{name}_k{k}"] == pytest.approx(rows[name][rows["k"] == k].astype(float).mean())
        assert got[f"k_sparse_{name}_acts"] == pytest.approx(acts[name].astype(float).mean())
    assert [len(latents) for latents in rows["latents"][:3]] == [1, 5, 40]  # the SAE has 40
    assert {name: pa.array(column) for name, column in found.tables["tasks"].items()}
    assert found.series[0].x == [*KS] and found.series[0].value == [pytest.approx(got[f"k_sparse_auc_k{k}"]) for k in KS]
    assert found.raw["probe_tasks"] == 3 and found.data.n_contexts == 220


def test_rows_are_what_the_probes_say(port):
    """Latents by a plain forward; texts that were not dealt in random order have the held-out ones drawn."""
    shuffled = replace(TASKS[0], shuffled=True)
    model, sae = port.model, random_sae()
    import torch

    ids = [[1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in shuffled.texts]
    with torch.no_grad():
        acts = torch.stack([model.hf(torch.tensor([i]), output_hidden_states=True).hidden_states[1][0, -1] for i in ids])
    latents = csr_array(sae.encode(acts).to_dense().numpy())
    for one, rng in ((shuffled, None), (TASKS[0], np.random.default_rng(0))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(study_module, "load_examples", lambda *_, given=one, **__: iter([given]))
            [found] = run(port, sae)
        expected, order = k_sparse(latents, one.labels, one.is_train, held_out(40, rng), KS, "l1")
        rows = table(found)
        for i, k in enumerate(KS):
            assert rows["latents"][i] == order[:k].tolist()
            assert rows["auc"][i] == pytest.approx(expected[k].auc, abs=1e-6) and rows["c"][i] == expected[k].c


def test_neither_other_saes_nor_batch_size_matter_and_the_penalty_does(port):
    plain = run(port, random_sae())[0]
    [_, again] = run(port, random_sae(seed=5, s=64), random_sae())
    assert values(again) == values(plain)
    [other] = run(port, random_sae(), setting={"batch_size": 7})
    for name, value in values(other).items():  # where L-BFGS stops on the acts hangs on rounding
        assert value == pytest.approx(values(plain)[name], abs=0.05 if name.endswith("_acts") else 1e-6), name
    other = values(run(port, random_sae(), norm="l2")[0])
    assert other["k_sparse_auc_k64"] != values(plain)["k_sparse_auc_k64"]
    assert other["k_sparse_auc_acts"] == values(plain)["k_sparse_auc_acts"]


def test_an_sae_that_overflows_has_no_scores(port):
    plain = random_sae(activation="relu", k=None, normalisation="constant_scale", norm_scale=1e10)
    broken = SAE(plain.config, replace(plain.weights, W_enc=plain.weights.W_enc * 1e38))
    [found] = run(port, broken)
    status = {row.name: row.status for row in found.scores}
    assert {status[f"k_sparse_auc_k{k}"] for k in KS} == {"failed"} and status["k_sparse_auc_acts"] == "ok"
    assert set(found.tables["tasks"]["source"]) == {"acts"} and found.series == []


def test_what_cannot_be_had_is_named_and_every_step_is_told(port, given):
    given(MissingProbe("gone", "gone: not in the mirror; fetch it"), *TASKS)
    told: list[int] = []
    study = Probes(StudySetting(port=port, seed=0, advance=told.append), ProbesSettings(protocol="sae_probes", bootstrap=20))
    [found] = study.run([random_sae()])
    assert sum(told) == study.total() == 8
    assert found.missing == ("gone: not in the mirror; fetch it",) and found.raw["probe_tasks_missing"] == 1


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"ks": [1, 3]}, "some of 1, 2, 4, 5, 8"),
        ({"ks": []}, "some of 1, 2, 4, 5, 8"),
        ({"ks": [2, 2]}, "each once"),
        ({"protocol": "sae_probes", "latents": "pre"}, "latents post, pooling last"),
        ({"protocol": "sae_probes", "pooling": "max"}, "latents post, pooling last"),
    ],
)
def test_settings_that_do_not_go_together(settings, why):
    task = load_task("sae_probes")
    assert isinstance(task, StudyTask)
    with pytest.raises(InputError, match=why):
        study_of(task.model_copy(update={"settings": settings}))


def test_a_record_names_the_settings_that_move_a_number():
    for name, there, idle in (("sae_probes", "ks", "l2"), ("storyworld_probes", "l2", "ks")):
        task = load_task(name)
        assert isinstance(task, StudyTask)
        told = settings_record(task)["settings"]
        assert there in told and idle not in told and set(told) <= set(ProbesSettings.model_fields)
        assert study_of(task.model_copy(update={"settings": told}))[1] == study_of(task)[1]


def test_the_task_file_asks_for_the_113_by_this_protocol(monkeypatch):
    monkeypatch.undo()
    task = load_task("sae_probes")
    assert isinstance(task, StudyTask)
    _, settings = study_of(task)
    assert isinstance(settings, ProbesSettings) and settings.protocol == "sae_probes" and settings.norm == "l1"
    assert set(settings.ks) == set(protocol.KS) and settings.context_length == 1024
    assert len(study_module.probe_tasks(settings.tasks)) == 113

"""The study ``probes`` from texts to a record's rows: planted acts, what may not matter, what is missing and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from saebench.cli import main
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Clean, Port
from saebench.record import Score
from saebench.registry import STUDIES
from saebench.sae import SAE, save_native
from saebench.sae.pursuit import Pursuit
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.probes import Probes, ProbesSettings
from saebench.studies.probes import study as study_module
from saebench.studies.probes.examples import MissingProbe, ProbeExamples
from saebench.studies.probes.scores import BASELINES, BESIDE, KS, SPECS
from saebench.tasklist import StudyTask, load_task
from tests.lm.families import build
from tests.metrics.conftest import random_sae
from tests.studies.cloze_cases import SITE, words
from tests.studies.truth_cases import copying_sae

FEW: dict[str, Any] = {"bootstrap": 20}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("probes") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def port(model: LanguageModel) -> Port:
    return Port(model, SITE)


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("SAEBENCH_CACHE", "off")


def task(name: str, *, n: int = 80, seed: int = 0, **changes: Any) -> ProbeExamples:
    """Return texts whose last word is above w50 for yes, and any other words before it."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2 == 0
    texts = [
        words(*rng.integers(4, 96, rng.integers(1, 9)), int(rng.integers(51, 96) if yes else rng.integers(4, 51)))
        for yes in labels
    ]
    is_train = np.arange(n) < n // 2
    fields = {"name": name, "texts": tuple(texts), "labels": labels, "is_train": is_train} | changes
    return ProbeExamples(**fields)


TASKS = (task("a"), task("b", seed=1), task("c", seed=2, n=60))


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """Put tasks in the place of those of files, named by their numbers."""

    def put(*tasks: ProbeExamples | MissingProbe) -> None:
        monkeypatch.setattr(study_module, "load_examples", lambda *_, **__: iter(tasks))
        monkeypatch.setattr(study_module, "probe_tasks", lambda _: list(tasks))

    put(*TASKS)
    return put


def run(port: Port, *saes: SAE, setting: dict[str, Any] | None = None, **settings: Any) -> list[StudyResult]:
    return Probes(StudySetting(port=port, seed=0, **(setting or {})), ProbesSettings(**FEW | settings)).run(saes)


def values(result: StudyResult) -> dict[str, float]:
    return {row.name: row.value for row in result.scores if row.value is not None}


def score_of(result: StudyResult, name: str) -> Score:
    return next(row for row in result.scores if row.name == name)


def table(result: StudyResult, source: str = "sae") -> dict[str, np.ndarray]:
    rows = {name: np.array(column, dtype=object) for name, column in result.tables["tasks"].items()}
    return {name: column[rows["source"] == source] for name, column in rows.items()}


class Planted(Port):
    """A site whose channel 3 says of the token just read whether it is above w50, and whose other channels are noise."""

    def clean(self, tokens: Tensor, *, final: bool = True) -> Clean:
        assert not final
        noise = torch.sin(tokens[..., None] * torch.arange(1.0, 9.0) * 12.9898)
        acts = torch.where(torch.arange(8) == 3, (tokens > 50).float()[..., None], noise)
        return Clean(tokens, acts, acts, acts, None)


@pytest.fixture(scope="module")
def result(port) -> StudyResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEBENCH_CACHE", "off")
        patch.setattr(study_module, "load_examples", lambda *_, **__: iter(TASKS))
        return run(port, random_sae())[0]


@pytest.mark.parametrize("latents", ["post", "pre"])
@pytest.mark.parametrize("pooling", ["last", "max"])
def test_a_planted_latent_is_found(model, latents, pooling, given):
    alone = [replace(one, texts=tuple(text.split()[-1] for text in one.texts)) for one in TASKS]
    given(*(alone if pooling == "max" else TASKS))
    [found] = run(Planted(model, SITE), copying_sae(8), latents=latents, pooling=pooling)
    rows, got = table(found), values(found)
    assert rows["latent"].tolist() == [3, 3, 3] and rows["separable"].all() and (rows["weight"] > 0).all()
    for tail in ("", "_neurons", "_acts"):
        assert got[f"probe_acc{tail}"] == got[f"probe_auc{tail}"] == got["probe_f1"] == 1.0
        assert got[f"probe_loss{tail}"] < 0.1
    assert got["probe_separable"] == 1 and got["probe_loss_train_min"] < 0.01
    assert table(found, "neurons")["latent"].tolist() == [3, 3, 3]
    assert got["probe_loss_permuted"] > 0.6 and got["probe_loss_train_min_permuted"] > 0.4
    assert got["probe_loss_base"] == pytest.approx(np.log(2))


def test_every_score_series_and_row_is_there(result):
    assert [row.name for row in result.scores] == [spec.name for spec in SPECS]
    assert len({spec.name for spec in SPECS}) == len(SPECS)
    for row in result.scores:
        assert row.status == "ok" and row.n == 3 and row.unit_n == "tasks" and row.stderr is not None
        beside = row.name.endswith((*(f"_{tail}" for tail in BASELINES), "_acts", "_base", "_permuted", "_separable"))
        assert (row.better == "none") == beside, row.name
    rows = result.tables["tasks"]
    assert {len(column) for column in rows.values()} == {15}  # five dictionaries, three tasks
    arrow = pa.table({name: pa.array(column) for name, column in rows.items()})
    assert arrow.column("latents").to_pylist()[0][0] == rows["latent"][0] and len(rows["latents"][0]) == max(KS)
    assert [s.name for s in result.series] == [f"probe_loss_by_task{t}" for t in ("", "_neurons", "_pca", "_random", "_acts")]
    assert result.raw["probe_tasks"] == 3 and result.raw["probe_fits_unconverged"] == 0 and result.raw["probe_random_k"] == 5
    assert result.data.n_contexts == 220 and result.data.n_tokens_scored == 220 and result.missing == ()


def test_scores_are_means_of_rows(result):
    got = values(result)
    for tail in ("", "_neurons", "_pca", "_random"):
        rows = table(result, tail[1:] or "sae")
        for name in BESIDE if tail else ("loss", "acc", "f1", "auc", "loss_k5", "acc_k2", "auc_k16", "loss_permuted"):
            assert got[f"probe_{name}{tail}"] == pytest.approx(rows[name].astype(float).mean())
        assert all(value is not None for name in ("f1", "loss_k2", "auc_k16", "loss_permuted") for value in rows[name])
        assert (rows["loss_train"] < rows["loss_base"] + 1e-9).all()
    assert got["probe_loss_train_min"] == pytest.approx(table(result)["loss_train"].astype(float).mean())
    assert (table(result)["loss_stderr"] > 0).all() and (result.raw["probe_loss_stderr_examples"] or 0) > 0
    assert score_of(result, "probe_loss").stderr != result.raw["probe_loss_stderr_examples"]


def test_the_best_latent_is_the_best_of_all_by_a_plain_loop(port, model, result):
    """One latent at a time, on a plain forward, with scipy."""
    from scipy.optimize import minimize

    sae, one, rows = random_sae(), TASKS[2], table(result)
    ids = [[1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]] for text in one.texts]
    with torch.no_grad():
        acts = torch.stack([model.hf(torch.tensor([i]), output_hidden_states=True).hidden_states[1][0, -1] for i in ids])
    latents = sae.encode(acts).to_dense().double().numpy()
    x, y = latents[one.is_train], one.labels[one.is_train]
    losses = []
    for j in range(x.shape[1]):
        scale = x[:, j].std() or 1.0

        def ce(c: np.ndarray, j: int = j) -> np.ndarray:
            z = c[0] * x[:, j] + c[1]
            return np.logaddexp(0, z) - y * z

        best = minimize(lambda c, s=scale, f=ce: f(c).mean() + 0.5e-4 * (c[0] * s) ** 2, [0.0, 0.0], method="BFGS").x
        losses.append(float(ce(best).mean()))
    assert rows["latent"][2] == int(np.argmin(losses))
    assert rows["loss_train"][2] == pytest.approx(min(losses), abs=1e-5)
    z = latents[~one.is_train, rows["latent"][2]] * rows["weight"][2] + rows["bias"][2]
    assert rows["acc"][2] == ((z > 0) == one.labels[~one.is_train]).mean()


def test_neither_batch_size_nor_other_saes_nor_the_order_of_latents_matter(port, result):
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    plain = random_sae()
    w = plain.weights
    shuffled = SAE(plain.config, replace(w, W_enc=w.W_enc[:, order], b_enc=w.b_enc[order], W_dec=w.W_dec[order]))
    found = run(port, random_sae(seed=5, s=64), shuffled, plain, setting={"batch_size": 7})
    assert values(found[2])["probe_loss"] == pytest.approx(values(result)["probe_loss"], abs=1e-5)
    for name in ("probe_loss", "probe_auc", "probe_loss_k5", "probe_loss_train_min", "probe_loss_neurons", "probe_loss_random"):
        assert values(found[1])[name] == pytest.approx(values(result)[name], abs=1e-4), name
    assert (order.numpy()[table(found[1])["latent"].astype(int)] == table(result)["latent"]).all()
    assert values(found[0])["probe_loss"] != values(found[1])["probe_loss"]


def test_pooling_and_centring(port):
    single = values(run(port, random_sae(), pooling="mean")[0])
    assert single["probe_loss"] != values(run(port, random_sae())[0])["probe_loss"]
    plain = random_sae(activation="relu", k=None)
    centred = replace(plain.weights, W_enc=plain.weights.W_enc - plain.weights.W_enc.mean(0))
    expecting, folded = plain.with_config(residual="centred"), SAE(plain.config, centred)
    for latents in ("post", "pre"):
        found = [values(one)["probe_loss"] for one in run(port, expecting, folded, plain, latents=latents)]
        assert found[0] == pytest.approx(found[1], abs=1e-3) and found[0] != pytest.approx(found[2], abs=1e-3)


def test_before_a_relu_nothing_is_lost(port):
    """With biases that keep every latent active, latents before and after the activation are the same."""
    sae = random_sae(activation="relu", k=None)
    high = SAE(sae.config, replace(sae.weights, b_enc=torch.full((40,), 100.0)))
    post, pre = (values(run(port, high, latents=latents)[0]) for latents in ("post", "pre"))
    for name in ("probe_loss", "probe_loss_train_min", "probe_auc", "probe_loss_k5"):
        assert pre[name] == pytest.approx(post[name], abs=1e-3)


def test_matching_pursuit_has_no_pre_activations(port, result):
    sae = random_sae().with_config(
        activation="matching_pursuit", k=None, pursuit=Pursuit(residual_threshold=0.0, max_iterations=3)
    )
    found = run(port, sae, random_sae(), latents="pre")
    ours = [row for row in found[0].scores if not row.name.endswith(("_neurons", "_pca", "_acts", "_base"))]
    assert {row.status for row in ours} == {"undefined"}
    assert all("matching pursuit has no pre-activations" in (row.reason or "") for row in ours)
    assert [row.name for row in found[0].scores] == [row.name for row in result.scores]
    assert score_of(found[1], "probe_loss").status == "ok"
    assert run(port, sae)[0].scores[0].status == "ok"


def test_an_sae_that_overflows_has_no_scores_and_spoils_no_others(port, result):
    plain = random_sae(activation="relu", k=None, normalisation="constant_scale", norm_scale=1e10)
    broken = SAE(plain.config, replace(plain.weights, W_enc=plain.weights.W_enc * 1e38))
    found = run(port, broken, random_sae())
    failed = {row.name for row in found[0].scores if row.status == "failed"}
    assert {"probe_loss", "probe_auc", "probe_loss_k5"} <= failed and not any(n.endswith("_neurons") for n in failed)
    assert "sae" not in found[0].tables["tasks"]["source"]
    assert values(found[1]) == pytest.approx(values(result), abs=1e-5)


def test_what_cannot_be_had_is_named_and_the_rest_goes_on(port, given):
    one_class = task("d", labels=np.arange(80) >= 40)
    given(MissingProbe("gone", "gone: not in the mirror; fetch it"), *TASKS, one_class)
    told: list[int] = []
    setting = StudySetting(port=port, seed=0, advance=told.append)
    study = Probes(setting, ProbesSettings(**FEW))
    [found] = study.run([random_sae()])
    assert sum(told) == study.total() == 15
    assert found.missing[0] == "gone: not in the mirror; fetch it"
    assert "d: its training texts are not of both classes" in found.missing[1] and len(found.missing) == 2
    assert found.raw["probe_tasks_missing"] == 2 and score_of(found, "probe_loss").n == 3
    given(MissingProbe("gone", "gone: not in the mirror; fetch it"))
    with pytest.raises(InputError, match=r"no probe task of gao61/\* can be had; the first: gone: not in the mirror; fetch it"):
        run(port, random_sae())


def test_a_run_without_all_its_tasks_is_incomplete(model, tmp_path: Path, given, capsys):
    given(MissingProbe("gone", "gone: not in the mirror; fetch it"), *TASKS)
    save_native(random_sae(), tmp_path / "sae")
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, version: 1, description: d, study: probes, settings: {bootstrap: 20}, citation: none, licence: MIT}"
    )
    words = ["run", "--sae", str(tmp_path / "sae"), "--task", str(tmp_path / "mine.yaml"), "--model", model.id, "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 3
    assert "mine: gone: not in the mirror; fetch it" in capsys.readouterr().err
    [path] = find_records(tmp_path / "out")
    record = read_record(path)
    assert record.score("probe_loss").n == 3 and record.settings["settings"]["bootstrap"] == 20
    table = pq.read_table(path.with_name("seed0.tasks.parquet"))
    assert table.num_rows == 15 and {"latents", "loss_stderr", "origin"} <= set(table.column_names)


def test_texts_that_are_cut_are_counted(port):
    [found] = run(port, random_sae(), context_length=4)
    texts, tokens = found.raw["texts_cut"] or 0, found.raw["tokens_cut"] or 0
    assert 0 < texts < tokens
    assert found.data.context_length == 4 and "are longer than 4 positions; cut at the left" in found.notes[0]


def test_acts_are_kept_for_the_next_run(model, tmp_path: Path, monkeypatch, result):
    monkeypatch.setenv("SAEBENCH_CACHE", str(tmp_path))
    port = Port(model, SITE)
    first = run(port, random_sae())[0]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3
    monkeypatch.setattr(Port, "clean", None)  # whoever runs the model now fails
    again = run(port, random_sae())[0]
    assert values(again) == values(first) and values(first) == pytest.approx(values(result), abs=1e-6)


def test_the_task_file_holds_the_defaults_and_names_24_tasks_or_more(monkeypatch):
    monkeypatch.undo()
    assert STUDIES.get("probes") is Probes
    spec = load_task("storyworld_probes")
    assert isinstance(spec, StudyTask) and spec.study == "probes" and spec.version == Probes.version
    settings = ProbesSettings.model_validate(spec.settings)
    assert settings.model_copy(update={"tasks": ProbesSettings().tasks}) == ProbesSettings()
    names: Sequence[Any] = study_module.probe_tasks(settings.tasks)
    assert len(names) >= 24 and all(one.name.startswith("storyworld/") for one in names)

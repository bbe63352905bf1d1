"""The study on latents that are known beforehand, its sample, what may not matter, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from saebench.cli import main
from saebench.config import make_config
from saebench.errors import InputError
from saebench.lm.model import LanguageModel, load_model
from saebench.lm.port import Port
from saebench.plan import tasks_of
from saebench.registry import STUDIES
from saebench.sae import SAE, save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudySetting
from saebench.studies.n2g import N2G, N2GSettings
from saebench.studies.n2g.sampling import Kept, stratified
from saebench.studies.settings import settings_record, study_of
from saebench.tasklist import StudyTask, load_task
from tests.lm.families import build
from tests.metrics.conftest import random_sae
from tests.studies.n2g_cases import PlantedPort, behind_bos, planted_corpus, planted_sae, rows, run, settings, values

A, B, C, D = 5, 6, 7, 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("n2g") / "gpt2"
    build("gpt2", str(folder))
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def planted(model: LanguageModel) -> tuple[PlantedPort, SAE]:
    """A site, and latents that fire on: A; A B; A * B; ^ C; never; A or B; after A; A twice as much as behind B."""
    port = PlantedPort(model)
    at = port.place
    sae = planted_sae(
        port,
        {at(A): 1.0},
        {at(B): 1.0, at(A, 1): 1.0},
        {at(B): 1.0, at(A, 2): 1.0},
        {at(C): 1.0, port.position(1): 1.0},
        {at(A): 1.0},
        {at(A): 1.0, at(B): 2.0},
        {at(A, 1): 1.0},
        bias=[0.0, -1.0, -1.0, -1.0, -2.0, 0.0, 0.0],
    )
    return port, sae


def test_known_latents_get_their_patterns(planted: tuple[PlantedPort, SAE]):
    [found] = run(planted[0], planted_corpus(), planted[1], latents="all")
    table = rows(found)
    assert [row["patterns"].split("\n") for row in table[:4]] == [['" w5"'], ['" w5" " w6"'], ['" w5" * " w6"'], ['^ " w7"']]
    assert sorted(table[5]["patterns"].split("\n")) == ['" w5"', '" w6"'] and table[6]["patterns"] == '" w5" *'
    for row in table[:4] + table[5:]:
        for tail in ("", "_backtracking"):
            assert row[f"precision{tail}"] == row[f"recall{tail}"] == row[f"f1{tail}"] == row[f"f1_all{tail}"] == 1.0, row
    dead = table[4]
    assert dead["status"] == "dead" and dead["f1"] is None and dead["patterns"] == "" and dead["n_matched"] == 0
    assert {row["status"] for row in table[:4]} == {"ok"}
    score = values(found)
    assert score["n2g_f1"] == score["n2g_f1_mass"] == score["n2g_explained"] == score["n2g_precision_backtracking"] == 1.0
    assert score["n2g_patterns"] == pytest.approx(7 / 6)
    assert score["n2g_pattern_length"] == pytest.approx((1 + 2 + 3 + 1 + 1 + 2) / 6)
    assert score["n2g_wildcards"] == pytest.approx((1 / 3 + 1 / 2) / 6) and score["n2g_at_start"] == pytest.approx(1 / 6)
    assert found.raw["n2g_latents_dead"] == found.raw["n2g_sae_dead"] == 1 and found.raw["n2g_latents_judged"] == 6
    acts = {(row["latent"], row["pattern"]): row["act"] for row in rows(found, "n2g_patterns")}
    assert acts[5, '" w6"'] == 2.0 and acts[5, '" w5"'] == 1.0
    assert next(r for r in rows(found, "n2g_patterns") if r["latent"] == 2)["tokens_from_last"] == [B, -1, A]
    assert any("1 of 7 latents are dead" in note for note in found.notes)
    blocks = found.texts["n2g_patterns"].split("\n\n")[1:]
    assert len(blocks) == 7 and blocks[-1] == "latent 4: dead\n"
    [block] = [b for b in blocks if b.startswith("latent 3:")]
    assert block.startswith("latent 3: F1 1.00, precision 1.00, recall 1.00, fires at ") and block.endswith('\n    ^ " w7"    1')


def test_all_counts_by_hand(planted: tuple[PlantedPort, SAE]):
    """A latent that its patterns explain in part: it fires on A and behind B, but not where D stands two before."""
    port = planted[0]
    corpus = planted_corpus()
    half, tokens = len(corpus.tokens) // 2, corpus.tokens
    first = tokens[:half]
    first[first == D] = C  # no pattern can know of D
    first[:, 1:][(first[:, 1:] == A) & (first[:, :-1] != B)] = C  # nor of A without B
    sae = planted_sae(port, {port.place(A): 1.0, port.place(B, 1): 1.0, port.place(D, 2): -9.0}, bias=[-0.9])
    [found] = run(port, corpus, sae, latents="all", n_recall=1000)
    [row] = rows(found)
    second = tokens[half:]
    behind, early = (torch.nn.functional.pad(second, (n, 0))[:, : second.shape[1]] for n in (1, 2))
    behind = behind == B
    fires = (((second == A) | behind) & (early != D))[:, 1:]
    # behind B the latent is worth 0.1, at A behind B 1.1: A and B both matter there, and behind B any token will do
    assert set(row["patterns"].split("\n")) == {'" w6" " w5"', '" w6" *'}
    want = behind[:, 1:]
    tp, matched, n = int((want & fires).sum()), int(want.sum()), int(fires.sum())
    assert (row["n_matched"], row["n_right"], row["n_fires"], row["n_recall"]) == (matched, tp, n, n)
    precision, recall = tp / matched, tp / n
    assert row["precision"] == precision and row["recall"] == row["recall_all"] == recall and 0 < recall < 1 and 0 < precision < 1
    assert row["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert row["f1_all"] == pytest.approx(2 * tp / (matched + n))
    density = n / int(corpus.scored[half:].sum())
    assert values(found)["n2g_f1_always"] == pytest.approx(2 * density / (1 + density))


def test_latents_that_are_silent_in_a_half_are_named(planted: tuple[PlantedPort, SAE]):
    corpus = planted_corpus()
    corpus.tokens[:60][corpus.tokens[:60] == A] = C
    corpus.tokens[60:][corpus.tokens[60:] == B] = C
    port = planted[0]
    sae = planted_sae(port, {port.place(A): 1.0}, {port.place(B): 1.0}, {port.place(C): 1.0}, bias=[0.0, 0.0, 0.0])
    [found] = run(port, corpus, sae, latents=(0, 1, 2))
    table = rows(found)
    assert [row["status"] for row in table] == ["silent in the first half", "silent in the second half", "ok"]
    assert [row["f1"] for row in table] == [None, None, 1.0] and table[1]["patterns"] == '" w6"'
    assert next(s for s in found.scores if s.name == "n2g_f1").n == 1
    assert any("2 of 3 latents fire fewer times than asked (16 to build from and 16 to judge by)" in note for note in found.notes)
    [few] = run(port, planted_corpus(8), sae, latents=(2,), n_build=1000, n_recall=1000)
    row = rows(few)[0]
    assert row["n_build"] == row["n_first"] > 0 and row["n_recall"] == row["n_fires"] > 0
    assert "1 of 1 latents fire fewer times than asked" in few.notes[0]


def test_where_nothing_fires_scores_say_so(planted: tuple[PlantedPort, SAE]):
    port = planted[0]
    sae = planted_sae(port, {port.place(A): 1.0}, bias=[-5.0])
    for latents in ("all", 10):
        [found] = run(port, planted_corpus(10), sae, latents=latents)
        for score in found.scores:
            assert (
                score.value is None and score.status == "undefined" and "no latent that was chosen fires" in (score.reason or "")
            )
        assert len(rows(found)) == (latents == "all")


@pytest.fixture(scope="module")
def site(model: LanguageModel) -> Port:
    return Port(model, "blocks.1.hook_resid_pre")


@pytest.fixture(scope="module")
def text() -> Tensor:
    tokens = torch.randint(4, 60, (40, 20), generator=torch.Generator().manual_seed(5))
    tokens[:, 0] = 1
    return tokens


def test_batch_size_and_other_saes_change_nothing(site: Port, text: Tensor):
    corpus = behind_bos(text)
    sae = random_sae(s=60)
    [found] = run(site, corpus, sae, latents=10, n_build=6, n_recall=6)
    table = rows(found)
    assert len(table) == 10 and values(found)["n2g_f1"] not in (0.0, 1.0, None)
    again = run(
        site, corpus, random_sae(seed=4, activation="relu", k=None), sae, latents=10, n_build=6, n_recall=6, batch_size=30
    )
    assert values(again[1]) == pytest.approx(values(found), abs=1e-9)
    for one, other in zip(rows(again[1]), table, strict=True):
        assert one == {**other, "mass": pytest.approx(other["mass"], rel=1e-5)}
    assert values(again[0])["n2g_f1"] != values(found)["n2g_f1"]
    other_seed = rows(run(site, corpus, sae, latents=10, n_build=6, n_recall=6, seed=1)[0])
    assert [row["latent"] for row in other_seed] != [row["latent"] for row in table]
    assert found.raw["n2g_pad_token"] == 3, "this vocabulary has none of the signs, so its unknown token"
    for score in found.scores:
        assert score.status == "ok" and score.stderr is not None and score.n is not None and score.n <= 10


def test_means_weights_and_errors_are_those_of_the_rows(site: Port, text: Tensor):
    corpus = behind_bos(text)
    [found] = run(site, corpus, random_sae(s=60), latents="all", n_build=4, bootstrap=4000)
    table = [row for row in rows(found) if row["status"] == "ok"]
    mass = np.array([row["mass"] for row in table])
    f1 = np.array([row["f1"] for row in table])
    score = {s.name: s for s in found.scores}
    assert score["n2g_f1"].value == pytest.approx(f1.mean()) and score["n2g_f1_mass"].value == pytest.approx(
        (mass * f1).sum() / mass.sum()
    )
    assert score["n2g_f1"].stderr == pytest.approx(f1.std() / len(f1) ** 0.5, rel=0.05)
    assert score["n2g_explained"].value == pytest.approx((f1 > 0.5).mean())
    matched = [row["precision"] for row in table if row["n_matched"]]
    assert score["n2g_precision"].value == pytest.approx(np.mean(matched)) and score["n2g_precision"].n == len(matched)
    [series] = found.series
    assert sum(series.n or []) == len(table) and series.x == sorted(series.x)


def test_an_sae_that_overflows_has_no_scores_and_spoils_no_others(site: Port, text: Tensor):
    corpus = behind_bos(text)
    sae = random_sae(activation="relu", k=None, normalisation="constant_scale", norm_scale=1e5)
    broken = SAE(sae.config, replace(sae.weights, W_enc=sae.weights.W_enc * 1e38))
    found = run(site, corpus, broken, sae, latents=10, n_build=3)
    assert {score.status for score in found[0].scores} == {"failed"}
    assert values(found[1]) == values(run(site, corpus, sae, latents=10, n_build=3)[0])


def test_progress_is_told_to_the_end(site: Port, text: Tensor):
    corpus = behind_bos(text[:5])
    told: list[int] = []
    study = N2G(StudySetting(port=site, seed=0, corpus=corpus, advance=told.append, batch_size=2), settings(latents=3, n_build=2))
    study.run([random_sae(), random_sae(seed=1)])
    assert sum(told) == study.total() == 10 and min(told) > 0


def test_refusals(site: Port, text: Tensor):
    corpus = behind_bos(text)
    with pytest.raises(InputError, match=r"random has no latent 40: it has 40, numbered from 0; mend the setting latents"):
        run(site, corpus, random_sae(), latents=(3, 40))
    with pytest.raises(InputError, match="has no latent -1"):
        run(site, corpus, random_sae(), latents=(-1,))
    with pytest.raises(InputError, match="list of latents is empty"):
        run(site, corpus, random_sae(), latents=())
    with pytest.raises(InputError, match="pad_token 96 is no token"):
        run(site, corpus, random_sae(), pad_token=96)
    one = behind_bos(text[:1])
    with pytest.raises(InputError, match="has one context; patterns are built on one half and judged on the other: give two"):
        run(site, one, random_sae())


@pytest.mark.parametrize("latents", [0, -3, "some", 2.5, True, [1, "a"], [[1]], None])
def test_which_latents_is_said_in_one_line(latents: object):
    task = load_task("n2g")
    assert isinstance(task, StudyTask)
    bad = task.model_copy(update={"settings": task.settings | {"latents": latents}})
    said = "task 'n2g', settings: latents: say how many latents (1 or more), all, or a list of their indices"
    with pytest.raises(InputError) as caught:
        study_of(bad)
    assert str(caught.value) == said
    for good in (1, "all", [3], (3, 5)):
        assert settings(latents=good).latents == (tuple(good) if isinstance(good, list) else good)


def test_one_latent_of_each_stratum():
    density = np.concatenate([[0, 0], np.arange(1, 99)]).astype(np.int64)
    seen = set()
    for seed in range(40):
        chosen = stratified(density, 7, torch.Generator().manual_seed(seed))
        assert [(latent - 2) // 14 for latent in chosen.tolist()] == list(range(7))
        seen |= set(chosen.tolist())
    assert len(seen) > 90 and not seen & {0, 1}
    assert stratified(density, 98, torch.Generator()).tolist() == list(range(2, 100))
    assert stratified(density, 500, torch.Generator()).tolist() == list(range(2, 100))


def test_kept_activations_are_random_and_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    latent, place = (part.ravel().astype(np.int64) for part in np.meshgrid(np.arange(500), np.arange(40), indexing="ij"))
    whole, parts = Kept(500, 8, seed=3), Kept(500, 8, seed=3)
    whole.add(latent, latent, place, place * 0.5)
    for some in np.array_split(rng.permutation(len(latent)), 17):
        parts.add(latent[some], latent[some], place[some], place[some] * 0.5)
    times = np.zeros(40)
    for i in range(500):
        kept, of = whole.of(i)
        assert len(set(kept.tolist())) == 8 and (of == kept * 0.5).all()
        assert (parts.of(i)[0] == kept).all() and (parts.of(i)[1] == of).all()
        times[kept] += 1
    assert abs(times - 100).max() < 40  # 500 draws at 8 / 40 each, deviation 9
    other = Kept(500, 8, seed=4)
    other.add(latent, latent, place, place * 0.5)
    assert sum((other.of(i)[0][0] == whole.of(i)[0][0]) for i in range(500)) < 50
    few = Kept(2, 8, seed=0)
    few.add(np.array([1, 1]), np.array([1, 1]), np.array([5, 9]), np.zeros(2))
    assert sorted(few.of(1)[0].tolist()) == [5, 9] and not len(few.of(0)[0])


TASK = """
name: patterns
version: 1
description: d
study: n2g
settings: {corpus: {source: CORPUS, n_contexts: 40, context_length: 16}, latents: LATENTS, n_build: 4, n_recall: 4}
citation: none
licence: MIT
"""


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(), tmp_path / "sae")
    rng = np.random.default_rng(0)
    (tmp_path / "some.txt").write_text(" ".join(f"w{i}" for i in rng.integers(4, 60, 700)))
    (tmp_path / "some.yaml").write_text(TASK.replace("CORPUS", str(tmp_path / "some.txt")).replace("LATENTS", "12"))
    (tmp_path / "bad.yaml").write_text(TASK.replace("CORPUS", str(tmp_path / "some.txt")).replace("LATENTS", "[4, 40]"))
    words = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    words += ["--out", str(tmp_path / "out"), "--task"]
    assert main([*words, str(tmp_path / "some.yaml")]) == 0
    [path] = find_records(tmp_path / "out")
    record = read_record(path)
    assert {score.name for score in record.scores} == {spec.name for spec in N2G.specs}
    table = pq.read_table(path.with_name(record.tables["n2g"].file)).to_pydict()
    assert len(table["latent"]) == 12 and all(text for text in table["patterns"])
    assert pq.read_table(path.with_name(record.tables["n2g_patterns"].file)).num_rows >= 12
    readable = path.with_name(record.texts["n2g_patterns"].file)
    assert readable.name == "seed0.n2g_patterns.txt" and readable.read_text().count("latent ") == 12
    readable.write_text("other")
    assert main([*words, str(tmp_path / "some.yaml")]) == 0 and readable.read_text().count("latent ") == 12, "made again"
    capsys.readouterr()
    assert main([*words, str(tmp_path / "bad.yaml"), "--out", str(tmp_path / "bad")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "saebench: patterns: sae has no latent 40: it has 40, numbered from 0; mend the setting latents"
    assert main([*words, str(tmp_path / "some.yaml"), "--all", "--out", str(tmp_path / "all")]) == 0
    [path] = find_records(tmp_path / "all")
    assert pq.read_table(path.with_name("seed0.n2g.parquet")).column("latent").to_pylist() == list(range(40))
    capsys.readouterr()
    assert main([*words, str(tmp_path / "some.yaml"), "--out", str(tmp_path / "all")]) == 2
    assert "was made with settings latents=all, now it is latents=12; use --force" in capsys.readouterr().err
    more = ["--task", "core", "--corpus", str(tmp_path / "some.txt"), "--context-length", "16", "--limit", "2"]
    assert main([*words, str(tmp_path / "bad.yaml"), *more, "--out", str(tmp_path / "bad")]) == 3, "core goes on"
    assert "failed: sae × patterns × seed 0: sae has no latent 40" in capsys.readouterr().err
    assert [read_record(found).task.name for found in find_records(tmp_path / "bad")] == ["core"]


def test_all_takes_the_place_of_the_sample():
    config = make_config(tasks=("n2g", "explanation", "core"), all_latents=True)
    n2g, explanation, core = tasks_of(config)[0]
    for task in (n2g, explanation):
        assert isinstance(task, StudyTask) and task.settings == load_task(task.name).settings | {"latents": "all"}
        assert study_of(task)[1].latents == "all" and settings_record(task)["settings"]["latents"] == "all"
    assert core == load_task("core") and n2g != load_task("n2g") == tasks_of(make_config(tasks=("n2g",)))[0][0]
    with pytest.raises(InputError, match="--all does not apply to core, ablation: no sample of latents is taken there"):
        tasks_of(make_config(tasks=("core", "ablation"), all_latents=True))


def test_task_files_hold_the_defaults():
    assert STUDIES.get("n2g") is N2G
    for name in ("n2g", "storyworld_n2g"):
        task = load_task(name)
        assert isinstance(task, StudyTask) and task.study == "n2g"
        given = N2GSettings.model_validate(task.settings)
        assert given == N2GSettings(corpus=given.corpus) and given.corpus.context_length == 64

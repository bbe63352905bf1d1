"""What scores are means of, SAEs compared item by item, and how far scores agree on an order."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats as scipy_stats

from saebench.cli import main
from saebench.errors import InputError
from saebench.record import Record, Score, Table
from saebench.report.agreement import agreement, kendall, spearman
from saebench.report.items import items_of
from saebench.report.paired import compare
from saebench.stats import paired
from saebench.store import record_path, write_record
from tests.helpers import make_record, make_score

TASKS = [f"t{i}" for i in range(12)]


def put(out: Path, record: Record, table: str, columns: dict[str, list[Any]]) -> tuple[Path, Record]:
    """Write a record and a table beside it."""
    record = record.model_copy(update={"tables": {table: Table(file=f"s.{table}.parquet", sha256="0" * 64, rows=1, columns=[])}})
    path = record_path(
        out, model=record.model.name, site=record.sae.site, sae=record.sae.name, sha256=record.sae.sha256,
        task=record.task.name, version=record.task.version, seed=record.seed,
    )  # fmt: skip
    write_record(path, record)
    pq.write_table(pa.table(columns), path.with_name(f"s.{table}.parquet"))
    return path, record


def probes(out: Path, sae: str, losses: np.ndarray, *, task: str = "my_probes", names: list[str] = TASKS, **fields: Any):
    """A record of the study ``probes``: one loss a task, the neurons' losses one higher."""
    scores = [
        make_score("probe_loss", float(losses.mean()), 0.1, better="lower"),
        make_score("probe_loss_neurons", float(losses.mean() + 1)),
        make_score("probe_loss_train_min", float(losses.mean() - 2), better="lower"),
        make_score("probe_median", float(np.median(losses)), better="lower"),
    ]
    columns = {"source": ["sae"] * len(names) + ["neurons"] * len(names), "task": names * 2}
    columns |= {"loss": [*losses, *(losses + 1)], "median": [*losses, *losses], "loss_train": [*(losses - 2), *losses]}
    return put(out, make_record(sae, scores=scores, task=task, settings={"study": "probes@1"}, **fields), "tasks", columns)


def truths(out: Path, sae: str, values: np.ndarray):
    score = make_score("truth_f1_adjusted", float(values.mean()), 0.1, better="higher")
    record = make_record(sae, scores=[score], task="truth", settings={"study": "truth@1"})
    columns = {"source": ["sae"] * len(values), "variable": [f"v{i}" for i in range(len(values))], "f1_adjusted": list(values)}
    return put(out, record, "variables", columns)


def losses(seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.2, 0.7, len(TASKS)) + shift


# items


def test_items_are_what_the_score_is_the_mean_of(tmp_path: Path):
    path, record = probes(tmp_path, "a", losses(0))
    for score, wanted in (("probe_loss", 0.0), ("probe_loss_neurons", 1.0), ("probe_loss_train_min", -2.0)):
        found = items_of(record, path, score)
        assert found.what == "tasks" and found.names == tuple(TASKS)
        assert found.values == pytest.approx(losses(0) + wanted)


def test_a_score_that_is_no_mean_of_rows_is_refused(tmp_path: Path):
    path, record = probes(tmp_path, "a", losses(0))
    for name, why in (("probe_median", "is not a mean over rows"), ("probe_x", "has no score 'probe_x'")):
        with pytest.raises(InputError, match=why):
            items_of(record, path, name)
    with pytest.raises(InputError, match="is not a mean over rows"):
        items_of(make_record("a"), path, "l0")
    path.with_name("s.tasks.parquet").unlink()
    with pytest.raises(InputError, match="is missing or damaged"):
        items_of(record, path, "probe_loss")


def test_a_difference_of_two_passes_is_one_by_example(tmp_path: Path):
    clean, spliced = [True, True, False, True], [True, False, False, False]
    scores = [make_score("acc_delta", -0.5), make_score("acc_clean", 0.75), make_score("delta_lnp_mean", -1.0)]
    columns = {"example": [0, 1, 2, 3], "right_clean": clean, "right_spliced": spliced}
    columns |= {"lnp_clean": [-1.0, -2.0, -1.0, 0.0], "lnp_spliced": [-2.0, -2.0, -2.0, -2.0]}
    path, record = put(tmp_path, make_record("a", scores=scores, settings={"study": "cloze@1"}), "examples", columns)
    assert items_of(record, path, "acc_delta").values.tolist() == [0, -1, 0, -1]
    assert items_of(record, path, "acc_clean").values.tolist() == [1, 1, 0, 1]
    assert items_of(record, path, "delta_lnp_mean").values.tolist() == [-1, 0, -1, -2]


# two SAEs


def test_the_paired_difference_by_hand_and_by_scipy():
    a, b = np.array([1.0, 2.0, 3.0, 6.0]), np.array([2.0, 2.0, 5.0, 6.5])
    found = paired(a, b)
    assert found.a == 3.0 and found.b == 3.875 and found.difference == 0.875 and (found.n_higher, found.n_lower) == (3, 0)
    assert found.stderr == pytest.approx(np.std([1, 0, 2, 0.5], ddof=1) / 2)
    wanted = scipy_stats.bootstrap((b - a,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1))
    assert found.low == pytest.approx(wanted.confidence_interval.low, abs=0.03)
    assert found.high == pytest.approx(wanted.confidence_interval.high, abs=0.03)
    same = paired(a, a)
    assert same.difference == same.stderr == same.low == same.high == 0.0
    alone = paired(a[:1], b[:1])
    assert alone.difference == 1.0 and alone.stderr is alone.low is alone.high is None


def test_how_many_draws_are_held_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    a, b = np.zeros(50), np.random.default_rng(0).normal(0, 1, 50)
    found = paired(a, b, draws=300)
    monkeypatch.setattr("saebench.stats._AT_ONCE", 1000)
    assert paired(a, b, draws=300) == found


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 5, (300, 40))  # what a task has in common for both
    held = 0
    for row in hard:
        found = paired(row + rng.normal(0, 1, 40), row + 0.3 + rng.normal(0, 1, 40), draws=500)
        assert found.low is not None and found.high is not None and found.high - found.low < 1.5
        held += found.low <= 0.3 <= found.high
    assert 0.88 <= held / 300 <= 0.98


def test_two_saes_are_compared_task_by_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The difference is sure though each mean alone is not."""
    a, b = losses(0), losses(0, -0.02) + np.random.default_rng(5).normal(0, 0.01, len(TASKS))
    for name, values in (("first", a), ("second", b)):
        probes(tmp_path, name, values)
    assert main(["report", str(tmp_path), "--paired", "probe_loss", "first", "second", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)["rows"]
    assert row["difference"] == pytest.approx((b - a).mean()) and row["stderr"] == pytest.approx((b - a).std(ddof=1) / 12**0.5)
    assert row["low"] < (b - a).mean() < row["high"] < 0 and row["verdict"] == "second" and row["n"] == 12
    assert (row["n_higher"], row["n_lower"]) == ((b > a).sum(), (b < a).sum()) and row["items"] == "tasks"
    turned = ["report", str(tmp_path), "--paired", "probe_loss", "second", "first", "--format"]
    for view, wanted in (
        ("table", "my_probes@1  "), ("md", "| my_probes@1 |"), ("csv", "my_probes,1,0,probe_loss,second,first,lower,"),
    ):  # fmt: skip
        assert main([*turned, view]) == 0
        assert wanted in capsys.readouterr().out
    assert main(["report", str(tmp_path), "--paired", "probe_loss", "first", "first-66697273"]) == 0
    assert "open" in capsys.readouterr().out


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    probes(tmp_path, "a", losses(0))
    probes(tmp_path, "b", losses(1), names=[*TASKS[1:], "other"])
    probes(tmp_path, "c", losses(1), data={"sha256": "f" * 64})
    probes(tmp_path, "d", losses(1), task="others")
    probes(tmp_path, "a", losses(0), site="blocks.1.hook_resid_pre", task="more")
    for words, said in (
        (("probe_loss", "b", "c"), "b and c were not asked the same by my_probes@1, seed 0: other texts"),
        (("probe_loss", "c", "b"), "were not asked the same"),
        (("probe_loss", "b", "d"), "b and d have no task and seed with 'probe_loss' in common"),
        (("probe_lost", "b", "c"), "Did you mean 'probe_loss'"),
        (("probe_loss", "e", "c"), "no record of an SAE 'e'"),
        (
            ("probe_loss", "a", "c"),
            "several SAEs are called a: a-61000000 at blocks.0.hook_resid_pre of m; a-61000000 at blocks.1",
        ),
    ):
        assert main(["report", str(tmp_path), "--paired", *words]) == 2
        assert said in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--paired", "probe_loss", "b", "b", "--agreement", "probe_loss"]) == 2
    assert "--paired and --agreement are different reports" in capsys.readouterr().err


def test_records_of_other_names_are_not_paired_by_their_order(tmp_path: Path):
    records = dict([probes(tmp_path, "a", losses(0)), probes(tmp_path, "b", losses(1), names=TASKS[::-1])])
    with pytest.raises(InputError, match="not asked the same"):
        compare(records, "probe_loss", "a", "b")


# agreement


def test_rank_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (30, 7)).astype(float), rng.integers(0, 5, (30, 7)).astype(float)
    for row in range(30):
        assert spearman(x, y)[row] == pytest.approx(scipy_stats.spearmanr(x[row], y[row])[0])
        assert kendall(x, y)[row] == pytest.approx(scipy_stats.kendalltau(x[row], y[row])[0])
    assert np.isnan(spearman(np.ones((1, 3)), x[:1, :3])).all() and np.isnan(kendall(np.ones((1, 3)), x[:1, :3])).all()


def world(out: Path, truth: list[float], loss: list[float], *, noise: float = 0.001) -> dict[Path, Record]:
    """SAEs s0, s1, … with a truth and a probe loss each, as means over variables and tasks."""
    records = []
    rng = np.random.default_rng(3)
    for i, (good, bad) in enumerate(zip(truth, loss, strict=True)):
        centred = rng.normal(0, noise, (2, len(TASKS)))
        centred -= centred.mean(1, keepdims=True)
        records += [truths(out, f"s{i}", good + centred[0]), probes(out, f"s{i}", bad + centred[1])]
    return dict(records)


def test_a_loss_that_falls_where_the_truth_rises_agrees(tmp_path: Path):
    records = world(tmp_path, [0.1, 0.2, 0.3, 0.4], [0.6, 0.5, 0.4, 0.3])
    found = {one.score: one for one in agreement(records, "truth_f1_adjusted")}
    assert set(found) == {"probe_loss", "probe_loss_train_min", "probe_median"}  # and none that is not better or worse
    one = found["probe_loss"]
    assert one.spearman == one.kendall == 1.0 == one.spearman_low == one.kendall_high and one.n == 4
    assert one.p == pytest.approx(1 / 24) and one.last == "s0" and one.last_share == 1.0
    assert one.drawn == "variables and tasks" and found["probe_median"].drawn == "variables and nothing"
    turned = world(tmp_path / "2", [0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6])
    [one] = agreement(turned, "truth_f1_adjusted", ["probe_loss"])
    assert one.spearman == one.kendall == -1.0 and one.p == 1.0 and one.last == "s3"


def test_the_interval_is_wide_where_items_do_not_agree(tmp_path: Path):
    records = world(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.6, 0.4, 0.45, 0.3], noise=0.3)
    [one] = agreement(records, "truth_f1_adjusted", ["probe_loss"])
    wanted = scipy_stats.spearmanr([1, 2, 3, 4, 5], [-0.5, -0.6, -0.4, -0.45, -0.3])[0]
    assert one.spearman == pytest.approx(wanted) and one.last == "s1"
    assert one.spearman_low is not None and one.spearman_high is not None and one.last_share is not None
    assert one.spearman_low < 0.5 and one.spearman_high > 0.8 and 0.2 < one.last_share < 1
    orders = list(itertools.permutations([1, 2, 3, 4, 5]))
    of_all = np.array([scipy_stats.spearmanr(order, [1, 2, 3, 4, 5])[0] for order in orders])
    assert one.p == pytest.approx((of_all - wanted > -1e-9).mean())
    assert agreement(records, "truth_f1_adjusted", ["probe_loss"]) == [one]


def test_a_score_agrees_with_itself_draw_by_draw(tmp_path: Path):
    """Both are over the same tasks, so draws of tasks move both alike."""
    records = world(tmp_path, [0.1] * 5, [0.5, 0.6, 0.4, 0.45, 0.3], noise=0.3)
    found = {one.score: one for one in agreement(records, "probe_loss", ["probe_loss_train_min", "truth_f1_adjusted"])}
    assert found["probe_loss_train_min"].spearman_low == found["probe_loss_train_min"].spearman == 1.0
    assert found["truth_f1_adjusted"].drawn == "tasks and variables"


def test_a_score_with_an_error_and_no_rows_is_drawn_from_its_error(tmp_path: Path):
    records = world(tmp_path, [0.1, 0.2, 0.3], [0.5, 0.4, 0.3])
    for i in range(3):
        score = make_score("explained_variance", 0.5 + 0.01 * i, 0.2, better="higher")
        record = make_record(f"s{i}", scores=[score, make_score("l0", 3.0, better="lower")], task="core")
        records[Path(f"{i}.json")] = record
    found = {one.score: one for one in agreement(records, "truth_f1_adjusted")}
    one = found["explained_variance"]
    assert one.spearman == 1.0 and one.spearman_low is not None and one.spearman_low < 0.5
    assert one.drawn == "variables and noise of its standard errors"
    assert found["l0"].spearman is found["l0"].spearman_low is found["l0"].p is None  # one value for all


def test_the_command_and_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world(tmp_path, [0.1, 0.2, 0.3, 0.4], [0.6, 0.5, 0.4, 0.3])
    words = ["report", str(tmp_path), "--agreement", "truth_f1_adjusted", "--metric", "probe_loss"]
    for view in ("table", "md", "csv", "json"):
        assert main([*words, "--format", view]) == 0
        assert "s0" in capsys.readouterr().out
    for more, said in (
        (["--where", "sae=s[01]"], "three SAEs or more with truth_f1_adjusted and another score are needed (probe_loss: 2 SAEs"),
        (["--agreement", "truth"], "no record has a score 'truth'"),
    ):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    truths(tmp_path / "more", "s0", np.ones(3))
    other = make_record("x", scores=[Score(name="truth_f1_adjusted", value=1.0)], task="truth", seed=1)
    write_record(tmp_path / "seed1.json", other)
    assert main(words) == 2
    assert "SAEs of one model and seed are ranked, not of 0, 1; choose with --where" in capsys.readouterr().err

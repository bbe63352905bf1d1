"""SAEs of several layers through the command line: together, one record each, resumed, refused and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from saebench.cli import main
from saebench.sae import save_native
from saebench.store import find_records, read_record
from saebench.studies.propagation import Propagation
from tests.lm.families import build
from tests.metrics.conftest import random_sae

TASK = """
name: along
version: 1
description: d
study: propagation
settings: {corpus: {source: TOKENS, n_contexts: 4}, bootstrap: 5, sample: 10}
citation: none
licence: MIT
"""
ALL = ("early", "middle", "other", "late")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, four SAEs at three layers, two files of tokens and a task."""
    folder = tmp_path_factory.mktemp("world")
    build("gpt2", str(folder / "model"))
    for seed, (name, layer) in enumerate(zip(ALL, (0, 1, 1, 2), strict=True)):
        save_native(random_sae(seed=seed, site=f"blocks.{layer}.hook_resid_pre"), folder / name)
    for name, seed in (("tokens", 0), ("others", 1)):
        tokens = np.random.default_rng(seed).integers(4, 90, (6, 12))
        tokens[:, 0] = 1
        np.save(folder / f"{name}.npy", tokens)
    (folder / "along.yaml").write_text(TASK.replace("TOKENS", str(folder / "tokens.npy")))
    return folder


def words(world: Path, out: Path, *more: str, saes: tuple[str, ...] = ALL) -> list[str]:
    named = [w for name in saes for w in ("--sae", str(world / name))]
    common = ["--task", str(world / "along.yaml"), "--model", str(world / "model"), "--device", "cpu"]
    return ["run", *named, *common, "--out", str(out), *more]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("saebench: "), said
    return said[0]


def found(out: Path) -> dict[str, Any]:
    """Return what was measured, by record, tables included."""
    kept = ("scores", "raw", "data", "settings")
    return {
        str(p.relative_to(out)): {key: json.loads(p.read_text())[key] for key in kept}
        | {name: pq.read_table(p.with_name(table.file)).to_pydict() for name, table in read_record(p).tables.items()}
        for p in find_records(out)
    }


def test_one_record_an_sae_whatever_the_order_and_finished_ones_are_kept(world: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(words(world, out, "--seed", "0", "--seed", "1")) == 0
    paths = find_records(out)
    assert len(paths) == 8
    record = read_record(paths[0])
    assert record.settings["study"] == "propagation@1" and record.settings["corpus"] == "tokens.npy"
    together = record.settings["saes_together"]
    assert together == sorted(together) and len(together) == 4
    assert {row["sae"] for p in paths for row in pq.read_table(p.with_name("seed0.correlations.parquet")).to_pylist()} == {
        *together
    }
    assert [sorted(read_record(p).tables) for p in paths if p.name == "seed0.json"] == [
        *[["correlations", "propagation", "token_delta_ce"]] * 3, ["correlations", "token_delta_ce"],
    ]  # fmt: skip
    assert main(words(world, tmp_path / "again", "--seed", "1", "--seed", "0", saes=ALL[::-1])) == 0
    assert found(tmp_path / "again") == found(out)

    before, contents = {p: p.stat().st_mtime_ns for p in paths}, found(out)
    capsys.readouterr()
    assert main(words(world, out, "--seed", "0", "--seed", "1")) == 0
    assert "8 of them finished before" in capsys.readouterr().err
    paths[0].with_name("seed0.propagation.parquet").unlink()
    paths[5].unlink()
    assert main(words(world, out, "--seed", "0", "--seed", "1")) == 0
    assert found(out) == contents, "what was missing is there again, with the same numbers"
    assert [p for p in paths if p.stat().st_mtime_ns != before[p]] == [paths[0], paths[5]]


def test_a_record_made_beside_other_saes_does_not_count(world: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out")) == 0
    capsys.readouterr()
    assert main(words(world, tmp_path / "out", saes=ALL[:3])) == 2
    assert "saes_together=" in (said := one_line(capsys)) and "--force" in said
    assert main(words(world, tmp_path / "out", "--force", saes=ALL[:3])) == 0


def test_one_sae_is_refused_before_anything_starts(world: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out", saes=("early",))) == 2
    said = one_line(capsys)
    assert "along compares SAEs of one model and needs 2 or more, best of several layers" in said and "only early" in said
    assert not (tmp_path / "out").exists()
    assert main(words(world, tmp_path / "out", saes=("early", "early"))) == 2
    assert "the same SAE; give it once" in one_line(capsys)


def test_saes_of_one_layer_are_compared_with_a_word(world: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out", saes=("middle", "other"))) == 0
    assert "no SAE lies behind another: nothing propagates, only ΔCE is compared" in capsys.readouterr().err
    assert all(sorted(read_record(p).tables) == ["correlations", "token_delta_ce"] for p in find_records(tmp_path / "out"))


def test_another_text_and_another_length_are_heeded(world: Path, tmp_path: Path, capsys) -> None:
    assert main(words(world, tmp_path / "out", saes=ALL[:2])) == 0
    others = ("--corpus", str(world / "others.npy"))
    capsys.readouterr()
    assert main(words(world, tmp_path / "out", *others, saes=ALL[:2])) == 2
    assert "corpus=tokens.npy, now it is others.npy" in one_line(capsys)
    more = (*others, "--context-length", "8", "--limit", "9")
    assert main(words(world, tmp_path / "more", *more, saes=ALL[:2])) == 0
    assert "others.npy gives only 6 contexts of the 9 that --limit asks for" in capsys.readouterr().err
    data = read_record(find_records(tmp_path / "more")[0]).data
    assert (Path(data.corpus).name, data.n_contexts, data.context_length) == ("others.npy", 6, 8)


def test_what_fails_is_named_and_the_rest_goes_on(world: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def fails(self: Any, sites: Any) -> Any:
        raise RuntimeError("out of luck")

    (tmp_path / "stream.yaml").write_text(
        "name: stream\nversion: 1\ndescription: d\nmetrics: [sparsity]\ncitation: c\nlicence: l\n"
        f"corpus: {{source: {world / 'tokens.npy'}, n_contexts: 2}}\n"
    )
    both = words(world, tmp_path / "out", "--task", str(tmp_path / "stream.yaml"))
    monkeypatch.setattr(Propagation, "run", fails)
    assert main(both) == 3
    assert [read_record(p).task.name for p in find_records(tmp_path / "out")] == ["stream"] * 4
    assert capsys.readouterr().err.count("× along × seed 0: RuntimeError: out of luck") == 4
    monkeypatch.undo()
    assert main(both) == 0
    assert sorted(read_record(p).task.name for p in find_records(tmp_path / "out")) == ["along"] * 4 + ["stream"] * 4


def test_saes_that_do_not_fit_are_left_in_main_memory(world: Path, tmp_path: Path, monkeypatch) -> None:
    assert main(words(world, tmp_path / "out")) == 0
    monkeypatch.setattr("saebench.run._sae_budget", lambda _device: 1)
    assert main(words(world, tmp_path / "small")) == 0
    assert found(tmp_path / "small") == found(tmp_path / "out")
    assert {read_record(p).timing["saes_in_pass"] for p in find_records(tmp_path / "small")} == {4.0}, "never in parts"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TASK.replace("bootstrap", "bootstraps"), "unknown key 'bootstraps'. Did you mean 'bootstrap'"),
        (TASK.replace("bootstrap: 5", "bootstrap: 1"), "bootstrap: Input should be greater than or equal to 2"),
        (TASK.replace("n_contexts", "n_context"), "unknown key 'corpus.n_context'. Did you mean 'n_contexts'"),
        (TASK.replace("corpus: {source: TOKENS, n_contexts: 4}, ", ""), "corpus: Field required"),
    ],
)
def test_a_mistake_in_the_task_is_one_line(world: Path, tmp_path: Path, capsys, text: str, message: str) -> None:
    (tmp_path / "along.yaml").write_text(text)
    task = ["--task", str(tmp_path / "along.yaml")]
    assert main([*(w for w in words(world, tmp_path / "out") if w not in ("--task", str(world / "along.yaml"))), *task]) == 2
    assert message in one_line(capsys)


def test_it_is_shown(capsys) -> None:
    assert main(["show", "study", "propagation"]) == 0
    said = capsys.readouterr().out
    assert "propagation_mse" in said and "delta_ce_overlap" in said and "bootstrap: 200 unless" in said
    for name in ("propagation", "storyworld_propagation"):
        assert main(["show", "task", name]) == 0
        assert "study: propagation" in capsys.readouterr().out

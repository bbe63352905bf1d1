"""What counts as finished: the same model, text and task by content, and nothing missing; and how many contexts are taken."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.cli import main
from saebench.store import find_records, read_record
from tests.test_run import one_line, scores, words, world  # noqa: F401  (a fixture among them)

TASK = """
name: NAME
version: 1
description: d
metrics: [METRICS]
corpus: {source: some/text, n_contexts: 3, context_length: 12}
citation: c
licence: l
"""


def write_mirror(folder: Path, salt: int = 0) -> None:
    file = folder / "some/text/default/train.jsonl.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": " ".join(f"w{4 + (7 * i + 3 * j + salt) % 80}" for j in range(40))} for i in range(20)]
    with gzip.open(file, "wt") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)


def task_words(world: Path, out: Path, task: Path, *more: str) -> list[str]:  # noqa: F811
    mirror = ["--data-dir", str(out.parent / "mirror")]
    return ["run", "--sae", str(world / "sae0"), "--model", str(world / "model"), "--task", str(task), "--device", "cpu",
            "--out", str(out), *mirror, *more]  # fmt: skip


def test_a_changed_model_is_noticed_and_a_slash_or_a_move_is_not(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b"):
        shutil.copytree(world / "model", tmp_path / name / "model")
    out, one = tmp_path / "out", ("sae0",)
    assert main(words(world, out, "--model", str(tmp_path / "a/model"), saes=one)) == 0
    before = scores(out)
    for same in (f"{tmp_path}/a/model/", f"{tmp_path}/b/model"):
        capsys.readouterr()
        assert main(words(world, out, "--model", same, saes=one)) == 0
        assert "finished before" in capsys.readouterr().err
    weights = tmp_path / "a/model/model.safetensors"
    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, weights, metadata={"format": "pt"})
    assert main(words(world, out, "--model", f"{tmp_path}/a/model", saes=one)) == 2
    said = one_line(capsys)
    assert "model content" in said
    assert "--force" in said
    assert scores(out) == before
    (tmp_path / "a/model/config.json").write_text("{")
    assert main(words(world, out, "--model", f"{tmp_path}/a/model", saes=one)) == 2
    assert "no whole model" in one_line(capsys)


def test_a_hub_model_of_another_commit_is_noticed(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saebench import resume
    from saebench.errors import InputError

    assert main(words(world, tmp_path / "out", saes=("sae0",))) == 0
    [path] = find_records(tmp_path / "out")
    record = read_record(path)
    hub = record.model_copy(
        update={"model": record.model.model_copy(update={"id": "org/m", "sha256": None, "revision": "1" * 40})}
    )
    wanted = dict(record.settings) | {"model": "org/m"}
    wanted = {key: wanted[key] for key in ("model", "limit", "dtype", "metrics")}
    for commit in ("1" * 40, None):  # None: no network and nothing cached
        monkeypatch.setattr(resume, "_hub_commit", lambda _model, commit=commit: commit)
        resume.same_settings(path, hub, wanted)
    monkeypatch.setattr(resume, "_hub_commit", lambda _model: "2" * 40)
    with pytest.raises(InputError, match="revision 111111111111 of org/m, now it is 222222222222"):
        resume.same_settings(path, hub, wanted)
    with pytest.raises(InputError, match="model=org/m, now it is org/n"):
        resume.same_settings(path, hub, wanted | {"model": "org/n"})


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_record_without_its_table_is_run_again(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    assert main(words(world, tmp_path)) == 0
    before = scores(tmp_path)
    tables = sorted(tmp_path.rglob("*.parquet"))
    whole = tables[1].read_bytes()
    tables[1].unlink() if damage == "missing" else tables[1].write_bytes(whole[:-9])
    capsys.readouterr()
    assert main(words(world, tmp_path)) == 0
    assert "run again" in capsys.readouterr().err
    assert tables[1].read_bytes() == whole
    assert scores(tmp_path) == before


def test_a_changed_mirror_file_is_noticed(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text(TASK.replace("NAME", "mine").replace("METRICS", "sparsity"))
    write_mirror(tmp_path / "mirror")
    out = tmp_path / "out"
    assert main(task_words(world, out, task)) == 0
    assert main(task_words(world, out, task)) == 0
    write_mirror(tmp_path / "mirror", salt=1)
    capsys.readouterr()
    assert main(task_words(world, out, task)) == 2
    assert "corpus_file_sha256" in one_line(capsys)


def test_limit_is_the_number_of_contexts_more_than_the_task_has_too(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = tmp_path / "mine.yaml"
    task.write_text(TASK.replace("NAME", "mine").replace("METRICS", "sparsity"))
    write_mirror(tmp_path / "mirror")
    for limit, expected in ((None, 3), (2, 2), (9, 9), (10_000, 72)):
        out = tmp_path / f"out{limit}"
        assert main(task_words(world, out, task, *([] if limit is None else ["--limit", str(limit)]))) == 0
        [path] = find_records(out)
        record = read_record(path)
        assert record.data.n_contexts == expected
        assert record.settings["limit"] == limit
        short = "gives only 72 contexts of the 10000" in capsys.readouterr().err
        assert short == (limit == 10_000)
    # a corpus given in place of the task's own, and a suite's smaller number, do not cap it either
    text = tmp_path / "t.txt"
    text.write_text(" ".join(f"w{4 + i % 80}" for i in range(400)))
    assert main(task_words(world, tmp_path / "o", task, "--corpus", str(text), "--limit", "7")) == 0
    assert read_record(find_records(tmp_path / "o")[0]).data.n_contexts == 7


def test_a_task_file_is_refused_where_it_is_wrong(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_mirror(tmp_path / "mirror")
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    cases = [
        (("core", "sparsity"), "another name"),
        (("mine", "sparsty"), "Did you mean 'sparsity'"),
        (("mine", ""), "metrics"),
    ]
    for (name, metrics), expected in cases:
        file.write_text(TASK.replace("NAME", name).replace("METRICS", metrics))
        assert main(task_words(world, out, file)) == 2
        assert expected in one_line(capsys)
    assert main(task_words(world, out, tmp_path / "absent.yaml")) == 2
    assert "absent.yaml" in one_line(capsys)
    file.write_text(TASK.replace("NAME", "mine").replace("METRICS", "sparsity"))
    shutil.copy(file, tmp_path / "twin.yaml")
    assert main(task_words(world, out, file, "--task", str(tmp_path / "twin.yaml"))) == 2
    assert "two files define the task 'mine'" in one_line(capsys)


def test_arithmetic_that_overflows_gives_nulls_with_reasons_and_keeps_the_rest(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(world / "sae0", tmp_path / "huge")
    file = tmp_path / "huge/sae.safetensors"
    save_file({n: t * 1e25 if n in ("W_enc", "W_dec") else t for n, t in load_file(file).items()}, file)
    out = tmp_path / "out"
    assert main(words(world, out, "--corpus", str(world / "tokens.npy"), "--sae", str(tmp_path / "huge"), saes=("sae0",))) == 0
    assert "could not be computed" in capsys.readouterr().err
    broken = next(read_record(p) for p in find_records(out) if read_record(p).sae.name == "huge")
    lost = broken.score("mse")
    assert (lost.value, lost.stderr, lost.status) == (None, None, "failed")
    assert "overflowed" in str(lost.reason)
    assert broken.score("l0").value == pytest.approx(5, abs=0.5)
    assert broken.score("ce_clean").value > 0
    assert torch.isfinite(torch.tensor([s.value for s in broken.scores if s.value is not None])).all()
    assert main(["report", str(out)]) == 0


def test_every_sae_that_cannot_be_written_is_named_with_its_own_file(
    world: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from saebench import writing

    def write(path: Path, record: object) -> None:
        raise OSError(f"no room for {path.parent.parent.name}")

    monkeypatch.setattr(writing, "write_record", write)
    assert main(words(world, tmp_path, saes=("sae0", "sae1"))) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "failed:" in line]
    assert len(lines) == 2
    for line, name in zip(lines, ("sae0", "sae1"), strict=True):
        assert f"failed: {name} ×" in line
        assert f"no room for {name}-" in line

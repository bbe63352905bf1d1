from __future__ import annotations

import json
from pathlib import Path

import pytest

import saebench.run
from saebench.cli import main
from saebench.run import RunReport
from tests.helpers import make_record, save


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch):
    """Put a report in place of a run; the configurations it was called with are kept."""
    seen = []

    def install(report: RunReport):
        monkeypatch.setattr(saebench.run, "run", lambda config, progress: seen.append(config) or report)
        return seen

    return install


def test_options_reach_the_configuration(runner, tmp_path: Path):
    seen = runner(RunReport())
    words = "--sae a --sae b --task core --seed 1 --seed 2 --limit 3 --context-length 32 --batch-size 2"
    main(
        [
            "run",
            *words.split(),
            "--splice-bos",
            "--all",
            "--force",
            "--residual",
            "centred",
            "--format",
            "native",
            "--out",
            str(tmp_path),
        ]
    )
    (config,) = seen
    assert (config.saes, config.tasks, config.seeds, config.limit) == (("a", "b"), ("core",), (1, 2), 3)
    assert (config.context_length, config.batch_size, config.splice_bos, config.force) == (32, 2, True, True)
    assert (config.residual, config.format, config.out, config.dry_run) == ("centred", "native", tmp_path, False)
    assert config.all_latents


def test_data_to_stdout_and_the_rest_to_stderr(runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    paths = save(tmp_path, make_record("a"), make_record("b"))
    runner(RunReport(records=paths, skipped=paths[:1]))
    assert main(["run", "--sae", "a", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "explained_variance@1 ↑" in out
    assert f"2 records in {tmp_path}, 1 of them finished before" in err
    assert err.splitlines()[-1].endswith(f"saebench report {tmp_path}")


def test_failures_are_named_and_the_code_is_3(runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runner(RunReport(records=save(tmp_path, make_record("a")), failures=["b × core × seed 0: broken"]))
    assert main(["run", "--sae", "a", "--sae", "b", "--out", str(tmp_path), "--json"]) == 3
    out, err = capsys.readouterr()
    assert [r["sae"] for r in json.loads(out)] == ["a"]
    assert "saebench: failed: b × core × seed 0: broken\n" in err


def test_a_dry_run_prints_the_plan(runner, capsys: pytest.CaptureFixture[str]):
    runner(RunReport(plan=[{"sae": "a", "task": "core@1"}]))
    assert main(["run", "--sae", "a", "--dry-run"]) == 0
    assert capsys.readouterr() == ("sae  task\n---  ------\na    core@1\n", "")

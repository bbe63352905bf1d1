"""The Python interface: the same code as the command line, and a third party's metric in a real run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import saebench
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import LanguageModel
from saebench.store import find_records, read_record
from tests.test_run import world  # noqa: F401  (a fixture)

PLUGIN = '''
from saebench.metrics.base import Metric, MetricResult, ScoreSpec
from saebench.stats import Estimate


class Largest(Metric):
    """The largest latent seen anywhere."""

    needs = frozenset({"acts"})
    specs = (ScoreSpec(name="largest_latent", definition="max over tokens and latents of f"),)

    def __init__(self, setting):
        super().__init__(setting)
        self.top = 0.0

    def update_acts(self, rows):
        self.top = max(self.top, float(rows.latents.values.max()))

    def finish(self, after):
        return MetricResult(scores=[self.specs[0].score(Estimate(value=self.top, n=1))])
'''

TASK = """
name: mine
version: 3
description: What interests me.
metrics: [sparsity, largest]
corpus: {source: some/text, n_contexts: 16}
citation: none
licence: none
"""


def options(world: Path, out: Path) -> dict[str, object]:  # noqa: F811
    return {"model": str(world / "model"), "corpus": str(world / "tokens.npy"), "device": "cpu", "out": out}


def test_public_names_are_all_there() -> None:
    for name in saebench.__all__:
        assert getattr(saebench, name) is not None
    with pytest.raises(AttributeError):
        saebench.nothing  # noqa: B018


def test_evaluate_then_read(world: Path, tmp_path: Path) -> None:  # noqa: F811
    records = saebench.evaluate([world / "sae0", world / "sae2"], **options(world, tmp_path))
    assert [r.sae.site for r in records] == ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post"]
    table = saebench.read_results(tmp_path)
    assert len(table) == 2
    by_site = table.set_index("site")
    for record in records:
        score = record.score("explained_variance")
        assert by_site.loc[record.sae.site, "explained_variance"] == score.value
        assert by_site.loc[record.sae.site, "explained_variance_stderr"] == score.stderr


def test_session_gives_model_sae_and_tokens(world: Path) -> None:  # noqa: F811
    session = saebench.load_session(
        world / "sae0", model=str(world / "model"), corpus=str(world / "tokens.npy"), device="cpu", limit=5
    )
    assert isinstance(session.model, LanguageModel)
    batches = list(session.batches(2))
    assert [len(b) for b in batches] == [2, 2, 1]
    clean = session.port.clean(batches[0])
    recon = session.sae.reconstruct(clean.acts.flatten(0, 1))
    assert recon.shape == (40, 24)
    final = session.port.splice(clean, recon.view(clean.acts.shape), torch.ones_like(batches[0], dtype=torch.bool))
    assert session.model.head(final).shape == (2, 20, 96)


def test_errors_are_exceptions_with_one_line(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    with pytest.raises(InputError, match="Did you mean 'limit'"):
        saebench.evaluate([world / "sae0"], limt=3)
    with pytest.raises(InputError, match="limit"):
        saebench.evaluate([world / "sae0"], limit=0)
    monkeypatch.setattr("saebench.run.write_outcome", lambda *_a: 1 / 0)
    with pytest.raises(IncompleteError, match="ZeroDivisionError"):
        saebench.evaluate([world / "sae0"], **options(world, tmp_path))


def test_a_third_party_metric_in_a_real_run(world: Path, tmp_path: Path) -> None:  # noqa: F811
    """A metric known only through an entry point, in a task file of one's own, ends up in the record and in the report."""
    site = tmp_path / "site"
    (site / "thirdparty-1.0.dist-info").mkdir(parents=True)
    (site / "thirdparty.py").write_text(PLUGIN)
    (site / "thirdparty-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (site / "thirdparty-1.0.dist-info/entry_points.txt").write_text("[saebench.metrics]\nlargest = thirdparty:Largest\n")
    task = tmp_path / "mine.yaml"
    task.write_text(TASK)
    out = tmp_path / "out"

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "saebench", *words]
        found = os.environ.get("PYTHONPATH")
        env = os.environ | {"PYTHONPATH": str(site) + (os.pathsep + found if found else "")}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "thirdparty" not in sys.modules
    call("run", "--sae", str(world / "sae0"), "--model", str(world / "model"), "--corpus", str(world / "tokens.npy"),
         "--device", "cpu", "--task", str(task), "--out", str(out))  # fmt: skip
    assert "largest" in call("show", "task", str(task))
    [path] = find_records(out)
    record = read_record(path)
    assert path.parent.name == "mine@3"
    assert record.score("largest_latent").value > 0
    assert record.score("l0").value == pytest.approx(5, abs=0.5)
    assert record.settings["metrics"] == ["sparsity", "largest"]
    shown = f"{record.score('largest_latent').value:.3f}"[:5]
    table = call("report", str(out), "--format", "md", "--metric", "largest_latent")
    assert "largest_latent@3" in table
    assert shown in table
    assert "largest_latent" in saebench.read_results(out).columns
    # other metrics under the same name and version are another task: the record is not taken for it
    task.write_text(TASK.replace(", largest", ""))
    with pytest.raises(InputError, match="metrics="):
        saebench.evaluate([world / "sae0"], tasks=[str(task)], **options(world, out))

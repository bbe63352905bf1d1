"""The Python interface: the same code as the command line, and a third party's metric in a real run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import saebench
from saebench.errors import IncompleteError, InputError
from saebench.lm.model import LanguageModel
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
    monkeypatch.setattr("saebench.run._write", lambda *_a: 1 / 0)
    with pytest.raises(IncompleteError, match="ZeroDivisionError"):
        saebench.evaluate([world / "sae0"], **options(world, tmp_path))


def test_a_third_party_metric_in_a_real_run(
    world: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A metric known only through an entry point, in a task of one's own, ends up in the record and the table."""
    from saebench import registry, tasklist

    site = tmp_path / "site"
    (site / "thirdparty-1.0.dist-info").mkdir(parents=True)
    (site / "thirdparty.py").write_text(PLUGIN)
    (site / "thirdparty-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: thirdparty\nVersion: 1.0\n")
    (site / "thirdparty-1.0.dist-info/entry_points.txt").write_text("[saebench.metrics]\nlargest = thirdparty:Largest\n")
    monkeypatch.syspath_prepend(str(site))
    fresh = registry.Registry("metric", package="saebench.metrics", group="saebench.metrics")
    fresh._members = dict(registry.METRICS._members)
    monkeypatch.setattr("saebench.run.METRICS", fresh)
    task = tasklist.load_task("core").model_copy(update={"name": "mine", "metrics": ("sparsity", "largest")})
    monkeypatch.setattr(tasklist, "_tasks", lambda: {"mine": task})
    [record] = saebench.evaluate([world / "sae0"], tasks=["mine"], **options(world, tmp_path / "out"))
    assert record.score("largest_latent").value > 0
    assert record.score("l0").value == pytest.approx(5, abs=0.5)
    assert "largest_latent" in saebench.read_results(tmp_path / "out").columns
    sys.modules.pop("thirdparty", None)

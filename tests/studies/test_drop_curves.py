"""The study drop_curves: what is left is another SAE, which the task core scores alike; ranks by hand; what may not matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from saebench.cli import main
from saebench.data import Corpus
from saebench.lm.port import Port
from saebench.record import Series
from saebench.sae import SAE, Latents, SAEWeights, save_native
from saebench.store import find_records, read_record
from saebench.studies.base import StudyResult, StudySetting
from saebench.studies.drop_curves import DropCurves, DropSettings, _densest, keep, rank_from_weakest
from saebench.tasklist import TaskCorpus
from tests.lm.families import build
from tests.metrics.conftest import constant_sae, corpus, make_corpus, measure, model, port, random_sae  # noqa: F401  (fixtures too)

SETTINGS = DropSettings(corpus=TaskCorpus(source="unused", n_contexts=1), weakest=(1, 2, 9))


def run(port: Port, corpus: Corpus, *saes: SAE, **more: Any) -> list[StudyResult]:  # noqa: F811
    return DropCurves(StudySetting(**{"port": port, "seed": 0, "corpus": corpus} | more), SETTINGS).run(saes)


def values(result: StudyResult) -> dict[str, float | None]:
    return {score.name: score.value for score in result.scores}


def curve(result: StudyResult, name: str) -> dict[float, Any]:
    series: Series = next(s for s in result.series if s.name == name)
    return dict(zip(series.x, series.value, strict=True))


def without(sae: SAE, latents: list[int]) -> SAE:
    """Return the SAE with nothing written by some latents."""
    w = sae.W_dec.clone()
    w[latents] = 0
    return SAE(sae.config, SAEWeights(**dict(sae.weights.items()) | {"W_dec": w}))


def test_ranks_by_hand() -> None:
    dense = torch.tensor([[0.0, 3.0, -1.0, 2.0], [0.0, 0.0, 0.0, 0.0], [5.0, -5.0, 5.0, -0.5]])
    latents = Latents.from_dense(dense)
    assert rank_from_weakest(latents).tolist() == [2, 0, 1, 1, 2, 3, 0]
    assert keep(latents, rank_from_weakest(latents) >= 1).to_dense().tolist() == [
        [0.0, 3.0, 0.0, 2.0], [0.0] * 4, [5.0, -5.0, 5.0, 0.0]
    ]  # fmt: skip
    nothing = keep(latents, rank_from_weakest(latents) >= 4)
    assert nothing.l0().tolist() == [0, 0, 0] and nothing.to_dense().shape == (3, 4)


def test_with_nothing_dropped_it_is_what_core_says(port: Port, corpus: Corpus) -> None:  # noqa: F811
    saes = [random_sae(), random_sae(seed=1, k=7, normalisation="layer_norm")]
    for result, scores in zip(run(port, corpus, *saes), measure(port, saes, corpus), strict=True):
        for name in ("delta_ce", "mse", "l0"):
            mine = next(s for s in result.scores if s.name == name)
            assert mine.value == pytest.approx(scores[name].value, rel=1e-5)
            assert mine.stderr == pytest.approx(scores[name].stderr, rel=1e-4)
        assert curve(result, "drop_weakest_ce")[0] == pytest.approx(scores["ce_spliced"].value, rel=1e-6)
        assert curve(result, "drop_densest_kl")[1] == pytest.approx(scores["kl"].value, rel=1e-4)


def test_dropping_the_weakest_of_topk_is_a_smaller_k(port: Port, corpus: Corpus) -> None:  # noqa: F811
    sae = random_sae(k=4)
    assert bool((sae.encode(port.clean(corpus.tokens).acts[corpus.scored]).l0() == 4).all())
    (result,) = run(port, corpus, sae)
    smaller = measure(port, [sae.with_config(k=3), sae.with_config(k=2)], corpus)
    for dropped, scores in zip((1, 2), smaller, strict=True):
        for name, theirs in (("ce", "ce_spliced"), ("kl", "kl"), ("mse", "mse"), ("l0", "l0")):
            assert curve(result, f"drop_weakest_{name}")[dropped] == pytest.approx(scores[theirs].value, rel=1e-4), name
    found = values(result)
    for name, scores in (("quarter", smaller[0]), ("half", smaller[1])):
        base = {key: curve(result, f"drop_weakest_{key}")[0] for key in ("ce", "kl", "mse")}
        assert found[f"drop_weakest_{name}_delta_ce"] == pytest.approx(scores["ce_spliced"].value - base["ce"], abs=1e-6)
        assert found[f"drop_weakest_{name}_delta_kl"] == pytest.approx(scores["kl"].value - base["kl"], abs=1e-6)
        assert found[f"drop_weakest_{name}_mse_ratio"] == pytest.approx(scores["mse"].value / base["mse"], rel=1e-4)


def test_with_everything_dropped_the_bias_is_left(port: Port, corpus: Corpus) -> None:  # noqa: F811
    sae = random_sae()
    (result,) = run(port, corpus, sae)
    (constant,) = measure(port, [constant_sae(sae.weights.b_dec)], corpus)
    assert curve(result, "drop_weakest_ce")[9] == pytest.approx(constant["ce_spliced"].value, rel=1e-6)
    assert curve(result, "drop_weakest_l0")[9] == 0


def test_dropping_the_densest_is_an_sae_without_them(port: Port, corpus: Corpus) -> None:  # noqa: F811
    sae = random_sae(s=40, k=6)
    (result,) = run(port, corpus, sae)
    active = sae.encode(port.clean(corpus.tokens).acts[corpus.scored]).to_dense() != 0
    density = active.double().mean(0).numpy()
    order = np.argsort(-density, kind="stable")
    numbers = curve(result, "drop_densest_latents")
    assert numbers[1] == 0 and list(numbers) == [1, 0.9, 0.75, 0.5, 0.25]
    for share in (0.75, 0.25):
        n = int(numbers[share])
        gone = order[:n].tolist()
        left = [i for i in range(40) if i not in gone]
        assert density[left].sum() <= share * density.sum() + 1e-9 < density[[*left, gone[-1]]].sum() + 1e-9, "and no more"
        (scores,) = measure(port, [without(sae, gone)], corpus)
        for name, theirs in (("ce", "ce_spliced"), ("kl", "kl"), ("mse", "mse")):
            assert curve(result, f"drop_densest_{name}")[share] == pytest.approx(scores[theirs].value, rel=1e-4), name
        assert curve(result, "drop_densest_l0")[share] == pytest.approx(density[left].sum())
    half = curve(result, "drop_densest_ce")
    assert values(result)["drop_densest_half_delta_ce"] == pytest.approx(half[0.5] - half[1], abs=1e-9)


def test_a_share_of_many_latents_is_met_to_the_last_one() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, 200_000) * rng.integers(0, 40, 200_000)
    density = counts / (128 * 127)
    assert (_densest(density, 0.0) == (counts > 0)).all(), "nothing left is all that fire dropped, whatever sums round to"
    for share in (0.9, 0.5, 0.01):
        left = counts[~_densest(density, share)]
        assert left.sum() <= share * counts.sum() < left.sum() + counts[_densest(density, share)].min()
    assert _densest(np.array([0.3, 0.1, 0.2, 0.1, 0.1]), 0.5).tolist() == [True, False, True, False, False]
    assert _densest(np.full(10, 0.1), 0.5).tolist() == [True] * 5 + [False] * 5
    assert not _densest(np.zeros(4), 0.5).any()


def test_neither_batch_size_nor_padding_nor_other_saes_matter(port: Port, corpus: Corpus) -> None:  # noqa: F811
    saes = random_sae(), random_sae(seed=2, k=9)
    both = run(port, corpus, *saes)
    tokens = torch.cat([corpus.tokens, torch.zeros(11, 3, dtype=torch.long)], 1)
    padded = make_corpus(tokens, torch.cat([corpus.valid, torch.zeros(11, 3, dtype=torch.bool)], 1))
    for others in (run(port, corpus, *saes, batch_size=4), run(port, padded, *saes), run(port, corpus, *saes[::-1])[::-1]):
        for one, other in zip(both, others, strict=True):
            assert_allclose(*([v or 0.0 for v in values(r).values()] for r in (one, other)), rtol=1e-4, atol=1e-6)
            for a, b in zip(one.series, other.series, strict=True):
                assert_allclose(np.array(a.value, dtype=float), np.array(b.value, dtype=float), rtol=1e-4, atol=1e-6)


def test_a_silent_sae_has_nothing_to_drop(port: Port, corpus: Corpus) -> None:  # noqa: F811
    (result,) = run(port, corpus, constant_sae(torch.zeros(24)))
    found = values(result)
    assert {found[f"drop_{k}_{s}_delta_ce"] for k in ("weakest", "densest") for s in ("quarter", "half")} == {0.0}
    assert found["l0"] == 0 and found["drop_weakest_half_mse_ratio"] == 1 and result.raw["latents_dead"] == 7


def test_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build("gpt2", str(tmp_path / "model"))
    save_native(random_sae(), tmp_path / "sae")
    tokens = np.random.default_rng(0).integers(4, 90, (6, 12))
    np.save(tmp_path / "tokens.npy", tokens)
    task = (
        "name: mine\nversion: 1\ndescription: d\ncitation: c\nlicence: l\nstudy: drop_curves\n"
        f"settings: {{corpus: {{source: {tmp_path / 'tokens.npy'}, n_contexts: 4}}, weakest: [3]}}\n"
    )
    words = ["run", "--sae", str(tmp_path / "sae"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    words += ["--task", str(tmp_path / "task.yaml"), "--out", str(tmp_path / "out")]
    for text, message in (
        (task.replace("[3]", "[3, 0]"), "numbers of latents to drop must be 1 or more"),
        (task.replace("weakest: [3]", "densest: [1.5]"), "shares of L0 must lie between 0 and 1"),
        (task.replace("weakest", "weekest"), "Did you mean 'weakest'"),
    ):
        (tmp_path / "task.yaml").write_text(text)
        assert main(words) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "task.yaml").write_text(task)
    assert main(words) == 0
    (path,) = find_records(tmp_path / "out")
    series = next(s for s in read_record(path).series if s.name == "drop_weakest_ce")
    assert series.x == [0, 3] and all(v is not None for v in series.value)
    for name in ("drop_curves", "storyworld_drop_curves"):
        assert main(["show", "task", name]) == 0
        assert "study: drop_curves" in capsys.readouterr().out

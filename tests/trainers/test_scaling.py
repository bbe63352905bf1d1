"""``saebench fit-scaling``: known constants come back, from runs as `saebench train` writes them, and bad input is refused."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saebench.cli import main
from saebench.errors import InputError
from saebench.trainers import scaling
from saebench.trainers.scaling import Fit, Run, check_alike, fit_scaling, read_runs

D = 768
SIZES = [2048 * 2**i for i in range(8)]
TOKENS = [10**8, 3 * 10**8, 10**9]
GAO = {"alpha": -0.50, "beta_k": 0.26, "beta_n": -0.017, "gamma": -0.042, "zeta": -1.32, "eta": -0.085}


def joint(k: float, n: float) -> float:
    lk, ln, g = math.log(k), math.log(n), GAO
    first = g["alpha"] + g["beta_k"] * lk + g["beta_n"] * ln + g["gamma"] * lk * ln
    return math.exp(first) + math.exp(g["zeta"] + g["eta"] * lk)


def make(loss: float, n: int = 4096, tokens: int = 10**8, k: float | None = 32, name: str = "", **more: Any) -> Run:
    sparsity = None if k is None else float(k)
    return Run(folder=name or f"{n}-{tokens}-{k}", loss=float(loss), n_latents=n, d_in=D, tokens=tokens, k=sparsity, **more)


def by_size(law: Callable[[float], float], noise: float = 0.0, seed: int = 0, repeats: int = 1) -> list[Run]:
    rng = np.random.default_rng(seed)
    return [make(law(n) * math.exp(noise * rng.normal()), n, name=f"{n}-{i}") for n in SIZES for i in range(repeats)]


def fitted(runs: list[Run], law: str, *, resamples: int = 30, **options: Any) -> Fit:
    [fit] = [f for f in fit_scaling(runs, np.random.default_rng(0), resamples=resamples, **options) if f.law == law]
    return fit


def values(fit: Fit) -> dict[str, float]:
    return {row["name"]: row["value"] for row in fit.parameters()}


def covers(ends: tuple[float | None, float | None], truth: float) -> bool:
    return ends[0] is not None and ends[1] is not None and ends[0] <= truth <= ends[1]


def write_run(folder: Path, loss: float, n: int, tokens: int = 10**8, k: int | None = 32, **run: Any) -> Path:
    folder.mkdir(parents=True)
    told = {"recipe": "topk", "model": "gpt2", "site": "blocks.8.hook_resid_post", "corpus": "c4", "tokens": tokens, **run}
    config = {
        "saebench_format": 1, "activation": "topk", "d_in": D, "d_out": D, "d_sae": n, "k": k,
        "training": {
            "run": told, "settings": {"d_sae": n, "lr": 1e-4} | ({"k": k} if k else {}),
            "last_row": {"step": 1.0, "held_out_explained_variance": 1 - loss, "held_out_l0": float(k or 20)},
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_compute_counts_both_matrices_forward_and_backward() -> None:
    assert make(0.1, n=1000, tokens=7).flops == 6 * 2 * D * 1000 * 7


def test_exact_power_of_size_comes_back() -> None:
    fit = fitted(by_size(lambda n: 0.09 + 3.0 * n**-0.4), "L(N)")
    assert values(fit) == pytest.approx({"l0": 0.09, "a": 3.0, "b": -0.4}, rel=1e-5)
    assert list(values(fit)) == ["l0", "a", "b"]
    for row in fit.parameters():
        for ends in (row["bootstrap"], row["jacobian"]):
            assert ends == pytest.approx((row["value"], row["value"]), rel=1e-4)


def test_no_irreducible_loss_is_zero_and_said() -> None:
    fit = fitted(by_size(lambda n: 3.0 * n**-0.4), "L(N)")
    assert values(fit) == pytest.approx({"l0": 0.0, "a": 3.0, "b": -0.4}, rel=1e-8)
    assert "irreducible" in fit.notes[0]
    assert np.isfinite(fit.curve(np.array([1e3, 1e6]))[0]).all()


def test_power_of_compute_in_the_papers_units() -> None:
    """L(C) = 0.09 + 0.056 C^−0.084 with C a fraction of a far larger compute."""
    whole = 2e25
    runs = [make(0.09 + 0.056 * (make(1, n, t).flops / whole) ** -0.084, n, t) for n in SIZES for t in TOKENS]
    fit = fitted(runs, "L(C)", all_runs=True)
    found = values(fit)
    assert found["l0"] == pytest.approx(0.09, rel=1e-4)
    assert found["b"] == pytest.approx(-0.084, rel=1e-4)
    assert found["a"] * whole ** found["b"] == pytest.approx(0.056, rel=1e-4)


@pytest.mark.parametrize("repeats", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_noise_is_covered_by_the_intervals(repeats: int) -> None:
    truth = {"l0": 0.09, "a": 3.0, "b": -0.4}
    seen = {"bootstrap": 0, "jacobian": 0}
    for seed in range(10):
        fit = fitted(by_size(lambda n: 0.09 + 3.0 * n**-0.4, 0.01, seed, repeats), "L(N)", resamples=100)
        assert fit.rms == pytest.approx(0.01, rel=0.6)
        for row in fit.parameters():
            for kind in seen:
                seen[kind] += covers(row[kind], truth[row["name"]])
    assert seen["jacobian"] >= 26  # of 30
    assert seen["bootstrap"] >= 22  # percentiles of few runs are narrow, as the module says


def test_joint_law_comes_back_exactly_and_under_noise() -> None:
    def runs(noise: float, seed: int) -> list[Run]:
        rng = np.random.default_rng(seed)
        grid = [(k, n) for k in (16, 32, 64, 128) for n in SIZES[:6]]
        return [make(joint(k, n) * math.exp(noise * rng.normal()), n, k=k) for k, n in grid]

    assert values(fitted(runs(0.0, 0), "L(N,K)")) == pytest.approx(GAO, rel=1e-3)
    fits = [fitted(runs(0.002, seed), "L(N,K)", resamples=0) for seed in range(8)]
    assert sum(covers(row["jacobian"], GAO[row["name"]]) for fit in fits for row in fit.parameters()) >= 40  # of 48
    fit = fitted(runs(0.002, 0), "L(N,K)", resamples=100)
    assert sum(covers(row["bootstrap"], GAO[row["name"]]) for row in fit.parameters()) >= 5  # of 6
    middle, low, high = fit.curve(np.array([5000.0, 50000.0]), 32.0)
    assert low is not None and high is not None
    assert (low < middle).all() and (middle < high).all()
    assert middle == pytest.approx([joint(32, 5000), joint(32, 50000)], rel=0.01)


def test_order_of_the_runs_and_of_the_seed_moves_nothing() -> None:
    runs = by_size(lambda n: 0.09 + 3.0 * n**-0.4, 0.01)
    once, again = fitted(runs, "L(N)"), fitted(runs, "L(N)")
    assert once.parameters() == again.parameters()
    assert values(fitted(runs[::-1], "L(N)")) == pytest.approx(values(once), rel=1e-6)


def test_envelope_and_longest_runs_are_what_is_fitted() -> None:
    law = lambda c: 0.1 + 60.0 * c**-0.14  # noqa: E731
    on = [make(law(make(1, n, n * 1000).flops), n, n * 1000) for n in SIZES]
    off = [make(law(make(1, n, n * 1100).flops) * 1.5, n, n * 1100) for n in SIZES]
    fit = fitted(on + off, "L(C)")
    assert {r.folder for r in fit.runs} == {r.folder for r in on}
    assert values(fit)["b"] == pytest.approx(-0.14, rel=1e-4)
    assert len(fitted(on + off, "L(C)", all_runs=True).runs) == 16
    assert {r.folder for r in fitted(on + off, "L(N)").runs} == {r.folder for r in off}


def test_each_k_has_curves_of_its_own_and_l0_stands_in_for_k() -> None:
    two = [make(joint(k, n), n, k=k) for k in (16, 64) for n in SIZES]
    fits = fit_scaling(two, np.random.default_rng(0), resamples=0)
    assert [(f.law, f.group) for f in fits] == [
        ("L(C)", "k=16"), ("L(C)", "k=64"), ("L(N)", "k=16"), ("L(N)", "k=64"), ("L(N,K)", "all"),
    ]  # fmt: skip
    by_l0 = [make(r.loss, r.n_latents, k=None, l0=r.k, name=r.folder) for r in two]
    fits = fit_scaling(by_l0, np.random.default_rng(0), resamples=0)
    assert [f.group for f in fits] == ["L0~16", "L0~64", "L0~16", "L0~64", "all"]
    assert values(fits[-1]) == pytest.approx(GAO, rel=1e-3)
    assert make(0.1, k=None, l0=21.0).group == "L0~16" and make(0.1, k=None).group == "any"


@pytest.mark.parametrize(
    ("runs", "law", "said"),
    [
        ([make(0.1)], "L(C)", "1 run, 4 needed"),
        ([make(0.5 - 0.1 * i, n) for i, n in enumerate(SIZES[:3])], "L(N)", "3 runs, 4 needed"),
        ([make(0.3, n, name=f"{i}") for i, n in enumerate([64, 64, 128, 128])], "L(N)", "2 values of N, 3 needed"),
        ([make(1 / n, n) for n in SIZES], "L(N,K)", "1 value of K, 2 needed"),
        ([make(1 / n, n, k=i + 1) for i, n in enumerate(SIZES[:6])], "L(N,K)", "6 runs, 7 needed"),
        ([make(1 / n, n, k=n / 64) for n in SIZES], "L(N,K)", "do not vary apart"),
        ([make(1 / n, n, k=None) for n in SIZES], "L(N,K)", "neither k nor"),
    ],
)
def test_too_few_runs_are_a_reason_and_no_error(runs: list[Run], law: str, said: str) -> None:
    fits = [f for f in fit_scaling(runs, np.random.default_rng(0), resamples=5) if f.law == law]
    assert all(f.theta is None and f.parameters() == [] for f in fits)
    assert any(said in (f.reason or "") for f in fits)


def test_rising_loss_is_noted() -> None:
    assert any("does not fall" in note for note in fitted(by_size(lambda n: 0.01 * n**0.2), "L(N)").notes)


def test_runs_are_read_once_from_folders_and_folders_of_folders(tmp_path: Path) -> None:
    for n in SIZES[:3]:
        write_run(tmp_path / f"n{n}", 0.3, n)
    (tmp_path / "stopped").mkdir()
    runs, skipped = read_runs([tmp_path, tmp_path / f"n{SIZES[0]}"])
    assert [r.n_latents for r in runs] == SIZES[:3]
    assert runs[0].k == 32 and runs[0].d_in == D and runs[0].tokens == 10**8 and runs[0].loss == pytest.approx(0.3)
    assert len(skipped) == 1 and "has not finished" in skipped[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("training"), "lacks 'training'"),
        (lambda c: c["training"]["last_row"].clear(), "lacks 'held_out_explained_variance'"),
        (lambda c: c["training"]["last_row"].update(held_out_explained_variance=math.nan), "explained variance is nan"),
        (lambda c: c["training"]["last_row"].update(held_out_explained_variance=1.0), "not a number below 1"),
        (lambda c: c["training"]["run"].update(tokens=0), "tokens is 0"),
        (lambda c: c["training"].update(settings=[]), "not what `saebench train` writes"),
    ],
)
def test_damaged_runs_are_left_out_with_a_reason(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    write_run(tmp_path / "good", 0.3, 64)
    file = write_run(tmp_path / "bad", 0.3, 128) / "config.json"
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    runs, [line] = read_runs([tmp_path])
    assert len(runs) == 1 and said in line
    with pytest.raises(InputError, match="no usable run"):
        read_runs([tmp_path / "bad"])


@pytest.mark.parametrize("text", ["{", "[]", "", "3", "\udcff"])
def test_broken_json_is_no_crash(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    assert main(["fit-scaling", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no usable run" in said


@pytest.mark.parametrize("name", ["model", "site", "recipe", "corpus", "context_length"])
def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", 0.3, 64)
    other: dict[str, Any] = {name: "other"}
    write_run(tmp_path / "b", 0.3, 128, **other)
    assert main(["fit-scaling", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"differ in {name}: " in said and "'other'" in said and said.count("\n") == 1
    with pytest.raises(InputError, match="differ in d_in"):
        check_alike([make(0.1, alike={"d_in": 4}), make(0.1, alike={"d_in": 5})])


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for k in (16, 64):
        for n in SIZES[:5]:
            for i, tokens in enumerate(TOKENS[1:]):
                loss = joint(k, n) * (1.2 - 0.2 * i) * math.exp(0.002 * rng.normal())
                write_run(tmp_path / "runs" / f"k{k}-n{n}-t{tokens}", loss, n, tokens, k)
    return tmp_path / "runs"


def test_command_end_to_end(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "fit_scaling", functools.partial(fit_scaling, resamples=40))
    (sweep / "stopped").mkdir()
    assert main(["fit-scaling", str(sweep), "-o", str(tmp_path / "out")]) == 0
    done = capsys.readouterr()
    assert "stopped is left out" in done.err and "scaling.png" in done.err
    assert done.out.split()[:4] == ["law", "over", "runs", "parameter"] and "gamma" in done.out
    png = (tmp_path / "out" / "scaling.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 10_000
    written = json.loads((tmp_path / "out" / "scaling.json").read_text(), parse_constant=pytest.fail)
    [law] = [f for f in written["fits"] if f["law"] == "L(N,K)"]
    low, high = law["parameters"]["gamma"]["bootstrap"]
    assert low <= law["parameters"]["gamma"]["value"] <= high and len(law["runs"]) == 10
    assert len(written["runs"]) == 20 and written["shared"]["model"] == "gpt2" and len(written["left_out"]) == 1

    assert main(["fit-scaling", str(sweep), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fits"] == written["fits"]
    assert main(["fit-scaling", str(sweep), "--json", "--all-runs"]) == 0
    assert len(json.loads(capsys.readouterr().out)["fits"][-1]["runs"]) == 20


def test_command_with_one_run_reports_null_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", 0.3, 64)
    assert main(["fit-scaling", str(one), "--out", str(tmp_path / "out")]) == 0
    assert "L(C) k=32: not fitted, 1 run, 4 needed" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert [f["parameters"] for f in written["fits"]] == [None, None, None]
    assert (tmp_path / "out" / "scaling.png").stat().st_size > 0


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_a_missing_package_is_named(
    tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else name)
    one = write_run(tmp_path / "one", 0.3, 64)
    assert main(["fit-scaling", str(one), "-o", str(tmp_path / "out")]) == 2
    assert f"pip install {package}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit-scaling"]) == 2
    assert main(["fit-scaling", str(tmp_path / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["fit-scaling", str(tmp_path)]) == 2
    one = write_run(tmp_path / "one", 0.3, 64)
    (tmp_path / "file").write_text("")
    assert main(["fit-scaling", str(one), "-o", str(tmp_path / "file" / "in")]) == 2
    assert "cannot write" in capsys.readouterr().err

"""What a run offers beside the loss: precision, compile, accumulation, penalties, watch, logs, figures, exports, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.errors import IncompleteError, InputError
from saebench.sae import load_sae
from saebench.trainers.config import TrainConfig
from saebench.trainers.journal import Broken, Journal, Watch
from saebench.trainers.loop import Loop
from saebench.trainers.run import train
from tests.trainers.world import values

TOPK: dict[str, Any] = {"k": 3, "lr": 1e-3}


ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def command_of(recipe: str, given: dict[str, Any]) -> list[str]:
    """Return the command line for the same settings."""
    options = ("model", "site", "corpus", "out", "device")
    words = [f"--set={k}={v}" for k, v in given.items() if k not in options]
    return [sys.executable, "-m", "saebench", "train", recipe, *(w for k in options for w in (f"--{k}", str(given[k]))), *words]


def trained(world: Path, out: Path, recipe: str = "topk", **more: Any) -> Any:
    [sae] = train(recipe, values(world, out, **((TOPK if recipe == "topk" else {}) | more)))
    return sae


@pytest.mark.parametrize("recipe", ["topk", "relu-l1"])
def test_accumulated_parts_give_the_step_of_the_whole_batch(world: Path, tmp_path: Path, recipe: str) -> None:
    whole, parts = (trained(world, tmp_path / str(n), recipe, accumulate=n) for n in (1, 4))
    for name, tensor in whole.weights.items():
        torch.testing.assert_close(getattr(parts.weights, name), tensor, rtol=1e-4, atol=1e-5)


def test_p_falls_once_a_step_however_many_parts_a_batch_has(world: Path, tmp_path: Path) -> None:
    from saebench.trainers.recipes.panneal import PAnneal

    found: dict[int, list[float]] = {}
    for parts in (1, 4):
        recipe = kept_recipe(world, tmp_path / str(parts), PAnneal, accumulate=parts, l1=0.05, queue=3)
        found[parts] = [float(recipe.factor), *recipe.sums.sum(1).div(parts).tolist()]
    assert found[4] == pytest.approx(found[1], rel=1e-3)
    assert found[1][0] != pytest.approx(0.05, rel=1e-2), "the factor has been set anew"


def kept_recipe(world: Path, out: Path, kind: Any, **more: Any) -> Any:
    """Train, and return the recipe as it was at the end."""
    seen: list[Any] = []
    real = kind.after_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "after_step", lambda self, *a: (seen.append(self), real(self, *a))[1])
        train("panneal", values(world, out, **more))
    return seen[-1]


@pytest.mark.parametrize("recipe", ["topk", "relu-l1"])
def test_bfloat16_autocast_stays_near_float32(world: Path, tmp_path: Path, recipe: str) -> None:
    plain = trained(world, tmp_path / "plain", recipe)
    half = trained(world, tmp_path / "half", recipe, precision="bfloat16")
    assert half.weights.W_dec.dtype == torch.float32
    x = torch.randn(200, plain.config.d_in, generator=torch.Generator().manual_seed(0))
    near = (half.reconstruct(x) - plain.reconstruct(x)).norm() / plain.reconstruct(x).norm()
    assert 0 < float(near) < 0.1


@pytest.mark.parametrize("recipe", ["topk", pytest.param("relu-l1", marks=pytest.mark.slow)])
def test_compiled_losses_give_the_same_sae_within_tolerance(world: Path, tmp_path: Path, recipe: str) -> None:
    given = values(world, tmp_path / "compiled", **(TOPK if recipe == "topk" else {}), tokens=64 * 10, compile=True)
    done = subprocess.run(command_of(recipe, given), env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]  # in a process of its own: the tests' type checks cannot be compiled
    plain = trained(world, tmp_path / "plain", recipe, tokens=64 * 10)
    torch.testing.assert_close(load_sae(tmp_path / "compiled").weights.W_dec, plain.weights.W_dec, rtol=1e-3, atol=1e-4)


def test_the_orthogonality_penalty_lowers_the_mean_cosine(world: Path, tmp_path: Path) -> None:
    def mean_cosine(sae: Any) -> float:
        w = torch.nn.functional.normalize(sae.weights.W_dec, dim=1)
        return float(((w @ w.T).abs().sum() - len(w)) / (len(w) * (len(w) - 1)))

    free = trained(world, tmp_path / "free", lr=1e-2)
    pressed = trained(world, tmp_path / "pressed", lr=1e-2, orthogonality=10.0, orthogonality_rows=16)
    assert mean_cosine(pressed) < 0.8 * mean_cosine(free)


def test_the_watch_names_the_step_of_a_bad_loss() -> None:
    watch = Watch(10.0)
    for step in range(1, 131):
        watch.add(step, torch.tensor(1.0 if step != 120 else 9.9))
    watch.check()
    watch.add(131, torch.tensor(1.0))
    watch.add(132, torch.tensor(11.0))
    with pytest.raises(Broken, match=r"11 at step 132, 11.0 times"):
        watch.check()
    watch.add(133, torch.tensor(float("nan")))
    with pytest.raises(Broken, match="nan at step 133"):
        watch.check()
    early = Watch(10.0)
    early.add(1, torch.tensor(1.0))
    early.add(2, torch.tensor(1e6))
    early.check()


def test_a_spike_stops_before_it_reaches_a_checkpoint(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from saebench.trainers.trainee import Trainee

    real = Trainee.learn

    def learn(self: Trainee, acts: torch.Tensor) -> Any:
        step = real(self, acts)
        return step._replace(loss=step.loss * 1000) if self.step == 124 else step

    monkeypatch.setattr(Trainee, "learn", learn)
    with pytest.raises(IncompleteError, match=r"at step 124, .* times the median.*checkpoint"):
        trained(world, tmp_path, tokens=64 * 200)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 119, "the last one before the spike"


def test_logs_figures_and_boards_are_written(world: Path, tmp_path: Path) -> None:
    trained(world, tmp_path, tensorboard=True, eval_every=10)
    for name in ("figures/curves.png", "figures/density.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(5, 41, 5))
    assert [event.step for event in board.Scalars("held_out_explained_variance")] == [10, 20, 30, 40]


def test_wandb_is_asked_for_by_name_and_missed_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig(recipe="topk", model="m", site="s", corpus="c", out=tmp_path, wandb="project", tensorboard=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        Journal(config)

    logged: list[tuple[dict[str, float], int]] = []

    class Fake:
        def init(self, **_: Any) -> Fake:
            return self

        def log(self, row: dict[str, float], step: int) -> None:
            logged.append((row, step))

        def finish(self) -> None:
            logged.append(({}, -1))

    monkeypatch.setitem(sys.modules, "wandb", Fake())  # pyright: ignore[reportArgumentType]
    journal = Journal(config)
    journal.add({"step": 5.0, "loss": 0.5})
    journal.close()
    assert logged == [({"loss": 0.5}, 5), ({}, -1)]


@pytest.mark.parametrize("to", ["saelens", "dictionary_learning", "sparsify"])
def test_an_exported_sae_is_the_native_one(world: Path, tmp_path: Path, to: str) -> None:
    sae = trained(world, tmp_path, export=[to], norm="root_width")
    [folder] = [p.parent for p in (tmp_path / to).rglob("*") if p.suffix in (".pt", ".safetensors")]
    other = load_sae(folder)
    assert other.config.format != "native"
    x = torch.randn(50, sae.config.d_in, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(other.reconstruct(x), load_sae(tmp_path).reconstruct(x), rtol=1e-4, atol=1e-5)


def test_an_export_that_cannot_hold_the_sae_is_refused_before_training(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="norm=root_width"):
        trained(world, tmp_path, export=["sparsify"])
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("cached", [False, True])
def test_a_cached_run_learns_the_same_text_and_a_prefetched_one_is_the_plain_one(
    world: Path, tmp_path: Path, cached: bool
) -> None:
    more = {"cache": tmp_path / "cache"} if cached else {}
    plain = trained(world, tmp_path / "plain", **more)
    ahead = trained(world, tmp_path / "ahead", prefetch=True, **more)
    assert plain.sha256 == ahead.sha256
    assert (tmp_path / "cache/manifest.json").exists() == cached


def test_sigint_saves_says_how_to_go_on_and_the_run_ends_as_if_never_stopped(world: Path, tmp_path: Path) -> None:
    given = values(world, tmp_path / "stopped", **TOPK, tokens=64 * 800, log_every=25, checkpoint_every=0)
    command = command_of("topk", given)
    process = subprocess.Popen(command, env=ENV, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "stopped/metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "goes on from" in said
    assert "Traceback" not in said
    state = torch.load(tmp_path / "stopped/checkpoint.pt", weights_only=True)
    assert 0 < state["step"] < 800
    subprocess.run(command, env=ENV, check=True, capture_output=True)
    whole = trained(world, tmp_path / "whole", **TOPK, tokens=64 * 800, log_every=25, checkpoint_every=0)
    assert load_sae(tmp_path / "stopped").sha256 == whole.sha256


def test_an_interrupt_within_a_step_leaves_the_last_whole_checkpoint_alone(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from saebench.trainers.trainee import Trainee

    real = Trainee._average

    def average(self: Trainee) -> None:  # the optimiser has stepped, the counters have not
        if self.step == 16:
            raise KeyboardInterrupt
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "_average", average)
        with pytest.raises(KeyboardInterrupt):
            trained(world, tmp_path / "torn")
    assert torch.load(tmp_path / "torn/checkpoint.pt", weights_only=True)["step"] == 14
    assert trained(world, tmp_path / "torn").sha256 == trained(world, tmp_path / "whole").sha256


def test_a_text_changed_since_the_checkpoint_is_noticed(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    np.save(tmp_path / "tokens.npy", np.load(world / "tokens.npy"))
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_told_to_stop", lambda self, _stop: self.step >= 10)
        with pytest.raises(KeyboardInterrupt):
            trained(world, tmp_path / "x", corpus=str(tmp_path / "tokens.npy"))
    np.save(tmp_path / "tokens.npy", np.load(world / "tokens.npy")[::-1].copy())
    with pytest.raises(InputError, match="other text"):
        trained(world, tmp_path / "x", corpus=str(tmp_path / "tokens.npy"))
    assert (tmp_path / "x/checkpoint.pt").exists(), "nothing is lost"


def test_a_site_the_model_lacks_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean"):
        trained(world, tmp_path, site="blocks.99.hook_resid_pre")

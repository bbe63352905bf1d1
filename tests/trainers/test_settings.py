"""What a run or a sweep may be told: bounds, files with mistakes, and what a checkpoint, a site or an SAE has to say to it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.cli import main
from saebench.errors import IncompleteError, InputError
from saebench.sae import load_sae
from saebench.sae.formats.native import save_native
from saebench.trainers.acts.cache import ActsCache
from saebench.trainers.loop import Loop
from saebench.trainers.ranks import Ranks
from saebench.trainers.run import train
from saebench.trainers.settings import as_values, runs_of
from saebench.trainers.trainee import Trainee
from tests.lm.families import build
from tests.trainers.world import SITE, values

_RUN = {"model": "m", "site": SITE, "corpus": "c", "out": "o"}


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("topk", "lr=0"),
        ("topk", "lr=-1e-3"),
        ("topk", "lr=.nan"),
        ("topk", "lr=.inf"),
        ("topk", "adam_beta1=1"),
        ("topk", "ema=1"),
        ("topk", "grad_clip=-1"),
        ("topk", "lr_decay_share=2"),
        ("topk", "lr_warmup_steps=-1"),
        ("topk", "dead_refresh_steps=0"),
        ("topk", "dead_after_tokens=0"),
        ("topk", "k_aux=0"),
        ("topk", "aux_coefficient=-1"),
        ("topk", "orthogonality_rows=0"),
        ("topk", "eval_every=-1"),
        ("topk", "checkpoint_every=-1"),
        ("topk", "log_every=0"),
        ("topk", "context_length=3"),
        ("topk", "seed=-1"),
        ("topk", "spike=-1"),
        ("batchtopk", "threshold_decay=1"),
        ("matryoshka", "widths=[0, 32]"),
        ("relu-l1", "l1=-1"),
        ("relu-l1", "encoder_lr_scale=0"),
        ("relu-l1", "bias_lr_scale=-1"),
        ("relu-l1", "resample_every=0"),
        ("relu-april", "l1_warmup_share=1.1"),
        ("gated", "lr=0"),
        ("jumprelu", "bandwidth=0"),
        ("jumprelu", "coefficient=-1"),
        ("panneal", "queue=0"),
        ("panneal", "anneal_steps=0"),
        ("panneal", "dead=revive"),
        ("stacked", "stage_shares=[1, 0]"),
        ("refit", "lr=0"),
    ],
)
def test_a_setting_out_of_bounds_is_named_with_its_value(recipe: str, setting: str) -> None:
    key = setting.split("=")[0]
    with pytest.raises(InputError, match=rf"^setting {key}[.\d]*='?[-\w.]+'?: "):
        runs_of(recipe, _RUN | {"d_sae": 32} | as_values((setting,), None))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3: 4\n", "key 3, which is not a name"),
        ("recipes:\n  - {recipe: topk, on: 3}\n", "key True, which is not a name"),
        ("recipes:\n  - {recipe: [topk, relu-l1]}\n", "one name"),
        ("recipes:\n  - {recipe: topk, k: []}\n", "k is an empty list"),
        ("recipes: {topk: {k: 3}}\n", "list of mappings"),
        ("recipe: [topk]\n", "one name"),
        ("recipe: topkk\n", "'topk'"),
        ("- topk\n", "key: value"),
        ("recipe: topk\nk: {a: 1}\n", "setting k"),
        ("recipe: topk: 3\n", "cannot be read"),
    ],
)
def test_a_file_with_a_mistake_is_one_line(tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    named = [f"--{key}={value}" for key, value in (_RUN | {"out": tmp_path / "o"}).items()]
    assert main(["train", "--config", str(file), *named]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert said in lines[0]


def test_the_recipe_may_stand_in_the_file_but_not_differ_from_the_one_named() -> None:
    [run] = runs_of(None, _RUN | {"recipe": "topk"})
    assert run.config.recipe == "topk"
    [run] = runs_of("topk", _RUN | {"recipe": "topk"})
    assert run.config.recipe == "topk"
    with pytest.raises(InputError, match="'topk', not 'gated'"):
        runs_of("gated", _RUN | {"recipe": "topk"})
    with pytest.raises(InputError, match="--out"):
        runs_of(None, {key: value for key, value in _RUN.items() if key != "out"} | {"recipes": [{"recipe": "topk"}]})


def test_what_cannot_be_is_found_before_a_cache_is_filled(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActsCache, "fill", lambda *_: pytest.fail("the cache was begun"))
    given = values(world, tmp_path / "x", cache=tmp_path / "cache")
    for more, said in [({"k": 33}, "d_sae=32"), ({"k": 3, "export": ["sparsify"]}, "root_width")]:
        with pytest.raises(InputError, match=said):
            train("topk", given | more)
    with pytest.raises(InputError, match=r"context_length=65, .* 64 tokens"):
        train("topk", given | {"k": 3, "context_length": 65})


def test_a_site_without_a_centred_form_is_not_centred(world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no centred form"):  # an RMSNorm model
        train("topk", values(world, tmp_path / "x", k=3, residual="centred"))
    build("gpt2", str(tmp_path / "gpt2"))
    given = values(world, tmp_path / "y", k=3, residual="centred") | {"model": str(tmp_path / "gpt2")}
    with pytest.raises(InputError, match="no centred form"):  # not written to the stream
        train("topk", given | {"site": "blocks.1.mlp.hook_post"})
    train("topk", given)
    assert load_sae(tmp_path / "y").config.residual == "centred"


def _stopped(world: Path, out: Path, patch: pytest.MonkeyPatch, **more: Any) -> None:
    patch.setattr(Loop, "_told_to_stop", lambda self, _stop: self.step >= 10)
    with pytest.raises(KeyboardInterrupt):
        train("topk", values(world, out, **more))


def test_a_checkpoint_says_which_setting_differs_and_lets_those_of_no_weight_change(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _stopped(world, tmp_path / "x", patch, k=3)
    with pytest.raises(InputError, match=r"other settings \(lr: 0.0001 there, 0.001 now; k: 3 there, 4 now\)"):
        train("topk", values(world, tmp_path / "x", k=4, lr=1e-3))
    with pytest.raises(InputError, match='recipe: "topk" there, "relu-l1" now'):
        train("relu-l1", values(world, tmp_path / "x"))
    train("topk", values(world, tmp_path / "x", k=3, checkpoint_every=0, spike=0, data_dir=tmp_path))
    train("topk", values(world, tmp_path / "whole", k=3))
    assert load_sae(tmp_path / "x").sha256 == load_sae(tmp_path / "whole").sha256


def test_a_model_changed_since_the_checkpoint_is_noticed(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("llama", str(tmp_path / "model"))
    with monkeypatch.context() as patch:
        _stopped(world, tmp_path / "x", patch, k=3, model=str(tmp_path / "model"))
    file = tmp_path / "model/model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(InputError, match="another model"):
        train("topk", values(world, tmp_path / "x", k=3, model=str(tmp_path / "model")))


def test_refit_takes_the_saes_own_site_and_normalisation(world: Path, tmp_path: Path) -> None:
    train("topk", values(world, tmp_path / "first", k=3, lr=1e-3))
    given = values(world, tmp_path / "again", sae=str(tmp_path / "first"))
    given.pop("d_sae")
    with pytest.raises(InputError, match=re.escape(f"reads {SITE}, not blocks.2.hook_resid_pre")):
        train("refit", given | {"site": "blocks.2.hook_resid_pre"})
    with pytest.raises(InputError, match="leave norm out"):
        train("refit", given | {"norm": "none"})
    train("refit", given | {"site": "blocks.0.hook_resid_post"})  # another name of the same tensor
    assert load_sae(tmp_path / "again").config.site == "blocks.0.hook_resid_post"


def test_weights_that_are_no_longer_finite_break_one_run_of_a_sweep_only(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Trainee.learn

    def learn(self: Trainee, acts: torch.Tensor) -> Any:
        step = real(self, acts)
        if self.step == 9 and self.settings.lr == 2e-3:
            next(self.recipe.parameters()).data[0] = torch.nan  # after a loss that was finite
        return step

    monkeypatch.setattr(Trainee, "learn", learn)
    recipes = [{"recipe": "topk", "k": 3, "d_sae": 32, "lr": [1e-3, 2e-3]}]
    given = values(world, tmp_path, recipes=recipes, eval_every=9)
    given.pop("d_sae")
    with pytest.raises(IncompleteError, match=r"lr-0.002: the weights are no longer finite at step 9.*checkpoint"):
        train(None, given)
    assert load_sae(tmp_path / "topk_lr-0.001").config.k == 3
    assert not (tmp_path / "topk_lr-0.002/sae.safetensors").exists()


def test_an_export_that_fails_takes_nothing_else_with_it(world: Path, tmp_path: Path) -> None:
    train("topk", values(world, tmp_path / "other", k=3))
    save_native(load_sae(tmp_path / "other"), tmp_path / "x/saelens")  # in the way
    with pytest.raises(IncompleteError, match=r"not exported: .*saelens already holds"):
        train("topk", values(world, tmp_path / "x", k=3, export=["saelens"]))
    assert load_sae(tmp_path / "x").sha256 == load_sae(tmp_path / "other").sha256


def test_processes_that_cannot_be_joined_are_bad_input(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun"):
        train("topk", values(world, tmp_path, k=3))


def test_the_encoder_of_relu_l1_may_have_learning_rates_of_its_own() -> None:
    x = torch.randn(256, 16, generator=torch.Generator().manual_seed(0))
    given = _RUN | {"d_sae": 32, "lr": 0.01, "lr_warmup_steps": 0, "lr_decay_share": 0, "batch_size": 256, "tokens": 2560}
    moved = {}
    for scale in (1.0, 3.0):
        [run] = runs_of("relu-l1", given | {"encoder_lr_scale": scale, "bias_lr_scale": 2 * scale})
        trainee = Trainee(run, x, torch.device("cpu"), Ranks())
        before = {name: p.detach().clone() for name, p in trainee.recipe.named_parameters()}
        trainee.learn(x)
        moved[scale] = {name: (p.detach() - before[name]).abs().median() for name, p in trainee.recipe.named_parameters()}
        assert moved[scale]["w_enc"] == pytest.approx(0.01 * scale, rel=1e-3)  # Adam's first step is the rate for any gradient
        assert moved[scale]["b_enc"] == pytest.approx(0.02 * scale, rel=1e-3)
    state = trainee.state()
    for group in state["optimizer"]["param_groups"]:
        del group["scale"]  # as in checkpoints of earlier versions
    trainee.restore(state)
    assert [group["scale"] for group in trainee.optimizer.param_groups] == [1.0, 3.0, 6.0]
    assert moved[3.0]["b_dec"] == pytest.approx(moved[1.0]["b_dec"])
    assert moved[3.0]["w_dec"] == pytest.approx(moved[1.0]["w_dec"])

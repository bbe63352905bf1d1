"""inspect and run on folders of many SAEs, and what users tell of an SAE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from saebench.check import check_sae
from saebench.cli import main
from saebench.errors import InputError
from saebench.sae import load_sae, save_native
from saebench.sae.inspect import inspect_sae
from tests.metrics.conftest import random_sae
from tests.sae.formats import sae_lens_cases
from tests.sae.formats.cases import D, acts
from tests.sae.hostile import trained


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Four SAEs as a release has them, one of them damaged."""
    for layer in (0, 1):
        for width in (24, 40):
            save_native(
                random_sae(12, width, k=3, site=f"blocks.{layer}.hook_resid_pre", model_id="some/model"),
                tmp_path / f"layer_{layer}/width_{width}",
            )
    (tmp_path / "layer_1/width_40/config.json").write_text('{"saebench_format": 1, "d_in": "x"}')
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], str]:
    told = capsys.readouterr()
    return told.out.splitlines(), told.err


def test_a_folder_of_many_is_a_table_with_paths_below_it(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(release)]) == 0
    out, err = lines(capsys)
    assert [line.split()[0] for line in out[2:]] == [
        "layer_0/width_24",
        "layer_0/width_40",
        "layer_1/width_24",
        "layer_1/width_40",
    ]
    assert "config.json lacks" in out[-1]  # the damaged one is a row that says why it is refused
    assert not any("not stated" in line for line in out), "the others have nothing to say there"
    assert "--select" in err


def test_select_chooses_by_the_name_below_the_folder(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(release), "--select", "*/width_24", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["site"] for row in rows] == ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"]
    assert {row["d_sae"] for row in rows} == {24}
    assert main(["inspect", str(release), "--select", "layer_1/width_24"]) == 0
    assert lines(capsys)[1].endswith("1 SAE; to score: saebench run --sae " + f"{release} --select layer_1/width_24\n")
    assert main(["inspect", str(release), "--select", "layer_7/*"]) == 2
    assert "layer_0/width_24" in lines(capsys)[1]


def test_a_run_takes_several_of_a_folder(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--sae", str(release), "--task", "core", "--corpus", "x.npy", "--dry-run", "--json"]
    assert main([*words, "--select", "layer_0/*"]) == 0
    assert {row["sae"] for row in json.loads(capsys.readouterr().out)} == {"width_24", "width_40"}
    assert main(words) == 2  # which of them is not said
    assert "--select GLOB" in lines(capsys)[1]


def test_one_sae_in_a_folder_needs_no_choice(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(release / "layer_0/width_24"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["d_sae"] == 24


def test_only_what_it_needs_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``k`` of a ReLU SAE is not something that its files fail to say."""
    save_native(random_sae(12, 24, k=3, site=None), tmp_path / "topk")
    save_native(random_sae(12, 24, activation="relu", k=None), tmp_path / "relu")
    shown = {}
    for name in ("topk", "relu"):
        assert main(["inspect", str(tmp_path / name)]) == 0
        shown[name] = dict(line.split(maxsplit=1) for line in lines(capsys)[0])
        assert {"norm_scale", "pursuit", "site_out"}.isdisjoint(shown[name])
    assert shown["topk"]["k"] == "3" and "k" not in shown["relu"]
    assert shown["topk"]["site"] == "not stated"
    assert main(["inspect", str(tmp_path)]) == 0
    assert [line.split()[-1] for line in lines(capsys)[0]] == ["k", "-", "24", "3"]


def test_what_is_told_must_have_a_known_name_and_move_something(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(release / "layer_0/width_24")
    for given, said in {"k": "KEY=VALUE", "kk=3": "kk"}.items():
        assert main(["inspect", path, "--set", given]) == 2
        assert said in lines(capsys)[1]
    assert main(["inspect", path, "--set", "k=3", "--set", "k=4"]) == 2
    assert "twice" in lines(capsys)[1]
    assert main(["inspect", path, "--set", "k=3"]) == 0
    assert "moves nothing" in "\n".join(lines(capsys)[0])


def test_large_weights_are_hashed_when_asked(
    release: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import saebench.sae.inspect as module

    monkeypatch.setattr(module, "_HASHED_BYTES", 100)
    path = str(release / "layer_0/width_24")
    assert main(["inspect", path, "--json"]) == 0
    unread = json.loads(capsys.readouterr().out)
    assert unread["sha256"] is None and unread["tensors"]["W_enc"] == [12, 24]
    assert main(["inspect", path, "--json", "--hash"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sha256"]) == 64
    monkeypatch.undo()
    assert main(["inspect", path, "--json", "--headers-only"]) == 0
    assert json.loads(capsys.readouterr().out) == unread
    assert main(["inspect", path, "--hash", "--headers-only"]) == 2
    assert "give one of them" in lines(capsys)[1]


def test_bytes_are_those_of_the_files_that_it_is_read_from(tmp_path: Path) -> None:
    """What a trainer left beside an SAE is not its own, and does not keep a small one from being hashed."""
    folder = trained(tmp_path / "trainer_0")
    own = sum((folder / name).stat().st_size for name in ("ae.pt", "config.json"))
    assert inspect_sae(folder)["bytes"] == own
    torch.save({"step": 5, "exp_avg": torch.zeros(500, D)}, folder / "optimizer.pt")
    (folder / "eval_results.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    torch.save({"step": 5}, folder / "checkpoints/ae_100.pt")
    about = inspect_sae(folder)
    assert about["bytes"] == own and about["sha256"] is not None
    assert set(inspect_sae(folder, hash=False)["tensors"]) == set(torch.load(folder / "ae.pt"))  # pyright: ignore[reportArgumentType]


def lens(folder: Path, **meta: object) -> Path:
    """Write an SAE of sae_lens with other metadata."""
    cfg = sae_lens_cases.cfg_of("standard")
    return sae_lens_cases.folder_of(folder, cfg | {"metadata": cfg["metadata"] | meta}, sae_lens_cases.standard())


@pytest.mark.parametrize(
    ("positions", "said"),
    [([5, -5], "[5:-5]"), ([64], "[:64]"), ([0, None, 2], "[0::2]"), ([1, None], "[1:]"), (None, None), ([None], None),
     ([0, 128], None), ([None, None, 1], None)],
)  # fmt: skip
def test_positions_that_it_was_trained_on(positions: list[int | None] | None, said: str | None, tmp_path: Path) -> None:
    """``slice(*seqpos_slice)`` of contexts of 128 tokens; null, or all of them, is nothing to tell."""
    told = [line for line in inspect_sae(lens(tmp_path, seqpos_slice=positions))["warnings"] if "seqpos_slice" in line]  # pyright: ignore[reportGeneralTypeIssues]
    assert [said in line for line in told] == ([True] if said else [])


def test_positions_before_version_6_and_odd_ones(tmp_path: Path) -> None:
    cfg = {"d_in": D, "hook_point": "blocks.1.hook_resid_pre", "context_size": 128, "seqpos_slice": [3, None]}
    old = sae_lens_cases.folder_of(tmp_path / "old", cfg, sae_lens_cases.standard())
    assert "[3:] of each context" in " ".join(load_sae(old).config.warnings)
    for at, odd in enumerate(([], [1, 2, 3, 4], ["a"], [1.5], [0, None, 0], "all", {"a": 1})):
        with pytest.raises(InputError, match=r"cfg\.json: 'seqpos_slice' should be up to three whole numbers or nulls"):
            load_sae(lens(tmp_path / str(at), seqpos_slice=odd))


@pytest.mark.parametrize("site", ["hook_embed", "blocks.1.hook_mlp_in", "../../../etc/passwd"])
def test_a_site_that_is_unknown_is_shown_and_not_run(
    site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lens(tmp_path, hook_name=site)
    assert main(["inspect", str(folder)]) == 0
    shown = "\n".join(lines(capsys)[0])
    assert f"{site!r} is no site that saebench knows" in shown and "and not scored" in shown
    notes = check_sae(folder, acts=acts())["notes"]
    assert notes.status == "warn" and site in notes.found, notes
    out = tmp_path / "out"
    assert main(["run", "--sae", str(folder), "--task", "core", "--corpus", "x.npy", "--dry-run", "--out", str(out)]) == 2
    assert f"unknown site {site!r}" in lines(capsys)[1] and not out.exists()
    assert load_sae(folder, site="blocks.0.hook_resid_pre").config.warnings[-1].endswith("overridden by blocks.0.hook_resid_pre")
    with pytest.raises(InputError, match=r"unknown site .blocks\.0\.hook_x."):
        load_sae(folder, site="blocks.0.hook_x")

"""What ships, and what is said when it is not what it should be."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from saebench import reference
from saebench.cli import main
from saebench.errors import InputError
from saebench.lm.model import load_model
from saebench.resume import same_name
from saebench.sae import load_sae, save_native
from saebench.sae.reading.files import read_json
from saebench.store import find_records, read_record
from saebench.trainers.reference_saes import differing, make, name_of, write_manifest
from saebench.trainers.settings import as_values, runs_of
from tests.reference.conftest import NAMES, SHIPPED, SMALL

REPOSITORY = Path(__file__).resolve().parents[2]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("saebench: "), said
    return said[0]


# what ships


def test_the_manifest_lists_exactly_what_ships_and_it_is_small():
    entries = reference.manifest()
    there = {p.relative_to(SHIPPED).as_posix() for room in ("model", "saes") for p in (SHIPPED / room).rglob("*") if p.is_file()}
    assert {e.file for e in entries} == there
    assert sum(e.bytes for e in entries) <= reference.MAX_BYTES == 40_000_000
    if not entries:
        pytest.skip("no model is bundled yet; see docs/reference.md")
    assert reference.model_folder("reference") == SHIPPED / "model"
    assert sorted(reference.sae_names()) == NAMES
    for path in reference.saes():
        sae = load_sae(path)
        assert (sae.config.model_id, sae.config.path) == ("reference", path)


def test_the_configurations_make_what_ships_and_are_small_enough():
    runs = [run for file in sorted((SHIPPED / "configs").glob("*.yaml")) for run in runs_of(None, as_values((), file))]
    assert len(runs) == len(NAMES)
    assert {run.config.model for run in runs} == {"reference"} and {run.config.corpus for run in runs} == {"storyworld:train"}
    weights = sum(2 * 256 * run.settings.d_sae + 2 * run.settings.d_sae for run in runs)
    assert 2 * weights + 13_000_000 < reference.MAX_BYTES  # float16, beside a model of 6M weights
    by_length = sorted((run.config.context_length, run.config.steps) for run in runs)
    assert by_length[0][0] == 64 and {length for length, _ in by_length[1:]} == {512}
    assert min(steps for _, steps in by_length) * 20 < max(steps for _, steps in by_length)


def test_what_ships_was_trained_by_the_committed_configurations():
    if not reference.sae_names():
        pytest.skip("no SAE is bundled yet; see docs/reference.md")
    folders = {name: read_json(SHIPPED / "saes" / name / "config.json")["training"] for name in reference.sae_names()}
    for file in (SHIPPED / "configs").glob("*.yaml"):
        for run in runs_of(None, as_values((), file)):
            name = name_of(run.config.recipe, str(run.config.site), file)
            assert differing(run, folders.pop(name)) == "", name
    assert not folders


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("saes", "topk-layer3"), ("saes-topk", "topk-layer3"), ("saes-context64", "topk-layer3-context64"),
        ("saes-topk2", "topk-layer3-topk2"), ("saes-topk-wide", "topk-layer3-topk-wide"), ("saes-relu-l1", "topk-layer3-relu-l1"),
    ],
)  # fmt: skip
def test_a_name_says_what_the_configuration_does_unless_that_is_the_recipe(file: str, name: str):
    assert name_of("topk", "blocks.3.hook_resid_pre", Path(f"configs/{file}.yaml")) == name


def test_data_files_are_installed_with_the_package():
    """A wheel holds what the patterns name, an editable install whatever is there."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["saebench.reference"]
    installed = {p.relative_to(SHIPPED).as_posix() for pattern in patterns for p in SHIPPED.glob(pattern) if p.is_file()}
    configs = {f"configs/saes{what}.yaml" for what in ("", "-relu-l1", "-context64", "-undertrained")}
    assert {"manifest.json", *configs} <= installed
    assert {entry.file for entry in reference.manifest()} <= installed
    assert (resources.files("saebench.reference") / "manifest.json").is_file()


# the names


def test_names_mean_what_is_bundled(bundle: Path):
    model = load_model("reference", device="cpu")
    assert (model.id, model.name, model.n_layers, model.sha256 is not None) == ("reference", "reference", 6, True)
    assert model.bridge.cfg.d_model == 32
    assert reference.sae_names() == NAMES
    sae = load_sae("reference:topk-layer3-context64")
    assert (sae.config.name, sae.config.path) == ("topk-layer3-context64", "reference:topk-layer3-context64")
    assert (sae.config.model_id, sae.config.site, sae.config.context_length) == ("reference", "blocks.3.hook_resid_pre", 8)
    assert not sae.config.warnings
    assert reference.model_folder("gpt2") is None and reference.sae_folder("saes/topk") is None


def test_a_folder_called_reference_is_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "reference").mkdir()
    monkeypatch.chdir(tmp_path)
    assert same_name("reference") == "reference"
    assert same_name("./reference") == "./reference" == same_name("reference/")
    with pytest.raises(InputError, match=r"no model at \./reference: the folder has no config\.json"):
        load_model("./reference")


def test_lists(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["list", "saes", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["sae"] for row in rows] == [f"reference:{name}" for name in NAMES]
    assert rows[-2]["context_length"] == 32 and rows[-2]["site"] == "blocks.3.hook_resid_pre"
    assert main(["list", "models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"family": "gpt2", "example": "reference", "bundled": "yes"}
    assert {row["bundled"] for row in rows[1:]} == {"no"}
    assert main(["inspect", "reference:topk-layer1"]) == 0
    assert "blocks.1.hook_resid_pre" in capsys.readouterr().out


def test_nothing_bundled_is_said_in_one_line(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    (tmp_path / "manifest.json").write_text('{"files": []}')
    for words, said in {
        ("run",): "no SAE was given and none is bundled in",
        ("inspect", "reference:topk-layer1"): "no bundled SAE 'topk-layer1'. None is bundled in",
        ("list", "saes"): "no saes are bundled",
    }.items():
        main(list(words))
        assert said in one_line(capsys)
    with pytest.raises(InputError, match="the model 'reference' is not bundled"):
        load_model("reference")
    (tmp_path / "manifest.json").unlink()
    assert main(["run"]) == 2
    assert "is missing or damaged" in one_line(capsys)


def test_a_wrong_name_brings_the_nearest(bundle: Path):
    with pytest.raises(InputError, match=r"no bundled SAE 'topk-layer2'\. Did you mean 'topk-layer\d'"):
        load_sae("reference:topk-layer2")
    with pytest.raises(InputError, match="There are: relu-l1-layer1, "):
        load_sae("reference:x")


@pytest.mark.parametrize("file", ["model/model.safetensors", "model/tokenizer.json", "saes/topk-layer1/config.json"])
def test_a_file_that_is_not_the_listed_one_is_refused(own: Path, file: str, capsys: pytest.CaptureFixture[str]):
    words = ["run", "--sae", "reference:topk-layer1", "--task", "core", "--corpus", "storyworld", "--out", str(own / "out")]
    path = own / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the same size
    assert main(words) == 2
    assert f"{path} is not the file that manifest.json lists (its SHA-256 differs); install" in one_line(capsys)
    path.unlink()
    assert main(words) == 2
    assert f"{path} is missing; install" in one_line(capsys)


# how it is made


def test_every_stored_matrix_is_float16_and_the_files_name_no_folder(bundle: Path):
    for name in NAMES:
        with safe_open(bundle / "saes" / name / "sae.safetensors", "pt") as file:
            tensors = [file.get_tensor(key) for key in file.keys()]
        assert {(t.ndim, t.dtype) for t in tensors} == {(2, torch.float16), (1, torch.float32)}
        assert load_sae(f"reference:{name}").dtype == torch.float32
    for path in [bundle / "manifest.json", *bundle.glob("saes/*/config.json")]:
        assert str(bundle.parent) not in path.read_text() and "/root" not in path.read_text()


def test_float16_moves_scores_less_than_a_thousandth(bundle: Path, task: str, tmp_path: Path):
    work = bundle.parent / "work"
    stored, exact = tmp_path / "stored", tmp_path / "exact"
    assert (
        main(["run", "--sae", "reference:topk-layer3", "--sae", "reference:relu-l1-layer3", "--task", task, "--out", str(stored)])
        == 0
    )
    runs = [p for name in ("saes", "saes-relu-l1") for p in sorted((work / name).iterdir())]
    whole = [w for p in runs if "blocks.3" in p.name for w in ("--sae", str(p))]
    assert len(whole) == 4
    assert main(["run", *whole, "--task", task, "--out", str(exact)]) == 0
    by_kind = {out: {r.sae.architecture: r for r in map(read_record, find_records(out))} for out in (stored, exact)}
    moved = 0
    for kind in ("topk", "standard"):
        a, b = by_kind[stored][kind], by_kind[exact][kind]
        assert a.sae.sha256 != b.sae.sha256 and a.data == b.data
        for name in ("explained_variance", "delta_ce", "ce_spliced", "kl", "ce_recovered_zero"):
            x, y = a.score(name).value, b.score(name).value
            assert x is not None and y is not None and abs(x - y) < 1e-3, (kind, name, x, y)
            moved += x != y
    assert moved, "they are the same numbers: nothing was rounded"


def test_a_weight_that_does_not_fit_is_refused(bundle: Path, tmp_path: Path):
    sae = load_sae("reference:topk-layer3")
    sae.weights.W_dec[0, 0] = 1e5
    with pytest.raises(InputError, match="W_dec does not fit float16; store it as bfloat16 or float32"):
        save_native(sae, tmp_path / "x", dtype=torch.float16)
    assert not (tmp_path / "x").exists()
    save_native(sae, tmp_path / "x", dtype=torch.bfloat16)
    assert load_sae(tmp_path / "x").weights.W_dec[0, 0] == torch.tensor(1e5).bfloat16().float()


def test_making_again_trains_nothing_and_gives_the_same_bytes(own: Path, tiny: Path):
    before = (own / "manifest.json").read_bytes()
    (own / "saes/left-over").mkdir()
    work = tiny.parent / "work"
    trained = {p: p.stat().st_mtime_ns for p in work.rglob("sae.safetensors")}
    assert make(SMALL | {"work": work}) == NAMES
    assert (own / "manifest.json").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in work.rglob("sae.safetensors")} == trained
    assert not (own / "saes/left-over").exists()
    made_by = {entry.file: entry.made_by for entry in reference.manifest()}
    command = made_by["saes/topk-layer3-context64/sae.safetensors"]
    assert "configs/saes-context64.yaml --set tokens=4000 --set batch_size=50" in command and "device" not in command
    assert "saebench.trainers.reference_lm" in made_by["model/model.safetensors"]


def test_runs_of_another_model_are_refused(own: Path, tiny: Path):
    config = own / "model/config.json"
    config.write_text(config.read_text().replace('"initializer_range": 0.02', '"initializer_range": 0.03'))
    with pytest.raises(InputError, match=r"was trained on another model than .*; remove it and run again"):
        make(SMALL | {"work": tiny.parent / "work"})


def test_runs_of_other_settings_are_refused(own: Path, tiny: Path):
    """What a configuration says now is not what an SAE was trained with before."""
    values = SMALL | {"work": tiny.parent / "work"}
    with pytest.raises(InputError, match=r"was trained with other settings than .*\.yaml has now: d_sae 48, not 47; remove it"):
        make(values | {"d_sae": 47})
    file = own / "configs/saes-relu-l1.yaml"
    assert "l1: 1.4e-4" in file.read_text()  # what differs between the SAEs of a file stands in the names of their folders
    file.write_text(file.read_text().replace("l1: 1.4e-4", "l1: 2.0e-4"))
    why = r"work/saes-relu-l1 holds some of its SAEs and no checkpoint: .*saes-relu-l1\.yaml was changed since"
    with pytest.raises(InputError, match=why):
        make(values)
    assert reference.sae_names() == NAMES


def test_without_a_model_there_is_nothing_to_train_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    with pytest.raises(InputError, match=r"no model in .*; make it with: python -m saebench\.trainers\.reference_lm"):
        write_manifest()

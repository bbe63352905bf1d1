"""SAEs by sae_lens' names: a stand-in package whose directory is small, and whose import fails, for it is not to be imported."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from saebench.cli import cli
from saebench.config import make_config
from saebench.errors import InputError
from saebench.plan import make_plan
from saebench.registry import FORMATS
from saebench.sae import load_sae
from saebench.sae.hub import saelens
from saebench.sae.hub.saelens import FORMAT_OF, REFUSED
from saebench.sae.inspect import list_saes
from tests.sae.formats.cases import acts, agrees
from tests.sae.hub.fake_hub import FakeHub, client_of, serving
from tests.sae.hub.repositories import LAYOUTS, native_turned, sae_lens

CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
DIRECTORY = {
    "gpt2-small-res-jb": {
        "repo_id": "jbloom/GPT2-Small-SAEs", "model": "gpt2-small", "conversion_func": None, "config_overrides": CENTRED,
        "saes": [{"id": f"blocks.{n}.hook_resid_pre", "path": f"blocks.{n}.hook_resid_pre", "l0": 10.0} for n in (0, 8)],
    },
    "scaled": {
        "repo_id": "me/scaled", "model": "gpt2-small", "conversion_func": None, "config_overrides": {"dataset_path": "a/b"},
        "saes": [
            {"id": "average", "path": "group_blocks.1.hook_mlp_out:v1", "norm_scaling_factor": 1.75},
            {"id": "plain", "path": "plain", "norm_scaling_factor": 1.75},
        ],
    },
    "rescaled": {
        "repo_id": "me/rescaled", "model": "mistral-7b", "conversion_func": None,
        "config_overrides": {"normalize_activations": "constant_norm_rescale"}, "saes": [{"id": "one", "path": "one"}],
    },
    "gemma-scope-2b-pt-res-canonical": {
        "repo_id": "google/gemma-scope-2b-pt-res", "model": "gemma-2-2b", "conversion_func": "gemma_2",
        "saes": [{"id": "layer_20/width_16k/canonical", "path": "layer_20/width_16k/average_l0_71"}],
    },
    "sae_bench": {
        "repo_id": "canrager/lm_sae", "model": "pythia-70m-deduped", "conversion_func": "dictionary_learning_1",
        "saes": [{"id": "blocks.3.hook_resid_post__trainer_1", "path": "sweep/resid_post_layer_3/trainer_1"}],
    },
    "qwen-scope": {
        "repo_id": "Qwen/SAE-Res-Qwen3-8B-Base-W1K-L0_50", "model": "Qwen/Qwen3-8B-Base", "conversion_func": "qwen_scope",
        "saes": [{"id": "layer5", "path": "layer5.sae.pt", "l0": 50}],
    },
    "llama_scope_lxr_8x": {
        "repo_id": "fnlp/Llama3_1-8B-Base-LXR-8x", "model": "meta-llama/Llama-3.1-8B", "conversion_func": "llama_scope",
        "saes": [{"id": "l18r_8x", "path": "Llama3_1-8B-Base-L18R-8x", "norm_scaling_factor": 58.9}],
    },
    "temporal-sae": {
        "repo_id": "me/temporal", "model": "gemma-2-2b", "conversion_func": "temporal", "saes": [{"id": "one", "path": "one"}],
    },
    "clt": {
        "repo_id": "me/clt", "model": "gemma-2-2b", "conversion_func": "mntss_clt_layer_transcoder",
        "saes": [{"id": "layer_0", "path": 0}],
    },
    "of-tomorrow": {
        "repo_id": "me/x", "model": "gpt2", "conversion_func": "hologram", "saes": [{"id": "one", "path": "one"}],
    },
}  # fmt: skip


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package sae_lens that cannot be imported; its directory's file."""
    folder = tmp_path / "site" / "sae_lens"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('cannot import name HookedTransformer')")
    (folder / "pretrained_saes.yaml").write_text(yaml.safe_dump(DIRECTORY))
    monkeypatch.syspath_prepend(str(folder.parent))
    return folder / "pretrained_saes.yaml"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as hub:
        client_of(hub, tmp_path / "cache", monkeypatch)
        yield hub


def push(hub: FakeHub, layout: str, folder: Path) -> str:
    repo, write = LAYOUTS[layout][:2]
    write(folder)
    return hub.push(repo, folder)


def test_a_release_and_an_id_name_a_folder_of_a_repository(hub: FakeHub, package: Path, tmp_path: Path) -> None:
    commit = push(hub, "sae_lens", tmp_path / "repo")
    sae = load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")
    assert hub.fetched() == ["blocks.8.hook_resid_pre/cfg.json", "blocks.8.hook_resid_pre/sae_weights.safetensors"]
    c = sae.config
    assert c.path == f"saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre@{commit}"
    assert (c.format, c.site, c.residual, c.name) == ("sae_lens", "blocks.8.hook_resid_pre", "centred", "blocks.8.hook_resid_pre")
    told = "\n".join(c.assumptions)
    assert f"hub:jbloom/GPT2-Small-SAEs@{commit}:blocks.8.hook_resid_pre: the directory of sae_lens" in told
    assert "model_from_pretrained_kwargs taken as {'center_writing_weights': True}" in told
    hub.forget()
    assert load_sae(c.path).sha256 == sae.sha256
    assert hub.asked == []


def test_overrides_take_the_place_of_what_the_files_say(hub: FakeHub, package: Path, tmp_path: Path) -> None:
    raw = {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
    sae_lens(tmp_path / "a", "blocks.8.hook_resid_pre", **raw)
    hub.push("jbloom/GPT2-Small-SAEs", tmp_path / "a")
    assert load_sae("hub:jbloom/GPT2-Small-SAEs").config.residual == "raw"
    assert load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre").config.residual == "centred"
    sae_lens(tmp_path / "b", "one", normalize_activations="none")
    hub.push("me/rescaled", tmp_path / "b")
    one = load_sae("saelens:rescaled/one").config
    assert one.normalisation == "unit_norm"
    assert any("normalize_activations taken as constant_norm_rescale" in line for line in one.assumptions)


def test_the_factor_is_applied_where_the_files_ask_for_one(hub: FakeHub, package: Path, tmp_path: Path) -> None:
    """As sae_lens folds it in: f(x) of s·x, and the recon divided by s."""
    sae_lens(tmp_path / "repo", "group_blocks.1.hook_mlp_out:v1", normalize_activations="expected_average_only_in")
    sae_lens(tmp_path / "repo", "plain", normalize_activations="none")
    hub.push("me/scaled", tmp_path / "repo")
    sae = load_sae("saelens:scaled/average")
    t, x, s = native_turned(), acts(), 1.75
    latents = ((s * x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    agrees(sae, x, latents, (latents @ t["W_dec"] + t["b_dec"]) / s)
    assert any("acts are multiplied by 1.75 before the encoder: the directory of sae_lens" in a for a in sae.config.assumptions)
    assert not any("expected_average_only_in" in warning for warning in sae.config.warnings)
    assert not any("dataset_path" in line for line in sae.config.assumptions)

    plain = load_sae("saelens:scaled/plain").config
    assert plain.normalisation == "none" and not any("multiplied" in line for line in plain.assumptions)

    own = load_sae("saelens:scaled/average", given={"norm_scale": "3.5"})
    torch.testing.assert_close(own.encode(x / 2).to_dense(), latents)
    assert not any("norm_scaling_factor" in line for line in own.config.assumptions)
    bare = load_sae("hub:me/scaled:group_blocks.1.hook_mlp_out:v1")
    assert bare.config.normalisation == "none" and any("--set norm_scale=X" in warning for warning in bare.config.warnings)
    torch.testing.assert_close(bare.encode(s * x).to_dense(), latents)


@pytest.mark.parametrize(
    ("name", "layout", "model"),
    [
        ("gemma-scope-2b-pt-res-canonical/layer_20/width_16k/canonical", "gemma_scope", "google/gemma-2-2b"),
        ("sae_bench/blocks.3.hook_resid_post__trainer_1", "dictionary_learning", "pythia-70m"),
        ("qwen-scope/layer5", "qwen_scope", "Qwen/Qwen3-8B-Base"),
        ("llama_scope_lxr_8x/l18r_8x", "openmoss_v1", "meta-llama/Llama-3.1-8B"),
    ],
)
def test_other_loaders_are_formats_here(name: str, layout: str, model: str, hub: FakeHub, package: Path, tmp_path: Path) -> None:
    push(hub, layout, tmp_path / "repo")
    repo, _, inside, files, known = LAYOUTS[layout]
    sae = load_sae(f"saelens:{name}")
    assert hub.fetched() == sorted(files)
    assert (sae.config.format, sae.config.site, sae.config.model_id) == (layout, known["site"], model)
    assert sae.sha256 == load_sae(f"hub:{repo}:{inside}").sha256


def test_every_loader_is_known_by_the_format_it_is_here() -> None:
    assert set(FORMAT_OF.values()) <= set(FORMATS.names())
    assert not set(FORMAT_OF) & set(REFUSED)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("saelens:gpt2-small-res-bj/x", "knows no release 'gpt2-small-res-bj'. Did you mean 'gpt2-small-res-jb'?"),
        (
            "saelens:gpt2-small-res-jb/blocks.9.hook_resid_pre",
            "lists no 'blocks.9.hook_resid_pre' in gpt2-small-res-jb. Did you mean",
        ),
        (
            "saelens:gpt2-small-res-jb",
            "has 2 SAEs; name one, as in saelens:gpt2-small-res-jb/blocks.0.hook_resid_pre, or choose with",
        ),
        ("saelens:", "names no release; write saelens:RELEASE/ID"),
        ("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre@../x", "'../x' is not the name of a branch, tag or commit"),
        ("saelens:temporal-sae/one", "cannot be scored: its SAEs work on whole sequences"),
        ("saelens:clt/layer_0", "cannot be scored: it is a layer of a cross-layer transcoder"),
        ("saelens:of-tomorrow/one", "needs sae_lens' loader 'hologram', which has no counterpart here"),
    ],
)
def test_what_cannot_be_had_is_said_before_anything_is_asked(path: str, message: str, hub: FakeHub, package: Path) -> None:
    with pytest.raises(InputError) as refused:
        load_sae(path)
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert hub.asked == []


def test_a_path_of_the_directory_leads_nowhere_else(hub: FakeHub, package: Path) -> None:
    bad = {"repo_id": "me/x", "model": "gpt2", "conversion_func": None, "saes": [{"id": "one", "path": "../../x"}]}
    package.write_text(yaml.safe_dump({"bad": bad}))
    with pytest.raises(InputError, match="not a folder or file inside a repository"):
        load_sae("saelens:bad/one")
    assert hub.asked == []


def test_without_the_package_and_with_a_damaged_one(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch, pytest.raises(InputError) as refused:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        load_sae("saelens:gpt2-small-res-jb/blocks.8.hook_resid_pre")
    assert "pip install 'saebench-harness[saelens]'" in str(refused.value)
    assert "transformer-lens below 4" in str(refused.value) and "hub:OWNER/NAME:FOLDER" in str(refused.value)
    folder = tmp_path / "site" / "sae_lens"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder.parent))
    for content in ("[1, 2]", "a: [", "a: {saes: [{id: 1}]}"):
        (folder / "pretrained_saes.yaml").write_text(content)
        saelens.directory.cache_clear()
        with pytest.raises(InputError, match="is no directory as sae_lens 6 has it") as refused:
            load_sae("saelens:a/b")
        assert "\n" not in str(refused.value)


def test_a_release_is_listed_and_chosen_from(hub: FakeHub, package: Path, tmp_path: Path) -> None:
    names = [f"saelens:gpt2-small-res-jb/blocks.{n}.hook_resid_pre" for n in (0, 8)]
    assert [row["path"] for row in list_saes("saelens:gpt2-small-res-jb")] == names
    shown = json.loads(CliRunner().invoke(cli, ["inspect", "saelens:gpt2-small-res-jb", "--select", "*.8.*", "--json"]).stdout)
    assert [row["path"] for row in shown] == names[1:]
    with pytest.raises(InputError, match="fits none of the 2 SAEs of gpt2-small-res-jb"):
        list_saes("saelens:gpt2-small-res-jb", "*.9.*")
    assert hub.asked == []
    commit = push(hub, "sae_lens", tmp_path / "repo")
    config = make_config(saes=("saelens:gpt2-small-res-jb",), select="*", tasks=("core",), out=tmp_path / "out")
    items = make_plan(config).items
    assert [item.sae.config.path for item in items] == [f"{name}@{commit}" for name in names]
    hub.forget()
    assert [item.sae.load().sha256 for item in items] == [item.sae.sha256 for item in items]
    assert hub.asked == []

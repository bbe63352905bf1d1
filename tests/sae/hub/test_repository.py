"""SAEs from a hub: the hub's real client against a server on this machine that counts what it sends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from saebench.cli import cli
from saebench.config import make_config
from saebench.errors import InputError
from saebench.plan import make_plan
from saebench.sae import load_sae
from saebench.sae.find import find_all
from saebench.sae.hub.repository import parse
from saebench.sae.inspect import inspect_sae, list_saes
from saebench.sae.source import Source
from tests.sae.hub.fake_hub import FakeHub, client_of, serving
from tests.sae.hub.repositories import LAYOUTS, sae_lens, sae_lens_repo, sparsify_repo

GPT2 = "jbloom/GPT2-Small-SAEs"
LAYER_8 = "blocks.8.hook_resid_pre"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serving() as hub:
        client_of(hub, cache, monkeypatch)
        yield hub


@pytest.fixture
def gpt2(hub: FakeHub, tmp_path: Path) -> str:
    """A repository of two SAEs of sae_lens; its commit."""
    sae_lens_repo(tmp_path / "gpt2")
    return hub.push(GPT2, tmp_path / "gpt2")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_files_of_the_sae_are_fetched(layout: str, hub: FakeHub, tmp_path: Path) -> None:
    repo, write, inside, files, known = LAYOUTS[layout]
    write(tmp_path / "repo")
    commit = hub.push(repo, tmp_path / "repo")
    sae = load_sae(f"hub:{repo}:{inside}" if inside else f"hub:{repo}")
    assert hub.fetched() == sorted(files)
    assert sae.config.path == f"hub:{repo}@{commit}" + (f":{inside}" if inside else "")
    for key, value in ({"format": layout} | known).items():
        assert getattr(sae.config, key) == value, key
    alone = tmp_path / "alone" / repo.split("/")[1]
    write(alone)
    assert sae.sha256 == load_sae(alone / inside, given={"k": "50"} if layout == "qwen_scope" else None).sha256


def test_the_second_use_fetches_nothing_and_needs_no_network(hub: FakeHub, gpt2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_sae(f"hub:{GPT2}:{LAYER_8}")
    hub.forget()
    assert load_sae(f"hub:{GPT2}:{LAYER_8}").sha256 == first.sha256
    assert hub.asked == [("GET", f"/api/models/{GPT2}")]
    offline(monkeypatch)
    hub.forget()
    again = load_sae(f"hub:{GPT2}:{LAYER_8}")
    assert (again.sha256, again.config.path, hub.asked) == (first.sha256, first.config.path, [])
    assert any("HF_HUB_OFFLINE" in warning and gpt2[:8] in warning for warning in again.config.warnings)
    pinned = load_sae(first.config.path)
    assert pinned.sha256 == first.sha256 and not any("OFFLINE" in warning for warning in pinned.config.warnings)
    with pytest.raises(InputError, match=r"no folder or file 'blocks.0.hook_resid_pre'.*in the cache: blocks.8"):
        load_sae(f"hub:{GPT2}:blocks.0.hook_resid_pre")
    with pytest.raises(
        InputError, match=r"someone/else at main is not in the cache.*nothing of it is there: unset HF_HUB_OFFLINE once"
    ):
        load_sae("hub:someone/else")
    with pytest.raises(InputError, match=f"the cache holds only {gpt2}"):
        load_sae(f"hub:{GPT2}@v2:{LAYER_8}")


def test_a_plan_stays_at_the_commit_it_found(hub: FakeHub, gpt2: str, tmp_path: Path) -> None:
    config = make_config(saes=(f"hub:{GPT2}:{LAYER_8}",), tasks=("core",), out=tmp_path / "out")
    [item] = make_plan(config).items
    sae_lens(tmp_path / "newer", LAYER_8, seed=99)
    newer = hub.push(GPT2, tmp_path / "newer")
    hub.forget()
    again = item.sae.load()
    assert again.sha256 == item.sae.sha256
    assert again.config.path == item.sae.config.path == f"hub:{GPT2}@{gpt2}:{LAYER_8}"
    assert hub.asked == []
    moved = load_sae(f"hub:{GPT2}:{LAYER_8}")
    assert moved.sha256 != again.sha256 and moved.config.path == f"hub:{GPT2}@{newer}:{LAYER_8}"


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: FakeHub, gpt2: str, tmp_path: Path) -> None:
    sae_lens(tmp_path / "other", LAYER_8, seed=99)
    other = hub.push(GPT2, tmp_path / "other", branch="refs/pr/1")
    assert load_sae(f"hub:{GPT2}@refs/pr/1:{LAYER_8}").config.path == f"hub:{GPT2}@{other}:{LAYER_8}"
    assert load_sae(f"hub:{GPT2}@{gpt2}:{LAYER_8}").config.path == f"hub:{GPT2}@{gpt2}:{LAYER_8}"


def test_of_several_one_has_to_be_chosen(hub: FakeHub, gpt2: str, tmp_path: Path) -> None:
    choices = "hub:jbloom/GPT2-Small-SAEs holds 2 SAEs; name one, as in hub:.*:blocks.0.*--select GLOB: blocks.0.*, blocks.8"
    for ask in (load_sae, inspect_sae, find_all):
        with pytest.raises(InputError, match=choices):
            ask(f"hub:{GPT2}")
    assert [row["path"] for row in list_saes(f"hub:{GPT2}")] == [f"hub:{GPT2}@{gpt2}:blocks.{n}.hook_resid_pre" for n in (0, 8)]
    assert [row["path"] for row in list_saes(f"hub:{GPT2}", "*.8.*")] == [f"hub:{GPT2}@{gpt2}:{LAYER_8}"]
    with pytest.raises(InputError, match=r"--select '\*.5.\*' fits none of the 2 SAEs in hub:.*; there are blocks.0"):
        list_saes(f"hub:{GPT2}", "*.5.*")
    assert hub.fetched() == []
    assert [found.path for found in find_all(f"hub:{GPT2}", "*.8.*")] == [f"hub:{GPT2}@{gpt2}:{LAYER_8}"]
    assert len(find_all(f"hub:{GPT2}", "*")) == 2
    config = make_config(saes=(f"hub:{GPT2}",), select="*.8.*", tasks=("core",), out=tmp_path / "out")
    assert [item.sae.config.path for item in make_plan(config).items] == [f"hub:{GPT2}@{gpt2}:{LAYER_8}"]


def test_listing_leaves_the_cache_as_it_is(hub: FakeHub, gpt2: str, cache: Path, tmp_path: Path) -> None:
    """Else a branch would point to a commit of which nothing is there, and what is there could not be used without a network."""
    load_sae(f"hub:{GPT2}:{LAYER_8}")
    before = {one: one.read_bytes() for one in cache.rglob("*") if one.is_file()}
    sae_lens(tmp_path / "newer", LAYER_8, seed=99)
    hub.push(GPT2, tmp_path / "newer")
    list_saes(f"hub:{GPT2}")
    assert {one: one.read_bytes() for one in cache.rglob("*") if one.is_file()} == before


def test_a_folder_of_a_repository_with_one_sae_below_is_that_sae(hub: FakeHub, tmp_path: Path) -> None:
    sae_lens(tmp_path / "repo", "a/b/blocks.3.hook_resid_pre")
    sae_lens(tmp_path / "repo", "c/blocks.4.hook_resid_pre")
    hub.push(GPT2, tmp_path / "repo")
    assert load_sae(f"hub:{GPT2}:a/").config.site == "blocks.3.hook_resid_pre"
    named = load_sae(f"hub:{GPT2}:a/b/blocks.3.hook_resid_pre/sae_weights.safetensors")
    assert named.config.site == "blocks.3.hook_resid_pre" and named.config.path.endswith("/sae_weights.safetensors")


def test_inspect_and_run_on_the_command_line(hub: FakeHub, gpt2: str, tmp_path: Path) -> None:
    listed = CliRunner().invoke(cli, ["inspect", f"hub:{GPT2}", "--json"])
    assert [row["path"] for row in json.loads(listed.stdout)] == [f"hub:{GPT2}@{gpt2}:blocks.{n}.hook_resid_pre" for n in (0, 8)]
    assert hub.fetched() == []
    one = json.loads(CliRunner().invoke(cli, ["inspect", f"hub:{GPT2}:{LAYER_8}", "--json"]).stdout)
    assert (one["path"], one["format"]) == (f"hub:{GPT2}@{gpt2}:{LAYER_8}", "sae_lens")
    assert one["tensors"]["W_enc"] == [12, 40] and len(one["sha256"]) == 64
    dry = ["run", "--sae", f"hub:{GPT2}:{LAYER_8}", "--task", "core", "--dry-run", "--json", "--out", str(tmp_path)]
    [row] = json.loads(CliRunner().invoke(cli, dry).stdout)
    assert (row["sae"], row["site"], row["state"]) == (LAYER_8, LAYER_8, "to do")


@pytest.mark.parametrize(
    "address",
    [
        "hub:", "hub:/etc/passwd", "hub:../../x", "hub:a/../b", "hub:a/b/c", "hub:a--b/c", "hub:~/x", "hub:a\\b", "hub:a/b\n",
        "hub:a/b@", "hub:a/b@../x", "hub:a/b@/x", "hub:a/b@x/../y", "hub:a/b@x\\y", "hub:a/b@~", "hub:a/b@x\x00", "hub:a/b@.x",
        "hub:a/b:..", "hub:a/b:x/../../y", "hub:a/b:/etc/passwd", "hub:a/b:x\\y", "hub:a/b:~/x", "hub:a/b:x\x1b[0m",
        "hub:a/b:x//y", "hub:a/b:./x",
    ],
)  # fmt: skip
def test_what_would_lead_elsewhere_is_refused_before_anything_is_asked(address: str, hub: FakeHub) -> None:
    with pytest.raises(InputError) as refused:
        load_sae(address)
    assert "\n" not in str(refused.value) and "\x1b" not in str(refused.value)
    assert hub.asked == []


def test_an_address_is_read_as_it_is_written() -> None:
    one = parse("hub:tommmcgrath/saes@refs/pr/2:sae_group_blocks.0.hook_mlp_out_24576:v1/")
    assert (one.repo, one.revision, one.inside) == ("tommmcgrath/saes", "refs/pr/2", "sae_group_blocks.0.hook_mlp_out_24576:v1")
    assert parse("hub:gpt2").text == "hub:gpt2"
    assert parse("hub:a/b:c@d").inside == "c@d"


def test_what_is_not_there_is_said(hub: FakeHub, gpt2: str, tmp_path: Path) -> None:
    for path, message in {
        "hub:someone/else": "shows no repository someone/else; check the name, or set HF_TOKEN",
        f"hub:{GPT2}@v7": "has no revision 'v7'",
        f"hub:{GPT2}:blocks.8.hook_resid_pos": "no folder or file 'blocks.8.hook_resid_pos'. Did you mean 'blocks.8.",
        f"hub:{GPT2}:README.md": "README.md is no file of weights",
        f"hub:{GPT2}:{LAYER_8}/sparsity.safetensors": "holds a state of training or activations, no SAE",
    }.items():
        with pytest.raises(InputError) as refused:
            load_sae(path)
        assert message in str(refused.value) and "\n" not in str(refused.value)
    hub.push("some/model", {"config.json": b"{}", "README.md": b""})
    with pytest.raises(InputError, match="has no file of weights that an SAE could be in"):
        load_sae("hub:some/model")
    assert hub.fetched() == []


def test_what_the_hub_refuses_is_one_line_that_says_what_to_do(hub: FakeHub, gpt2: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal() -> str:
        with pytest.raises(InputError) as refused:
            load_sae(f"hub:{GPT2}:{LAYER_8}")
        assert "\n" not in str(refused.value)
        return str(refused.value)

    hub.token = "letmein"
    assert f"{GPT2} is gated: accept its terms at {hub.url}/{GPT2}, then set HF_TOKEN" in refusal()
    for answer, told in {
        (401, "Invalid credentials in Authorization header"): "refuses to give .* (401); set HF_TOKEN",
        (403, ""): "refuses to give .* (403); set HF_TOKEN",
        (429, ""): "limits requests (429); wait some minutes, or set HF_TOKEN",
        (503, ""): "answers 503 for .* try again later",
    }.items():
        hub.refuse = (answer[0], {"X-Error-Message": answer[1]})
        first, _, second = told.partition(".* ")
        assert first in (line := refusal()) and second in line
    hub.refuse = None
    monkeypatch.setenv("HF_TOKEN", "letmein")
    assert load_sae(f"hub:{GPT2}:{LAYER_8}").config.site == LAYER_8


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as hub:
        client_of(hub, cache, monkeypatch)
    with pytest.raises(InputError) as refused:
        load_sae("hub:someone/else")
    line = str(refused.value)
    assert line.startswith(f"cannot get someone/else from {hub.url}") and "\n" not in line
    assert "HF_ENDPOINT" in line and "HF_HUB_OFFLINE=1" in line


def test_links_lead_nowhere_but_to_the_repositorys_own_cache(hub: FakeHub, gpt2: str, cache: Path, tmp_path: Path) -> None:
    sae = load_sae(f"hub:{GPT2}:{LAYER_8}")
    folder = cache / "models--jbloom--GPT2-Small-SAEs" / "snapshots" / gpt2 / LAYER_8
    weights = folder / "sae_weights.safetensors"
    assert weights.is_symlink()
    local = load_sae(folder)
    assert (local.sha256, local.config.name) == (sae.sha256, LAYER_8)
    assert Source(folder).words == (GPT2, LAYER_8)
    elsewhere = {"outside": tmp_path / "outside", "other": cache / "models--other--repo" / "blobs" / "x", "cache": cache / "x"}
    for target in elsewhere.values():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(weights.read_bytes())
        weights.unlink()
        weights.symlink_to(target)
        for path in (f"hub:{GPT2}:{LAYER_8}", folder):
            with pytest.raises(InputError, match="is a link that leads out of"):
                load_sae(path)


def test_links_may_lead_to_the_store_that_all_repositories_share(hub: FakeHub, gpt2: str, cache: Path) -> None:
    sae = load_sae(f"hub:{GPT2}:{LAYER_8}")
    weights = cache / "models--jbloom--GPT2-Small-SAEs" / "snapshots" / gpt2 / LAYER_8 / "sae_weights.safetensors"
    blob, shared = weights.resolve(), cache / "blobs" / "ab" / "abcd"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    with pytest.raises(InputError, match="is a link that leads out of"):  # a folder that only looks like the store
        load_sae(sae.config.path)
    (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    assert load_sae(sae.config.path).sha256 == sae.sha256


def test_names_that_would_leave_the_cache_are_not_taken_from_a_hub(hub: FakeHub) -> None:
    hub.push("evil/repo", {"../../../x/sae_weights.safetensors": b"", "/y/ae.pt": b"", "a\\b/ae.pt": b""})
    with pytest.raises(InputError, match="no file of weights"):
        load_sae("hub:evil/repo")
    assert hub.fetched() == []


def test_the_environment_of_the_hubs_client_is_heeded(tmp_path: Path) -> None:
    """In a process of its own: HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are read when the client is imported."""
    sparsify_repo(tmp_path / "repo")
    hidden = {"HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    env |= {"HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    with serving() as hub:
        commit = hub.push("me/saes", tmp_path / "repo")
        command = [sys.executable, "-m", "saebench", "inspect", "hub:me/saes:layers.5", "--json"]
        env["HF_ENDPOINT"] = hub.url
        online = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert online.returncode == 0, online.stderr[-2000:]
        assert hub.fetched() == ["config.json", "layers.5/cfg.json", "layers.5/sae.safetensors"]
    without = subprocess.run(command, env=env | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=600)
    assert without.returncode == 0, without.stderr[-2000:]
    first, second = json.loads(online.stdout), json.loads(without.stdout)
    assert first["path"] == second["path"] == f"hub:me/saes@{commit}:layers.5"
    assert first["sha256"] == second["sha256"]
